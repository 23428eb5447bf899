"""ResNet50, 101 and 152 with `IMPLEMENTATIONS["keras_applications"]` against keras.applications' V2 networks.

Both hold the same weights. Keras strides in the 3x3 convolution of the last unit of conv2 to conv4, we in the first 1x1
of the next stage: in inference that is the same. The images' sides become odd on the way, and differ.
"""

import functools

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.network.named_weights import assign, named_weights
from keras_preact.weights.converters import keras_applications, rename

SHAPE = (72, 88, 3)
AS_KERAS = keras_preact.IMPLEMENTATIONS["keras_applications"]


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Leaves Keras as it was for other files: building a layer fixes the default dtype policy."""
    yield
    calibrated.cache_clear()
    keras.utils.clear_session()


def images(count, seed):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype("float32")


@functools.lru_cache(maxsize=1)
def calibrated(depth):
    """Keras' network with random biases, scales and offsets, its moving statistics those of one batch."""
    theirs = getattr(keras.applications, f"ResNet{depth}V2")(
        weights=None, input_shape=SHAPE, classifier_activation=None
    )
    rng = np.random.default_rng(depth)
    for variable in theirs.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign((variable.name == "gamma") + 0.2 * rng.normal(size=variable.shape))
    norms = [layer for layer in theirs.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 0.0
    theirs(images(8, seed=1), training=True)
    for norm in norms:
        norm.momentum = momentum
    return theirs


def with_weights_of(theirs, ours):
    """Copies all weights into our network, as the converter of files does; one left over on a side is an error."""
    stored = {f"{layer.name}/{variable.name}": variable for layer in theirs.layers for variable in layer.weights}
    stored = {name: keras.ops.convert_to_numpy(variable.value) for name, variable in stored.items()}
    places = named_weights(ours)
    shapes = {name: variable.shape[index is not None :] for name, (variable, index) in places.items()}
    assign(places, rename(keras_applications, stored, ours.spec, shapes).__getitem__)
    return ours


def network(depth, **arguments):
    """Our network of `depth`, in the layout of layers, with the weights of Keras'."""
    build = getattr(keras_preact, f"ResNet{depth}")
    arguments = {"input_shape": SHAPE, "classifier_activation": None, "layout": "layers", **arguments}
    return with_weights_of(calibrated(depth), build(**arguments))


def relative_error(ours, theirs):
    ours, theirs = keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("depth", [50, *(pytest.param(depth, marks=pytest.mark.long) for depth in (101, 152))])
def test_logits_are_those_of_keras_applications(depth):
    theirs, ours, batch = calibrated(depth), network(depth, **AS_KERAS), images(4, seed=2)
    expected = keras.ops.convert_to_numpy(theirs(batch))
    assert relative_error(np.broadcast_to(expected.mean(axis=0), expected.shape), expected) > 0.1  # images do count
    assert relative_error(ours(batch), expected) < 1e-4
    assert ours.count_params() == theirs.count_params()


def test_the_stacked_layout_has_the_same_logits():
    batch = images(4, seed=2)
    stacked = keras_preact.relayout(network(50, **AS_KERAS), "stacked")
    assert relative_error(stacked(batch), calibrated(50)(batch)) < 1e-4


@pytest.mark.parametrize("pooling", [None, "avg", pytest.param("max", marks=pytest.mark.long)])
def test_features_are_those_of_keras_applications(pooling):
    arguments = dict(include_top=False, input_shape=SHAPE, pooling=pooling)
    theirs = keras.applications.ResNet50V2(weights=None, **arguments)
    for layer in theirs.layers:
        if layer.weights:
            layer.set_weights(calibrated(50).get_layer(layer.name).get_weights())
    ours = with_weights_of(theirs, keras_preact.ResNet50(**arguments, layout="layers", **AS_KERAS))
    batch = images(4, seed=2)
    assert relative_error(ours(batch), theirs(batch)) < 1e-4


def test_normalisations_have_the_same_constants():
    ours = network(50, **AS_KERAS)
    for theirs in calibrated(50).layers:
        if isinstance(theirs, keras.layers.BatchNormalization):
            name = keras_applications.our_name(f"{theirs.name}/gamma", ours.spec)
            norm = ours.get_layer(name.removesuffix("/gamma"))
            assert (norm.epsilon, norm.momentum) == (theirs.epsilon, theirs.momentum)


@pytest.mark.parametrize(
    "difference",
    [
        {"stride_on": "3x3"},
        {"stem": {"activates": False, "pool": "same"}},
        {"stem": {"activates": False, "pool": "negative_infinity"}},
        {"widening_reads": "raw"},
    ],
    ids=str,
)
def test_other_graphs_with_the_same_weights_give_other_logits(difference):
    batch = images(4, seed=2)
    assert relative_error(network(50, **{**AS_KERAS, **difference})(batch), calibrated(50)(batch)) > 0.1
