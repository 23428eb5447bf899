"""The layers by themselves, against NumPy and Keras' own: convolution, loop, batch normalisation and padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact.network.layers.batch_norm import BatchNormalization, batch_norm, folded, moved, scaled
from keras_preact.network.layers.conv import convolve
from keras_preact.network.layers.dropout import uniform
from keras_preact.network.layers.loop import scan
from keras_preact.network.layers.padding import StemPool, ZeroPadShortcut, zero_pad

EPSILON = 1e-3


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def norm_weights(channels, dtype="float64"):
    """Returns a BN's four weights, none of which is one that a new BN has."""
    gamma, beta, mean, variance = normal(4, channels, seed=1, dtype=dtype)
    return {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": 1 + np.abs(variance)}


# Convolutions


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("shape", [(2, 6, 6, 3), (2, 5, 7, 3)], ids=str)
def test_a_convolution_pads_half_a_kernel_on_every_side(shape, side, strides, has_bias):
    x, kernel = normal(*shape), normal(side, side, 3, 4, seed=1)
    bias = normal(4, seed=2) if has_bias else None
    padded = np.pad(x, [(0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)])
    expected = np.zeros((2, -(-shape[1] // strides), -(-shape[2] // strides), 4)) + (bias if has_bias else 0.0)
    for row, column in np.ndindex(side, side):
        taps = padded[:, row : row + shape[1] : strides, column : column + shape[2] : strides]
        expected += taps @ kernel[row, column]
    found = convolve(tf.constant(x), tf.constant(kernel), strides, None if bias is None else tf.constant(bias))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_a_convolution_takes_images_of_sizes_that_are_known_when_it_runs():
    kernel = normal(1, 1, 3, 4)
    signature = [tf.TensorSpec((None, None, None, 3), "float64")]
    traced = tf.function(lambda x: convolve(x, tf.constant(kernel)), input_signature=signature)
    for shape in ((2, 4, 6, 3), (1, 3, 3, 3)):
        np.testing.assert_allclose(traced(normal(*shape)), normal(*shape) @ kernel[0, 0], rtol=0, atol=1e-12)


# The loop


def recurrence(carry, slices):
    carry = carry * slices["factor"] + slices["term"]
    return carry, {"double": 2.0 * carry}


@pytest.mark.parametrize(("remat", "calls"), [(0, 7), (1, 14), (2, 14), (7, 14)])
def test_remat_takes_each_step_again_in_the_backward_pass(remat, calls):
    taken, start, factors = [], tf.constant(normal(4)), tf.constant(normal(7, 4))

    def step(carry, slices):
        taken.append(1)
        return recurrence(carry, slices)

    with tf.GradientTape() as tape:
        tape.watch(start)
        stacked = {"factor": factors, "term": factors}
        carry, _ = scan(step, start, stacked, {"double": ((4,), "float64")}, 1, remat)
    assert len(taken) == 7
    tape.gradient(carry, start)
    assert len(taken) == calls


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("unroll", "remat"), [(1, 0), (3, 0), (7, 0), (1, 2), (4, 3), (2, 7)])
def test_a_loop_is_its_steps_in_order_and_so_is_its_gradient(unroll, remat, compiled):
    """7 steps are a multiple of neither, so some follow the loop."""
    start, factors, terms = (tf.constant(normal(*shape)) for shape in ((4,), (7, 4), (7, 4)))

    def looped(start, factors, terms):
        stacked = {"factor": factors, "term": terms}
        return scan(recurrence, start, stacked, {"double": ((4,), "float64")}, unroll, remat)

    def straight(start, factors, terms):
        carry, doubles = start, []
        for factor, term in zip(tf.unstack(factors), tf.unstack(terms)):
            carry, out = recurrence(carry, {"factor": factor, "term": term})
            doubles.append(out["double"])
        return carry, {"double": tf.stack(doubles)}

    def with_gradients(function):
        with tf.GradientTape() as tape:
            tape.watch([start, factors, terms])
            carry, outputs = function(start, factors, terms)
            loss = tf.reduce_sum(carry**2) + tf.reduce_sum(outputs["double"] * terms)
        return [carry, outputs["double"], *tape.gradient(loss, [start, factors, terms])]

    found = tf.function(lambda: with_gradients(looped))() if compiled else with_gradients(looped)
    for ours, expected in zip(found, with_gradients(straight), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


def test_draws_are_a_function_of_the_seed_and_the_index():
    draw = keras.random.SeedGenerator(3).next()
    first, again, other = (np.asarray(uniform((500,), draw, index)) for index in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.2
    assert 0.0 <= first.min() < 0.05
    assert 0.95 < first.max() < 1.0
    assert not np.array_equal(first, uniform((500,), keras.random.SeedGenerator(4).next(), 5))


# Batch normalisation


@pytest.mark.parametrize("synchronized", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_norm_takes_the_statistics_of_the_batch_in_training_and_else_the_moving_ones(dtype, synchronized):
    x, weights = normal(4, 3, 5, 6, dtype=dtype), norm_weights(6, dtype)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    tensors = {name: tf.constant(value) for name, value in weights.items()}
    y, found_mean, found_variance = batch_norm(tf.constant(x), tensors, EPSILON, True, synchronized)
    expected = weights["gamma"] * (x - mean) / np.sqrt(variance + EPSILON) + weights["beta"]
    bound = 1e-5 if dtype == "float32" else 1e-12
    for ours, theirs in ((y, expected), (found_mean, mean), (found_variance, variance)):
        np.testing.assert_allclose(ours, theirs, rtol=bound, atol=bound)
    y, *none = batch_norm(tf.constant(x), tensors, EPSILON, False, synchronized)
    scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + EPSILON)
    np.testing.assert_allclose(y, (x - weights["moving_mean"]) * scale + weights["beta"], rtol=bound, atol=bound)
    assert none == [None, None]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_moving_statistics_and_scales_are_not_rounded_to_the_precision_of_the_images(dtype):
    x = tf.cast(normal(4, 3, 5, 6, dtype="float32"), dtype)
    weights = norm_weights(6, "float32")
    y, *_ = batch_norm(x, {name: tf.constant(value) for name, value in weights.items()}, EPSILON, False)
    scale = weights["gamma"] / np.sqrt(weights["moving_variance"] + EPSILON)
    offset = weights["beta"] - weights["moving_mean"] * scale
    expected = np.asarray(tf.cast(x, "float32")) * scale + offset
    for found in (y, scaled(x, tf.constant(scale), tf.constant(offset))):
        assert found.dtype == dtype
        last_digit = np.abs(expected) * {"bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
        np.testing.assert_array_less(np.abs(np.asarray(tf.cast(found, "float32")) - expected), last_digit + 1e-6)


def test_batch_norm_without_gamma_and_beta_only_normalises():
    x, weights = normal(4, 3, 5, 6, dtype="float32"), norm_weights(6, "float32")
    bare = {name: weights[name] for name in ("moving_mean", "moving_variance")}
    y, *_ = batch_norm(tf.constant(x), bare, EPSILON, True)
    np.testing.assert_allclose(y, (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_convolution_and_the_norm_after_it_fold_into_one_convolution(has_bias):
    x, kernel = tf.constant(normal(2, 4, 4, 3)), tf.constant(normal(3, 3, 3, 6, seed=2))
    bias = tf.constant(normal(6, seed=3)) if has_bias else None
    weights = {name: tf.constant(value) for name, value in norm_weights(6).items()}
    expected, *_ = batch_norm(convolve(x, kernel, 1, bias), weights, EPSILON, False)
    both = folded(kernel, bias, weights, EPSILON)
    np.testing.assert_allclose(convolve(x, both[0], 1, both[1]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_and_offset_are_by_channel(dtype):
    x, scale, offset = normal(2, 3, 4, 5, dtype=dtype), *normal(2, 5, seed=1, dtype=dtype)
    found = scaled(tf.constant(x), tf.constant(scale), tf.constant(offset))
    np.testing.assert_allclose(found, x * scale + offset, rtol=1e-6, atol=1e-6)


def test_a_moving_average_keeps_its_momentums_share():
    np.testing.assert_allclose(moved(tf.constant([1.0, 2.0]), tf.constant([3.0, 0.0]), 0.75), [1.5, 1.5])


@pytest.mark.parametrize("training", [False, True])
def test_the_layer_normalises_and_moves_its_statistics_as_keras_layer_does(training):
    x, pair = normal(4, 5, 5, 6, dtype="float32"), []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.8, epsilon=EPSILON)
        layer.build(x.shape)
        layer.set_weights(list(norm_weights(6, "float32").values()))
        pair.append([layer(x, training=training), *layer.get_weights()])
    for ours, theirs in zip(*pair, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


# Padding


def test_option_a_keeps_every_second_pixel_and_appends_zeros():
    x = normal(2, 5, 6, 3)
    for found in (zero_pad(x, 7, 2), ZeroPadShortcut(7, 2, dtype="float64")(x)):
        assert found.shape == (2, 3, 3, 7)
        np.testing.assert_array_equal(found[..., :3], x[:, ::2, ::2])
        assert not np.any(found[..., 3:])


@pytest.mark.parametrize("layer", [ZeroPadShortcut(7, 2), StemPool("same")], ids=lambda layer: type(layer).__name__)
def test_a_layer_knows_its_output_shape_and_reads_back(layer):
    again = type(layer).from_config(layer.get_config())
    for size in ((5, 6), (4, 7)):
        x = normal(2, *size, 3, dtype="float32")
        assert tuple(layer(x).shape) == tuple(layer.compute_output_shape(x.shape))
        np.testing.assert_array_equal(again(x), layer(x))
    assert layer.compute_output_shape((None, None, None, 3))[:3] == (None, None, None)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("negative_infinity", [[-1, -2], [-5, -6]]),  # windows begin one pixel before (0, 0), (0, 2) and so on
        ("zero", [[0, 0], [0, -6]]),
        ("same", [[-1, -3], [-9, -11]]),  # they begin there
    ],
)
def test_the_stem_pools_over_what_its_padding_says(padding, expected):
    x = -np.arange(1.0, 17.0, dtype="float32").reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(np.asarray(StemPool(padding)(x))[0, ..., 0], expected)
