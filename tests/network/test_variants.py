"""Orderings, shortcuts, units, widenings and strides, each beside each, build, train a step, and stay finite."""

import keras
import numpy as np
import pytest
from products import diagonals

import keras_preact
from keras_preact.network.layers.dropout import Dropout

VARIANTS = {
    "ordering": tuple(keras_preact.ORDERINGS),
    "shortcut": tuple(keras_preact.SHORTCUT_PARAMETERS),
    "unit": ("basic", "bottleneck"),
    "widening": ("zero_pad", "projection"),
    "stride_on": ("1x1", "3x3"),
}


@pytest.mark.parametrize(tuple(VARIANTS), diagonals(*VARIANTS.values(), every=4))
def test_every_variant_trains_a_step(ordering, shortcut, unit, widening, stride_on):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(4, 8, 8, 3)).astype("float32"), rng.integers(3, size=4)
    spec = keras_preact.NetworkSpec(
        units=(1, 2),
        widths=(4, 6),
        unit=unit,
        stem={"width": 4},
        ordering=ordering,
        shortcut=shortcut,
        widening=widening,
        stride_on=stride_on,
    )
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=3)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, labels))
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.parametrize(("dtype", "rate"), [("bfloat16", 0.002), ("bfloat16", 0.01), ("float16", 0.002)])
def test_small_rates_are_dropped_in_half_precision_too(dtype, rate):
    """Keras' own layer draws in the compute dtype on TensorFlow: in bfloat16 0.8 % instead of 0.2 %."""
    keras.utils.set_random_seed(0)
    found = np.asarray(Dropout(rate, dtype=dtype)(np.ones((1000, 400)), training=True), "float32")
    share, noise = np.mean(found == 0), 5 * np.sqrt(rate / found.size)
    assert abs(share - rate) < noise
    assert np.unique(found[found != 0]).size == 1


@pytest.mark.parametrize("layout", ["layers", "stacked"])
@pytest.mark.parametrize("fields", [{"shortcut": "dropout"}, {"stochastic_depth": 0.5}])
def test_a_frozen_network_drops_elements_but_learns_no_statistics(layout, fields):
    """As Keras' layers do: freezing is of BN and of weights."""
    model = keras_preact.ResNet(20, input_shape=(8, 8, 3), layout=layout, **fields)
    before = model.get_weights()
    for layer in model.layers:
        layer.trainable = False
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    first, second = (np.asarray(model(images, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    for one, other in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("layout", ["layers", "stacked"])
def test_dropout_draws_differ_by_unit_and_repeat_with_the_seed(layout):
    spec = keras_preact.NetworkSpec((4,), (8,), "basic", stem={"width": 8}, shortcut="dropout")

    def masks():
        """Which elements of the shortcut each unit drops: F is nothing, and x is one everywhere."""
        keras.utils.set_random_seed(3)
        model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False, layout=layout)
        for variable in model.trainable_variables:
            if "conv2" in variable.path:
                variable.assign(keras.ops.zeros_like(variable))
        first = model.get_layer("stage1_unit01_add" if layout == "layers" else "stage1_unit01")
        rest = (
            [model.get_layer(f"stage1_unit0{number}_add") for number in (2, 3, 4)]
            if layout == "layers"
            else [model.get_layer("stage1_units02_04")]
        )
        outputs = [layer.output for layer in (first, *rest)]
        values = keras.Model(model.input, outputs)(np.ones((2, 8, 8, 3)), training=True)
        return [keras.ops.convert_to_numpy(value) for value in values]

    once, again = masks(), masks()
    for one, other in zip(once, again):
        np.testing.assert_array_equal(one, other)
    # A signal that n units halve at random is n times doubled where it lives, in a share of 2^-n of its elements.
    last = once[-1]
    alive = last != 0
    start = once[0][alive] / 2.0
    np.testing.assert_allclose(last[alive] / start, 16.0, rtol=1e-5)
    share = alive.sum() / max(1, (once[0] != 0).sum())
    assert 0.05 < share < 0.25  # 1/8 if the three draws differ, 1 if they are one


def test_a_dropped_unit_is_the_identity_exactly():
    for layout in ("layers", "stacked"):
        keras.utils.set_random_seed(0)
        rates = (0.0, 0.999999)
        spec = keras_preact.NetworkSpec((2,), (4,), "basic", stem={"width": 4}, stochastic_depth=rates)
        model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False, layout=layout)
        suffix = "_add" if layout == "layers" else ""
        pair = [model.get_layer(f"stage1_unit0{number}{suffix}").output for number in (1, 2)]
        images = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
        first, second = keras.Model(model.input, pair)(images, training=True)
        np.testing.assert_array_equal(first, second)
        first, second = keras.Model(model.input, pair)(images, training=False)
        assert np.abs(first - second).max() > 0.01


def test_stochastic_depth_skips_per_sample_and_keeps_the_mean():
    keras.utils.set_random_seed(1)
    rates = (0.0, *(0.5,) * 9)
    spec = keras_preact.NetworkSpec((10,), (4,), "basic", stem={"width": 4}, stochastic_depth=rates)
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False, layout="stacked")
    layer = model.get_layer("stage1_units02_10")
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
    _, units = layer(x, training=True, return_units=True)
    steps = np.diff(np.concatenate([x[None], units]), axis=0)
    skipped = (np.abs(steps).max(axis=(2, 3, 4)) == 0).mean(axis=1)
    assert skipped.shape == (9,)
    assert (np.abs(skipped - 0.5) < 0.25).all()
    assert len({tuple(row) for row in np.abs(steps).max(axis=(2, 3, 4)) == 0}) == 9


def test_each_unit_of_a_stack_is_dropped_at_its_own_rate():
    spec = keras_preact.NetworkSpec((4,), (4,), "basic", stem={"width": 4}, stochastic_depth=(0.0, 0.0, 0.999999, 0.0))
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False, layout="stacked")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    _, units = model.get_layer("stage1_units02_04")(x, training=True, return_units=True)
    moved = np.abs(np.diff(np.concatenate([x[None], units]), axis=0)).max((1, 2, 3, 4)) > 0
    assert moved.tolist() == [True, False, True]


def test_return_units_gives_every_signal():
    spec = keras_preact.NetworkSpec((12,), (4,), "basic", stem={"width": 4})
    layered = keras_preact.build_network(spec, input_shape=(8, 8, 3), layout="layers")
    stacked = keras_preact.relayout(layered, "stacked")
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    outputs = [layered.get_layer(f"stage1_unit{number:02}_add").output for number in range(1, 13)]
    first, *rest = keras.Model(layered.input, outputs)(images)
    layer = stacked.get_layer("stage1_units02_12")
    last, units = layer(first, return_units=True)
    assert units.shape == (11, 2, 8, 8, 4)
    np.testing.assert_allclose(units, np.stack(rest), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(last, units[-1])
