"""Weights by name, whatever the layout, and copies of them from one model to another."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.keras_hooks import AVERAGES, VARIABLES, WEIGHTS, optimized_weights
from keras_preact.network.layers.residual_units import ResidualUnits

Optimizer = TypeVar("Optimizer")  # what `compile` takes for one, or None
_LORA = "/lora_kernel_"
Place: TypeAlias = tuple[keras.Variable, int | None]  # a weight: a variable, or what is at an index of one


def named_weights(model: keras.Model) -> dict[str, Place]:
    """Returns every weight by the name it has in the layout of layers, e.g. `stage1_unit02_conv1/kernel`.

    A value is a Keras variable and None, or a variable with a leading axis and the index in it.
    """
    places: dict[str, Place] = {}
    for layer in model.layers:
        if isinstance(layer, ResidualUnits):
            for index, unit in enumerate(layer.units):
                for name, variable in layer.stacks.items():
                    places[f"{unit.name}_{name}"] = (variable, index)
        else:
            for variable in layer.weights:
                places[f"{layer.name}/{variable.name}"] = (variable, None)
    return places


def copy_weights(source: keras.Model, target: keras.Model, partial: bool = False) -> None:
    """Copies all weights between models of one network in any layouts; if `partial`, those that both have.

    A kernel takes what its LoRA adds with it to a target without one. A LoRA that the source has not is zero.
    """
    read, write = named_weights(source), named_weights(target)
    own = {name: np.zeros(place[0].shape) for name, place in write.items() if _LORA in name and name not in read}
    for layer in source.layers:
        if getattr(layer, "lora_enabled", False) and f"{layer.name}{_LORA}a" not in write:
            own[f"{layer.name}/kernel"] = keras.ops.convert_to_numpy(layer.kernel)
    if partial:
        read = {**write, **read}
    _copy(read, write, own)


def copy_trainable(
    source: keras.Model, target: keras.Model, partial: bool = False, origins: Mapping[str, str | None] | None = None
) -> None:
    """Copies which layers are frozen; a run of stacked units that is frozen in part is a `ValueError`, or trainable.

    Args:
        source: A model.
        target: The model whose layers to freeze.
        partial: Whether such a run is trainable, and no error.
        origins: The source's name of each operation of the target with weights, None for one that is new and so not
            frozen; the same names if left out.
    """
    frozen = {operation: not layer.trainable for layer in source.layers for operation in _operations(layer)}
    if origins is not None:
        frozen = {operation: frozen.get(origin, False) for operation, origin in origins.items()}
    for layer in target.layers:
        states = {frozen[operation] for operation in _operations(layer) if operation in frozen}
        if len(states) > 1 and not partial:
            raise argument_error("layout", f'"layers" while units of {layer.name} are frozen in part', "stacked")
        if layer.trainable != (states != {True}):  # set again, it would thaw the kernel that LoRA has frozen
            layer.trainable = states != {True}


def _operations(layer):
    """Returns the names, in the layout of layers, of the layers with weights that `layer` is or stands for."""
    if isinstance(layer, ResidualUnits):
        parts = {name.split("/")[0] for name in layer.stacks}
        return [f"{unit.name}_{part}" for unit in layer.units for part in parts]
    return [layer.name] if layer.weights else []


def copy_optimizer(
    source: keras.Model, target: keras.Model, partial: bool = False, origins: Mapping[str, str | None] | None = None
) -> None:
    """Copies the optimizer's state between compiled models of one network in any layouts.

    Args:
        source: A model; nothing is done if its optimizer is not built.
        target: A model whose optimizer is of the same kind.
        partial: Whether the source may lack state of weights that the target has it of: those keep what they start
            with, an average the weight itself.
        origins: The source's name of each weight of the target, None for one that is new and keeps what it starts
            with, likewise; the same names if left out.

    Raises:
        ValueError: If the state of stacked weights has other shapes than they, as Adafactor's has.
    """
    ours, theirs = optimizer_of(source), optimizer_of(target)
    if ours is None or theirs is None or not ours.built:
        return
    if not theirs.built:
        theirs.build(target.trainable_variables)
    our_slots, their_slots = _slots(inner_optimizer(ours)), _slots(inner_optimizer(theirs))
    copies = []
    for attribute in our_slots:
        read = _named_slots(source, our_slots[attribute])
        write = _named_slots(target, their_slots[attribute])
        if partial or origins is not None:
            start, origin_of = named_weights(target) if attribute == AVERAGES else write, origins or {}
            read = {name: read.get(origin_of.get(name, name), start[name]) for name in write}
        copies.append((read, write))
    others = _others(ours, our_slots), _others(theirs, their_slots)
    if [one.shape for one in others[0]] != [other.shape for other in others[1]]:
        raise _other_state(source)
    for read, write in copies:
        _copy(read, write)
    for one, other in zip(*others):
        other.assign(keras.ops.copy(one.value))  # JAX would give one array away with the next step of either


def divide_averages(model: keras.Model, by: Mapping[str, int]) -> None:
    """Divides the averages of weights that a model's optimizer keeps, if it does, by numbers, by name of the weight."""
    if (optimizer := optimizer_of(model)) is None or not by:
        return
    places = _named_slots(model, _slots(inner_optimizer(optimizer)).get(AVERAGES, {}))
    _copy(places, places, {name: value_at(place) / by[name] for name, place in places.items() if name in by})


def value_at(place: Place) -> np.ndarray:
    """Returns the array of a weight, one of those of `named_weights`."""
    variable, index = place
    array = keras.ops.convert_to_numpy(variable.value)
    return array if index is None else array[index]


def optimizer_of(model: keras.Model) -> keras.optimizers.Optimizer | None:
    """Returns a model's optimizer, or None if it is not compiled."""
    return getattr(model, "optimizer", None)


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer that a `LossScaleOptimizer` holds; any other, its name or None as it is."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _named_slots(model, slots):
    """Returns one kind of the optimizer's slots as `named_weights` returns the weights they belong to."""
    found = {}
    for name, (variable, index) in named_weights(model).items():
        if id(variable) in slots:
            slot = slots[id(variable)]
            if index is not None and slot.shape != variable.shape:
                raise _other_state(model)
            found[name] = (slot, index)
    return found


def _other_state(model):
    kind = type(inner_optimizer(optimizer_of(model))).__name__
    expected = "one whose state has the shapes of the weights, as Adam's has"
    return argument_error("optimizer", expected, kind, "Change the network before it is compiled.")


def _slots(optimizer):
    """Returns the optimizer's attributes that hold one variable per weight: {attribute: {id of the weight: slot}}."""
    weights = optimized_weights(optimizer)
    return {
        name: dict(zip(map(id, weights), slots))
        for name, slots in vars(optimizer).items()
        if name not in (WEIGHTS, VARIABLES)
        and isinstance(slots, (list, tuple))
        and len(slots) == len(weights)
        and all(isinstance(slot, keras.Variable) for slot in slots)
    }


def _others(optimizer, slots):
    """Returns an optimizer's variables that are not of one weight: its steps, its learning rate, a loss scale."""
    known = {id(slot) for by_weight in slots.values() for slot in by_weight.values()}
    return [variable for variable in optimizer.variables if id(variable) not in known]


def _copy(source, target, own=None):
    """Copies values by name between two dicts as `named_weights` returns; those of `own`, a dict, are given."""
    arrays, own = {}, own or {}

    def value_of(name):
        if name in own:
            return own[name]
        origin, place = source[name]
        if id(origin) not in arrays:
            arrays[id(origin)] = keras.ops.convert_to_numpy(origin.value)
        return arrays[id(origin)] if place is None else arrays[id(origin)][place]

    assign(target, value_of)


def assign(places: Mapping[str, Place], value_of: Callable[[str], np.ndarray]) -> None:
    """Assigns `value_of(name)` at every name of `places`, a dict as `named_weights` returns."""
    parts: dict[int, tuple[keras.Variable, list[tuple[int | None, str]]]] = {}
    for name, (variable, index) in places.items():
        parts.setdefault(id(variable), (variable, []))[1].append((index, name))
    for variable, names in parts.values():
        index, name = names[0]
        variable.assign(value_of(name) if index is None else np.stack([value_of(name) for _, name in names]))
