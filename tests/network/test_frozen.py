"""Inference frozen to constants: equal to the layers it comes from, and blind to what they do afterwards."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.network.frozen import frozen_function


def layered(**fields):
    """A network in separate Keras layers, with weights that no symmetry hides and scales of both signs."""
    fields = {"units": (7, 2), "widths": (4, 6), "stem": {"width": 4}, **fields}
    spec = keras_preact.NetworkSpec(**fields)
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False, pooling="avg", layout="layers")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        noise = rng.normal(size=variable.shape) * (0.1 if len(variable.shape) == 1 else 0.4)
        sign = rng.choice([1.0, -1.0], size=variable.shape) if variable.name == "gamma" else 1.0
        variable.assign(sign * np.abs(1 + noise) if variable.name in ("gamma", "moving_variance") else noise)
    return model


def images(count=3):
    return np.random.default_rng(1).normal(size=(count, 8, 8, 3)).astype("float32")


def assert_near(actual, expected):
    """Equal to float32 rounding, which the units of these networks carry on and enlarge."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-5 * np.std(expected))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ordering": "original", "shortcut": "exclusive_gating", "unit": "basic", "widening": "zero_pad"},
        {"ordering": "bn_after_addition", "shortcut": "conv1x1", "conv_bias": ("last", "branch", "shortcut")},
    ],
    ids=str,
)
def test_a_frozen_function_and_the_loop_compute_what_the_layers_do(fields):
    model = layered(**fields)
    expected = model(images(), training=False)
    function = frozen_function(model)
    assert_near(function(tf.constant(images())), expected)
    assert not function.get_concrete_function().captured_inputs
    stacked = keras_preact.relayout(model, "stacked")
    assert_near(stacked(images(), training=False), expected)


def test_a_frozen_function_is_written_with_its_own_inputs_and_outputs_and_sees_no_later_change(tmp_path):
    model = keras_preact.relayout(layered(), "stacked")
    expected = model(images(), training=False)

    def serve(network, pixels):
        return {"features": network(tf.cast(pixels, "float32") / 255.0, training=False)}

    module = tf.Module()
    module.serve = frozen_function(model, serve, tf.TensorSpec((None, 8, 8, 3), tf.uint8))
    tf.saved_model.save(module, tmp_path / "frozen")
    for variable in model.weights:
        variable.assign(variable * 0.5)
    assert np.abs(model(images(), training=False) - expected).max() > 1e-3
    reloaded = tf.saved_model.load(tmp_path / "frozen")
    pixels = np.random.default_rng(2).integers(0, 256, size=(2, 8, 8, 3), dtype="uint8")
    for variable in model.weights:
        variable.assign(variable * 2.0)
    expected = model(pixels / np.float32(255.0), training=False)
    assert_near(reloaded.serve(pixels)["features"], expected)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match=r"model.*keras_preact built.*Sequential"):
        frozen_function(keras.Sequential([]))
