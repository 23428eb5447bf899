"""h, the shortcut: one row a panel of Fig. 2, with its function and its parameters; how h comes to the shape of F.

A row's function maps (shortcut, branch) to (shortcut, branch); both come in with the same shape. The gates read the
shortcut as it comes, C_out -> C_out channels; the paper does not say what they read where the shape changes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_preact.errors import argument_error, check_choice, check_number, from_fields
from keras_preact.network.environment import ConvSpec, Signal, UnitEnvironment

if TYPE_CHECKING:
    from keras_preact.network.unit_spec import UnitSpec

OWN = "One of your own is known once the file that registers it has been imported."


def match_shape(env: UnitEnvironment[Signal], x: Signal, unit: UnitSpec) -> Signal:
    """Returns the shortcut in the shape of F's output: x itself, projected, or subsampled and padded with zeros."""
    if unit.projects:
        return shortcut_conv(env, x, unit)
    if unit.changes_shape:
        return env.zero_pad(x, "shortcut_pad", unit.out_width, unit.strides)
    return x


def shortcut_conv(env: UnitEnvironment[Signal], x: Signal, unit: UnitSpec) -> Signal:
    """Returns a 1x1 convolution of the shortcut, with BN where the unit's spec asks for one."""
    x = env.conv(x, "shortcut_conv", unit.projection)
    return env.batch_norm(x, "shortcut_bn") if unit.shortcut_norm else x


def identity(env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec) -> tuple[Signal, Signal]:
    """Fig. 2(a): h(x) = x."""
    return shortcut, branch


def constant_scaling(
    env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec
) -> tuple[Signal, Signal]:
    """Fig. 2(b), eq. (6): h(x) = lambda x, and F times `branch_scale`."""
    shortcut = env.affine(shortcut, "shortcut_scale", unit.shortcut.parameters["scale"], 0.0)
    return shortcut, env.affine(branch, "branch_scale", unit.shortcut.parameters["branch_scale"], 0.0)


def exclusive_gating(
    env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec
) -> tuple[Signal, Signal]:
    """Fig. 2(c): (1 - g(x)) x and g(x) F, with g(x) = sigmoid(W_g x + b_g), element by element."""
    gate = _gate(env, shortcut, unit)
    branch = env.multiply(branch, gate, "branch_gated")
    return env.multiply(shortcut, _complement(env, gate), "shortcut_gated"), branch


def shortcut_only_gating(
    env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec
) -> tuple[Signal, Signal]:
    """Fig. 2(d): (1 - g(x)) x, and F as it is."""
    return env.multiply(shortcut, _complement(env, _gate(env, shortcut, unit)), "shortcut_gated"), branch


def conv1x1(env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec) -> tuple[Signal, Signal]:
    """Fig. 2(e): h(x) = W_s x. Where the shape changes, the projection that matches it is this convolution."""
    return shortcut if unit.projects else shortcut_conv(env, shortcut, unit), branch


def dropout(env: UnitEnvironment[Signal], shortcut: Signal, branch: Signal, unit: UnitSpec) -> tuple[Signal, Signal]:
    """Fig. 2(f): dropout on the output of the identity shortcut."""
    return env.dropout(shortcut, "shortcut_dropout", unit.shortcut.parameters["rate"]), branch


def _gate(env, x, unit):
    conv = ConvSpec(unit.out_width, kernel=1, bias=unit.shortcut.gate_bias)
    return env.sigmoid(env.conv(x, "gate_conv", conv), "gate")


def _complement(env, gate):
    return env.affine(gate, "gate_complement", -1.0, 1.0)


@dataclass(frozen=True)
class ShortcutParameter:
    """Describes a shortcut's parameter: the value that stands if it is left out, and the range of those allowed."""

    default: float
    low: float = -math.inf
    high: float = math.inf
    below_high: bool = False

    def checked(self, name: str, value: float | None) -> float:
        """Returns `value` as a `float`, or the default for None; a `ValueError` if it is not finite or out of range."""
        return self.default if value is None else check_number(name, value, self.low, self.high, self.below_high)


@dataclass(frozen=True)
class Shortcut:
    """Describes a shortcut: one row of `SHORTCUTS`.

    Attributes:
        function: (env, shortcut, branch, unit) to (shortcut, branch), with a `UnitEnvironment`, its signals, and the
            `UnitSpec`, whose `shortcut` holds the parameters. None for a plain network, in which F stands alone.
        parameters: A `ShortcutParameter` for each parameter, by name.
        alters: Maps a `UnitSpec` to the reason why such a unit does not compute the identity where F is 0; "" if it
            does. `deepen` asks for it.
        projects: Whether h is a 1x1 convolution in every unit, whatever `widening` says.
        fields: The class of its specs, if it has parameters that `ShortcutSpec` has no fields for.
    """

    function: Callable[..., tuple[Any, Any]] | None
    parameters: Mapping[str, ShortcutParameter] = field(default_factory=dict)
    alters: Callable[[UnitSpec], str] = lambda unit: ""
    projects: bool = False
    fields: type | None = None

    @property
    def is_plain(self) -> bool:
        """True if there is no shortcut."""
        return self.function is None


def _scaled(unit):
    return "" if unit.shortcut.scale == 1 else f"The shortcut is multiplied by {unit.shortcut.scale:g}."


def _normed(unit):
    why = "A BN follows the 1x1 convolution on the shortcut, and changes what it carries."
    return why if unit.shortcut_norm else ""


def _gated(unit):
    return "A gate multiplies the shortcut by 1 - g(x), which is below 1."


def _plain(unit):
    return "A plain network has no unit that computes the identity: that is the degradation problem."


# The parameters stand at the paper's values (Table 1).
_GATE = {"gate_bias": ShortcutParameter(-6.0)}
SHORTCUTS = {
    "identity": Shortcut(identity),  # Fig. 2(a)
    "constant_scaling": Shortcut(  # Fig. 2(b)
        constant_scaling, {"scale": ShortcutParameter(0.5), "branch_scale": ShortcutParameter(0.5)}, _scaled
    ),
    "exclusive_gating": Shortcut(exclusive_gating, _GATE, _gated),  # Fig. 2(c)
    "shortcut_only_gating": Shortcut(shortcut_only_gating, _GATE, _gated),  # Fig. 2(d)
    "conv1x1": Shortcut(conv1x1, alters=_normed, projects=True),  # Fig. 2(e)
    "dropout": Shortcut(dropout, {"rate": ShortcutParameter(0.5, 0.0, 1.0, below_high=True)}),  # Fig. 2(f)
    "none": Shortcut(None, alters=_plain),  # a plain network, for the degradation problem of [1]
}


class _Defaults(Mapping[str, Mapping[str, float]]):
    """The default of every shortcut's parameters, {shortcut: {parameter: default}}, as `SHORTCUTS` has them now."""

    def __getitem__(self, name):
        return {parameter: row.default for parameter, row in SHORTCUTS[name].parameters.items()}

    def __iter__(self):
        return iter(SHORTCUTS)

    def __len__(self):
        return len(SHORTCUTS)

    def __repr__(self):
        return repr(dict(self))


SHORTCUT_PARAMETERS = _Defaults()


@dataclass(frozen=True)
class ShortcutSpec:
    """Describes h, the shortcut of every unit (Fig. 2), with its parameters; those left out get the paper's value.

    A shortcut of your own (`keras_preact.register_shortcut`) takes its own parameters here as well.

    Args:
        name: A key of `SHORTCUT_PARAMETERS`. `"none"` is a plain network: F alone.
        scale: `constant_scaling` only: lambda, the factor on the shortcut (eq. 6).
        branch_scale: `constant_scaling` only: the factor on F.
        gate_bias: Gating only: b_g, the initial bias of g(x) = sigmoid(W_g x + b_g).
        rate: `dropout` only: the share of shortcut elements set to zero in training. This is inverted dropout: the
            elements that stay are multiplied by 1 / (1 - rate), so the mean factor is 1 and inference is the identity.
            The paper speaks of an expected factor of 1 - rate, that is, of dropout without this rescaling.

    Raises:
        ValueError: If `name` is unknown, a parameter does not belong to it, or a value is not finite or out of range.
    """

    name: str = "identity"
    scale: float | None = None
    branch_scale: float | None = None
    gate_bias: float | None = None
    rate: float | None = None

    def __new__(cls, name: str = "identity", *parameters: float | None, **named: float | None) -> ShortcutSpec:
        return object.__new__(cls._fields_of(name) if cls is ShortcutSpec else cls)

    def __post_init__(self) -> None:
        check_choice("shortcut", self.name, SHORTCUTS, OWN)
        takes = self.row.parameters
        for parameter in [known.name for known in dataclasses.fields(self)[1:]]:
            value = getattr(self, parameter)
            if parameter in takes:
                object.__setattr__(self, parameter, takes[parameter].checked(parameter, value))
            elif value is not None:
                allowed = f"left out: the shortcut {self.name!r} takes {', '.join(takes) or 'no parameters'}"
                raise argument_error(parameter, allowed, value)

    @property
    def row(self) -> Shortcut:
        """The row of `SHORTCUTS`."""
        return SHORTCUTS[self.name]

    @property
    def parameters(self) -> dict[str, float]:
        """The values of the parameters that it takes, by name."""
        return {name: getattr(self, name) for name in self.row.parameters}

    def to_dict(self) -> dict[str, str | float]:
        """Returns the name, and the parameters that it takes: `ShortcutSpec.of` is its inverse."""
        return {"name": self.name, **self.parameters}

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | ShortcutSpec) -> ShortcutSpec:
        """Returns the `ShortcutSpec` that `value` means: itself, a name, or a dict of its fields."""
        if isinstance(value, ShortcutSpec):
            return value
        if isinstance(value, Mapping):
            name = check_choice("shortcut", value.get("name", "identity"), SHORTCUTS, OWN)
            return from_fields(cls._fields_of(name), value)
        return cls(value)

    @classmethod
    def _fields_of(cls, name):
        """Returns the class with the fields of the shortcut called `name`; this one if there is none of that name."""
        row = SHORTCUTS.get(name) if isinstance(name, str) else None
        return cls if row is None or row.fields is None else row.fields
