"""The Residual Unit: y_l = h(x_l) + F(x_l, W_l), x_{l+1} = f(y_l) (eqs. 1 and 2). It is written here, once.

A unit is a function of its input and of an `environment.Environment`, which says what an operation is.
"""

from keras_preact.network.environment import Operations, Signal, UnitEnvironment
from keras_preact.network.shortcuts import match_shape
from keras_preact.network.unit_spec import UnitSpec


def residual_unit(env: UnitEnvironment[Signal], x: Signal, unit: UnitSpec) -> Signal:
    """Applies one unit to x_l, of shape (batch, height, width, unit.in_width), and returns x_{l+1} (eqs. 1 and 2)."""
    shortcut, branch = paths(env, x, unit)
    return after_addition(env, branch if shortcut is None else env.add(shortcut, branch, "add"), unit)


def paths(env: UnitEnvironment[Signal], x: Signal, unit: UnitSpec) -> tuple[Signal | None, Signal]:
    """Returns the two terms of eq. (1), h(x_l) and F(x_l), in the shape of x_{l+1}; a plain network's h is None."""
    lead = "" if unit.drops_lead else unit.places.lead
    if unit.activates_before_split:
        x, lead = activate(env, x, lead, "1"), ""
    branch = residual_branch(env, x, unit, lead)
    h = unit.shortcut.row
    if h.function is None:
        return None, branch
    shortcut, branch = h.function(env, match_shape(env, x, unit), branch, unit)
    if unit.has_stochastic_depth:
        branch = env.stochastic_depth(branch, "stochastic_depth", unit.drop_rate)
    return shortcut, branch


def after_addition(env: UnitEnvironment[Signal], y: Signal, unit: UnitSpec) -> Signal:
    """Returns x_{l+1} = f(y_l), eq. (2)."""
    return activate(env, y, unit.places.after_addition, "_after_addition")


def residual_branch(env: UnitEnvironment[Signal], x: Signal, unit: UnitSpec, lead: str) -> Signal:
    """Returns F(x): the unit's convolutions, BN-ReLU between any two, `lead` before and the ordering's tail after."""
    x = activate(env, x, lead, "1")
    place = 1 + bool(unit.places.lead)
    for number, conv in enumerate(unit.convs, start=1):
        x = env.conv(x, f"conv{number}", conv)
        is_last = number == len(unit.convs)
        x = activate(env, x, unit.places.tail if is_last else "BR", str(place))
        place += 1
    return x


def lead_name(unit: UnitSpec) -> str | None:
    """Returns the name of the last operation before the unit's first convolution; None if nothing stands there."""
    return {"": None, "B": "bn1", "R": "relu1"}[unit.places.lead[-1:]]


def activate(env: Operations[Signal], x: Signal, letters: str, place: str) -> Signal:
    """Applies what `letters` says in turn, B for batch normalisation, R for ReLU; `place` ends their names."""
    for letter in letters:
        x = env.batch_norm(x, f"bn{place}") if letter == "B" else env.relu(x, f"relu{place}")
    return x
