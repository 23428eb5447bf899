"""Muon's steps: orthogonal matrices of a given size, the same in both layouts, and right across a resume."""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.network.named_weights import named_weights
from keras_preact.training.muon import RATE, SIZE, Muon, orthogonal
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.recipe import Recipe

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 3, 8, 16), (1, 1, 32, 8), (1, 1, 8, 32), (3, 3, 16, 16)])
def test_steps_are_nearly_orthogonal_matrices(shape):
    kernel = RNG.normal(size=shape).astype("float32")
    step = np.reshape(orthogonal(keras.ops.convert_to_tensor(kernel)), (-1, shape[-1]))
    scale = SIZE * np.sqrt(max(step.shape))
    values = np.linalg.svd(step / scale, compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = np.linalg.svd(kernel.reshape(step.shape), full_matrices=False)
    assert np.sum(step / scale * (u @ v)) / min(step.shape) > 0.75  # near the nearest one
    assert np.sqrt(np.mean(step**2)) == pytest.approx(SIZE, rel=0.3)


def test_stacked_kernels_are_as_many_matrices():
    kernels = RNG.normal(size=(4, 3, 3, 4, 8)).astype("float32")
    together = orthogonal(keras.ops.convert_to_tensor(kernels))
    for one, kernel in zip(together, kernels):
        np.testing.assert_allclose(one, orthogonal(keras.ops.convert_to_tensor(kernel)), rtol=1e-4, atol=1e-6)


def test_without_momentum_a_step_is_the_gradients():
    optimizer = make_optimizer(Recipe(optimizer="muon", momentum=0.0, learning_rate=1.0, schedule="constant"), 1, Muon)
    gradient = keras.ops.convert_to_tensor(RNG.normal(size=(1, 1, 4, 4)).astype("float32"))
    kernel = keras.Variable(np.zeros((1, 1, 4, 4), "float32"), name="conv_kernel")
    for count in (1, 2):
        optimizer.apply([gradient], [kernel])
        np.testing.assert_allclose(
            kernel.numpy(), -count * RATE * np.asarray(orthogonal(gradient)), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_one_computed_by_hand_across_a_change_of_the_rate(nesterov):
    recipe = Recipe(
        optimizer="muon",
        learning_rate=0.5,
        schedule="steps",
        epochs=4,
        drops=(2,),
        nesterov=nesterov,
        weight_decay=0.01,
        weight_decay_kind="decoupled",
    )
    optimizer = make_optimizer(recipe, 1, Muon)
    start = RNG.normal(size=(1, 1, 4, 4)).astype("float32")
    kernel, bias = keras.Variable(start, name="conv_kernel"), keras.Variable(np.ones(3, "float32"), name="bias")
    velocity, expected, bias_velocity, expected_bias = 0.0, start, 0.0, 1.0
    for rate in (0.5, 0.5, 0.05):
        gradient = RNG.normal(size=start.shape).astype("float32")
        optimizer.apply([keras.ops.convert_to_tensor(gradient), keras.ops.ones(3)], [kernel, bias])
        expected, expected_bias = expected * (1 - rate * 0.01), expected_bias * (1 - rate * 0.01)
        velocity = 0.9 * velocity + gradient
        step = orthogonal(keras.ops.convert_to_tensor(gradient + 0.9 * velocity if nesterov else velocity))
        expected = expected - rate * RATE * np.asarray(step)
        bias_velocity = 0.9 * bias_velocity - rate
        expected_bias += 0.9 * bias_velocity - rate if nesterov else bias_velocity
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), expected_bias, rtol=1e-5)


def test_both_layouts_train_alike(float64):
    recipe = Recipe(optimizer="muon", learning_rate=0.05, schedule="constant", nesterov=True)
    model = keras_preact.ResNet(20, unit="bottleneck", input_shape=(8, 8, 3), layout="stacked")
    ends = []
    for network in (model, keras_preact.relayout(model, "layers")):
        network.compile(make_optimizer(recipe, 4, Muon), "sparse_categorical_crossentropy", run_eagerly=True)
        x, y = np.random.default_rng(1).normal(size=(16, 8, 8, 3)), np.arange(16) % 10
        network.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        ends.append({n: (v.numpy() if i is None else v.numpy()[i]) for n, (v, i) in named_weights(network).items()})
    for name, array in ends[0].items():
        np.testing.assert_allclose(ends[1][name], array, rtol=0, atol=1e-7, err_msg=name)
