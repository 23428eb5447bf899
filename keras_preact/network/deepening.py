"""A deeper network made of a trained one: new units are identities, or share what their neighbour adds.

With identity shortcuts a unit whose F is zero computes x_{l+1} = x_l, so a deeper network that holds a shallower one
exists (He et al. 2015, section 1). Chang et al. 2018 (arXiv 1710.10348) train networks by such steps.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_preact.errors import argument_error, check_choice, check_integers
from keras_preact.network.claims import as_far_as
from keras_preact.network.copies import compile_alike
from keras_preact.network.families import units_of_depth
from keras_preact.network.loaded import Loaded
from keras_preact.network.model import ResidualNetwork, check_network
from keras_preact.network.named_weights import assign, copy_trainable, divide_averages, named_weights, value_at
from keras_preact.network.shapes import unit_operations, weights_of
from keras_preact.network.spec import NetworkSpec

PLACES = ("end", "spread")
BRANCHES = ("zero", "copy")
TINY = 1e-12  # lost beside any signal, even after a thousand units
IMAGES = 4  # on which the difference of copied units is measured


def deepen(
    model: ResidualNetwork,
    depth: int | None = None,
    *,
    units: Sequence[int] | None = None,
    place: Literal["end", "spread"] = "end",
    branch: Literal["zero", "copy"] = "zero",
) -> ResidualNetwork:
    """Returns a deeper network that holds a network's weights, and further units in each stage.

    With `branch="zero"` it computes the same function, to the bit but for rounding: F of each new unit ends in zeros,
    its last convolution or, where F ends in a BN (Fig. 4(a), (c), (d)), that BN's gamma and beta. All else of a new
    unit starts at random. In the first step only what ends F has a gradient, in the next ones the rest.

    Args:
        model: A network of this package, in either layout. It stays as it is.
        depth: Weight layers of the result, whose stages grow alike. For other units per stage, leave it out and pass
            `units`.
        units: Units of each stage, at least the model's.
        place: Where new units stand in a stage: `"end"`, after all others, or `"spread"` evenly.
        branch: `"zero"`, or `"copy"`: a new unit is a copy of the one before it, and of the n units that then are
            alike each adds 1/n of what the one added (Chang et al. 2018). That is nearly the same function;
            `loaded` of the result states the difference measured.

    Returns:
        A new `ResidualNetwork`, compiled as the model is, with the optimizer's state: zeros for what is new. `loaded`
        says what is new, and `card` is the model's: of the weights that it began with. `model` itself if nothing grows.

    Raises:
        ValueError: If an argument is not allowed, or no unit of this kind computes the identity: the message says why.
    """
    check_network(model)
    check_choice("place", place, PLACES)
    check_choice("branch", branch, BRANCHES)
    old = model.spec
    check_identity(old)
    _check_layers(model)
    new = _deeper(old, _units(old, depth, units))
    if new == old:
        return model
    held = len(as_far_as(old, model.features).units)
    branches = [branch] * held + ["zero"] * (len(old.units) - held)  # what a backbone has not needs no unit to copy
    plan = [_plan(ours, theirs, place, each) for ours, theirs, each in zip(old.stages, new.stages, branches)]
    name = f"resnet{new.depth}" if model.name == f"resnet{old.depth}" else model.name
    other = ResidualNetwork.from_config({**model.construction(), "spec": new.to_dict(), "name": name})
    origins = _origins(other, plan)
    shared = _copy_weights(model, other, plan, branch)
    operations = {_operation(ours): theirs and _operation(theirs) for ours, theirs in origins.items()}
    copy_trainable(model, other, origins=operations)
    other.card, other.loaded = model.card, _report(model, other, origins, place, branch)
    compile_alike(model, other, origins=origins)
    divide_averages(other, shared)
    return other


def check_identity(spec: NetworkSpec) -> None:
    """Raises a `ValueError` that says why if no unit of a `NetworkSpec` computes the identity."""
    unit = spec.stages[0][-1]
    if why := unit.shortcut.row.alters(unit):
        raise argument_error("shortcut", "the identity in the network to deepen", unit.shortcut.name, why)
    if "B" in unit.places.after_addition:
        why = "A BN follows the addition (Fig. 4(b)), and changes what the shortcut carries."
        raise argument_error("ordering", "one that leaves the sum to the shortcut", spec.ordering, why)


def _check_layers(model):
    """Raises a `ValueError` if layers were changed by more than freezing: which new units share that is not known."""
    for name, changes in model.get_config().get("changed_layers", {}).items():
        if left := changes.keys() - {"trainable"}:
            hint = "Deepen the network first, then change its layers."
            raise argument_error("model", f"one whose {name} has no {min(left)} of its own", model.name, hint)


def _units(spec, depth, units):
    """Returns the units of each stage that `depth` or `units` ask for, checked."""
    if (depth is None) == (units is None):
        raise argument_error("depth", "given, or `units`, not both", depth)
    chosen = check_integers("units", units) if depth is None else units_of_depth(spec, depth)
    if len(chosen) != len(spec.units) or any(ours < theirs for ours, theirs in zip(chosen, spec.units)):
        name, received = ("units", units) if depth is None else ("depth", depth)
        expected = f"at least {spec.units}, one number for each stage" if depth is None else f"at least {spec.depth}"
        raise argument_error(name, expected, received)
    return chosen


def _deeper(spec, units):
    if isinstance(spec.stochastic_depth, tuple) and units != spec.units:
        hint = "Build the network with one number, which grows from unit to unit."
        raise argument_error("stochastic_depth", "one number in the network to deepen", "one for each unit", hint)
    return spec.replace(units=units)


def _plan(old, new, place, branch):
    """Returns where each unit of a new stage comes from.

    Args:
        old: The `UnitSpec`s of the trained stage.
        new: Those of the deeper one.
        place: As in `deepen`.
        branch: As in `deepen`.

    Returns:
        A list of (new unit, old unit that it is or follows, its number among the units that follow it: 0 for itself).
    """
    extra = len(new) - len(old)
    alike = [number for number, unit in enumerate(old) if unit == new[-1]]
    if extra and branch == "copy" and not alike:
        hint = 'Its only unit changes the shape, or is the first of all. Use branch="zero".'
        raise argument_error("branch", f'"zero" where a stage ({old[0].name}) has no unit to copy', branch, hint)
    hosts = alike or [len(old) - 1]
    hosts = hosts if place == "spread" else hosts[-1:]
    shares = [(k + 1) * extra // len(hosts) - k * extra // len(hosts) for k in range(len(hosts))]
    follow = dict(zip(hosts, shares))
    sources = [(unit, copy) for number, unit in enumerate(old) for copy in range(1 + follow.get(number, 0))]
    return [(ours, theirs, copy) for ours, (theirs, copy) in zip(new, sources, strict=True)]


def _names(unit):
    """Returns the names of a unit's weights, without its own."""
    return list(weights_of(unit_operations(unit)))


def _origins(network, plan):
    """Returns for every weight of a deepened network the name that it had before, or None if it is new."""
    origins: dict[str, str | None] = {name: name for name in named_weights(network)}
    for ours, theirs, copy in itertools.chain(*plan):
        names = (name for name in _names(ours) if f"{ours.name}_{name}" in origins)  # not all of a backbone's
        origins |= {f"{ours.name}_{name}": None if copy else f"{theirs.name}_{name}" for name in names}
    return origins


def _operation(name):
    return name.rpartition("/")[0]


def _copy_weights(source, target, plan, branch):
    """Sets the weights of a deepened network; returns by how much those of old units were divided."""
    divided = {}
    theirs, ours = named_weights(source), named_weights(target)
    old = {name: value_at(place) for name, place in theirs.items()}
    values: dict[str, Any] = {name: old.get(name) for name in ours}
    for stage in plan:
        alike = {unit.name: 1 + max(copy for _, other, copy in stage if other is unit) for _, unit, _ in stage}
        for unit, origin, copy in stage:
            for name in _names(unit):
                place, value = f"{unit.name}_{name}", old.get(f"{origin.name}_{name}")
                if place not in ours:  # a backbone ends with the last of its features
                    continue
                if copy and (branch == "zero" or name.startswith("shortcut_")):  # W_s x is projected already
                    value = _fresh(unit, name, value_at(ours[place]))
                elif branch == "copy" and alike[origin.name] > 1:
                    count = alike[origin.name] if name in _ends(unit) else 1
                    value = _divided(value, count)
                    if not copy:
                        divided[place] = count
                values[place] = value
    assign(ours, values.__getitem__)
    return divided


def _ends(unit):
    """Returns the names of the weights that a unit's F ends in, by which all that it adds is multiplied."""
    if "B" in unit.places.tail:
        bn = f"bn{len(unit.convs) + bool(unit.places.lead)}"
        return f"{bn}/gamma", f"{bn}/beta"
    return f"conv{len(unit.convs)}/kernel", f"conv{len(unit.convs)}/bias"


def _fresh(unit, name, value):
    """Returns the start of a new unit's weight, drawn as `value`, with which the unit computes the identity."""
    if name == "shortcut_conv/kernel":
        return np.eye(unit.out_width, dtype=value.dtype)[None, None]
    scale, offset = _ends(unit)
    if name == offset and unit.places.tail.endswith("R"):
        return np.full_like(value, TINY)  # at 0 the ReLU after it has no gradient, and the unit would never learn
    if name == scale and unit.places.tail == "R":
        return value * np.asarray(TINY, value.dtype)  # likewise, of an ordering of one's own
    return np.zeros_like(value) if name in (scale, offset) else value


def _divided(value, count):
    return value / np.asarray(count, value.dtype)


def _report(source, target, origins, place, branch):
    new = tuple(name for name, origin in origins.items() if origin is None)
    before, after = (f"{network.name} of {network.spec.units} units" for network in (source, target))
    where = {"end": "at each stage's end", "spread": "spread over each stage"}[place]
    if branch == "zero":
        what = "which compute the identity"
    else:
        what = f"copies that share what one unit added; outputs differ by up to {_difference(source, target):.2g}"
    name = source.loaded.source if source.loaded else source.card.name if source.card else source.name
    return Loaded(name, len(origins) - len(new), new, (), (f"{before} became {after}: new ones {where}, {what}",))


def _difference(source, target):
    """Returns the largest absolute difference of two networks' first outputs on images drawn at random."""
    shape = [side or 32 for side in source.input_shape[1:]]
    images = np.random.default_rng(0).normal(size=(IMAGES, *shape)).astype("float32")
    outputs = (keras.tree.flatten(network(images, training=False))[0] for network in (source, target))
    first, second = (keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")) for output in outputs)
    return float(np.abs(first - second).max())
