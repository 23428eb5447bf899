"""Weights of a network, changed by name."""

import keras
import numpy as np

from keras_preact.network.named_weights import named_weights


def change_weights(model, ending, change):
    """Gives every variable whose name ends in `ending` the value that `change` makes of its own; returns the model."""
    variables = {id(v): v for name, (v, _) in named_weights(model).items() if name.endswith(ending)}
    assert variables
    for variable in variables.values():
        variable.assign(change(keras.ops.convert_to_numpy(variable.value)))
    return model


def randomized(model, seed=1):
    """Gives every weight a random value, around 1 for the scales and variances of BN, and returns the model."""
    rng = np.random.default_rng(seed)
    change_weights(model, "", lambda value: 0.2 * rng.normal(size=value.shape))
    return change_weights(model, ("gamma", "variance"), np.exp)


def last_convolution(model):
    """How the name of the kernel ends that is the last of a unit's F."""
    return f"_conv{len(model.spec.stages[0][0].convs)}/kernel"


def without_branches(model):
    """Zeroes the last convolution of every unit, and with it F and its derivative; returns the model."""
    return change_weights(model, last_convolution(model), np.zeros_like)
