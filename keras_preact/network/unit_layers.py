"""What a person asks of single layers within units, where units are stacked and have none: refused in one sentence."""

import keras

from keras_preact.errors import argument_error
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.shapes import unit_operations

HINT = 'Build the network with layout="layers", or pass it to relayout(model, "layers").'


def check_has_layer(model: keras.Model, name: object) -> None:
    """Raises a `ValueError` if `name` is that of an operation within the stacked units of a model."""
    for layer in _runs(model):
        for unit in layer.units:
            if isinstance(name, str) and name in {f"{unit.name}_{one.name}" for one in unit_operations(unit)}:
                raise argument_error("name", f"a layer; this is a part of {layer.name}, stacked units", name, HINT)


def check_units_alike(model: keras.Model) -> None:
    """Raises a `ValueError` if all layers of a kind were changed, but not the units, whose parts are no such layers.

    That is what a loop over `model.layers` does to a stacked network if it looks for batch normalisations to freeze, or
    for convolutions to regularize or constrain.
    """
    runs, stem = _runs(model), model.get_layer("stem_conv")
    bns = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not runs:
        return
    if len(bns) > 1 and not any(layer.trainable for layer in bns) and stem.trainable and runs[-1].trainable:
        raise _not_of_units("BN frozen", bns[0], runs[-1])
    for attribute in ("kernel_regularizer", "kernel_constraint"):
        left = [layer for layer in runs if getattr(layer, attribute, None) is None]
        if getattr(stem, attribute) is not None and left:
            raise _not_of_units(f"a {attribute}", stem, left[0])


def _runs(model):
    return [layer for layer in model.layers if isinstance(layer, ResidualUnits)]


def _not_of_units(what, layer, run):
    return argument_error("layout", f'"layers" to have {what} in {layer.name} and not in {run.name}', "stacked", HINT)
