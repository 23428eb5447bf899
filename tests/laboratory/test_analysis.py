"""Signals and gradients of units, against the paper's closed forms and a plain computation on Keras layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from changed_weights import change_weights, randomized, without_branches
from measured_networks import batch, build, one_stage

import keras_preact
from keras_preact.laboratory.analysis.measure import analyze
from keras_preact.network.named_weights import named_weights
from keras_preact.network.spec import NetworkSpec

float64 = pytest.mark.usefixtures("float64")


# Against a plain computation on the layers of `layout="layers"`


def _logits(model):
    classifier = model.get_layer("predictions")
    return keras.ops.matmul(model.get_layer("pool").output, classifier.kernel) + classifier.bias


class Plain:
    """Measures a network of the layout of layers unit by unit, with models of its layers and one tape each."""

    def __init__(self, model, images, labels, training):
        self.model, self.labels, self.training = model, labels, training
        last = {"_".join(layer.name.split("_")[:2]): layer.output for layer in model.layers}
        self.units = [unit for stage in model.spec.stages for unit in stage]
        self.stages = [number for number, stage in enumerate(model.spec.stages) for _ in stage]
        self.xs = [model.get_layer("stem_relu").output, *(last[unit.name] for unit in self.units)]
        self.logits = _logits(model)
        self.signals = [keras.Model(model.input, x)(images, training=training) for x in self.xs]

    def loss(self, index, x):
        """E if x stands in place of what unit `index`, from 0, reads."""
        logits = keras.Model(self.xs[index], self.logits)(x, training=self.training)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.labels, logits))

    def gradient(self, index):
        x = self.signals[index]
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.loss(index, x)
        return tape.gradient(loss, x)

    def parts(self, index, x):
        """h(x_l), F(x_l) and the function f of unit `index`."""
        add = self.model.get_layer(f"{self.units[index].name}_add")
        tensors, end = add.input, self.xs[index + 1]
        h, branch = (
            x if t is self.xs[index] else keras.Model(self.xs[index], t)(x, training=self.training) for t in tensors
        )
        return h, branch, lambda y: y if end is add.output else keras.Model(add.output, end)(y, training=self.training)

    def direct(self, index):
        """The direct term at unit `index`: from the end of its stage, with the gradient stopped at every F."""
        end = max(place for place, stage in enumerate(self.stages) if stage == self.stages[index]) + 1
        x = self.signals[index]
        with tf.GradientTape() as tape:
            tape.watch(x)
            signal = x
            for place in range(index, end):
                h, branch, f = self.parts(place, signal)
                signal = f(h + tf.stop_gradient(branch))
        return tape.gradient(signal, x, output_gradients=self.gradient(end))

    def columns(self):
        rows = []
        for index, unit in enumerate(self.units):
            h, branch, _ = self.parts(index, self.signals[index])
            gradient, direct = self.gradient(index), self.direct(index)
            row = {name: np.sqrt(np.mean(np.square(x))) for name, x in (("shortcut_rms", h), ("branch_rms", branch))}
            row["signal_rms"] = np.sqrt(np.mean(np.square(self.signals[index])))
            row |= {"gradient_norm": np.linalg.norm(gradient), "direct_norm": np.linalg.norm(direct)}
            row["branch_norm"] = np.linalg.norm(gradient - direct)
            row["loss_without"] = np.nan if unit.changes_shape else self.loss(index + 1, self.signals[index])
            names = [layer.name for layer in self.model.layers]
            cut = (
                self.model.get_layer(f"{unit.name}_relu_after_addition") if "R" in unit.places.after_addition else None
            )
            row["cut_share"] = np.mean(self.value(cut.input) < 0) if cut else 0.0
            gated = f"{unit.name}_gate" in names
            row["gate_openness"] = (
                np.mean(1 - self.value(self.model.get_layer(f"{unit.name}_gate").output)) if gated else np.nan
            )
            rows.append(row)
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def value(self, tensor):
        return keras.Model(self.model.input, tensor)(self.images, training=self.training)


@float64
@pytest.mark.parametrize(
    ("training", "fields"),
    [
        (True, dict(unit="bottleneck")),
        (False, dict(ordering="original", shortcut="exclusive_gating", widening="zero_pad")),
        (True, dict(ordering="bn_after_addition", shortcut="conv1x1")),
        (True, dict(ordering="relu_before_addition", shortcut="constant_scaling", widening_reads="raw")),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_every_column_is_that_of_a_plain_computation(training, fields):
    images, labels = batch()
    model = randomized(build("layers", **fields))
    before = {name: keras.ops.convert_to_numpy(v.value) for name, (v, _) in named_weights(model).items()}
    result = analyze(model, images, labels, training=training, deletions=5)
    for name, (variable, _) in named_weights(model).items():
        np.testing.assert_array_equal(variable.value, before[name], err_msg=name)
    plain = Plain(model, images, labels, training)
    plain.images = images
    for name, expected in plain.columns().items():
        np.testing.assert_allclose(getattr(result, name), expected, rtol=1e-9, atol=1e-13, err_msg=name)
    assert result.loss == pytest.approx(float(plain.loss(0, plain.signals[0])), rel=1e-12)
    assert result.gradient_at_end == pytest.approx(np.linalg.norm(plain.gradient(5)), rel=1e-10)
    assert result.units == tuple(unit.name for unit in plain.units)
    np.testing.assert_array_equal(result.keeps_shape, [not unit.changes_shape for unit in plain.units])


@float64
def test_a_plain_network_has_no_direct_term():
    images, labels = batch()
    model = randomized(build("layers", shortcut="none", ordering="original"))
    result = analyze(model, images, labels)
    start = model.get_layer("stage2_unit01_relu_after_addition").output
    tail = keras.Model(start, _logits(model))
    x = keras.Model(model.input, start)(images, training=True)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = tail(x, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    np.testing.assert_allclose(result.gradient_norm[3], np.linalg.norm(tape.gradient(loss, x)), rtol=1e-10)
    np.testing.assert_array_equal(result.branch_norm, result.gradient_norm)
    for nothing in (result.direct_norm, result.shortcut_rms, result.shortcut_product):
        assert not np.any(nothing)
    assert not np.any(analyze(without_branches(model), images, labels).gradient_norm)


# Claims 2 to 5: the direct term, and the product of the factors on the shortcut


@float64
@pytest.mark.parametrize("ordering", ["preactivation", "relu_only_preactivation", "relu_before_addition"])
def test_on_identities_the_direct_term_is_the_gradient_behind(ordering):
    images, labels = batch()
    result = analyze(one_stage(6, width=4, ordering=ordering), images, labels)
    np.testing.assert_array_equal(result.shortcut_factor, 1.0)
    np.testing.assert_array_equal(result.after_addition_factor, 1.0)
    np.testing.assert_array_equal(result.network_product, 1.0)
    np.testing.assert_allclose(result.direct_norm, result.gradient_at_end, rtol=1e-14)
    assert np.all(result.branch_norm > 0.01 * result.gradient_norm)
    np.testing.assert_array_equal(result.shortcut_rms, result.signal_rms)

    empty = analyze(without_branches(one_stage(6, width=4, ordering=ordering)), images, labels, deletions=6)
    np.testing.assert_array_equal(empty.gradient_norm, empty.direct_norm)
    np.testing.assert_array_equal(empty.branch_norm, 0.0)
    np.testing.assert_array_equal(empty.branch_rms, 0.0)
    np.testing.assert_array_equal(empty.loss_without, empty.loss)


@float64
@pytest.mark.parametrize(("scale", "product"), [(0.5, 5.55e-17), (0.9, 3.4e-3), (1.1, 172)])
def test_scales_multiply_up_over_54_units(scale, product):
    shortcut = {"name": "constant_scaling", "scale": scale, "branch_scale": 1.0}
    result = analyze(one_stage(54, shortcut=shortcut), *batch())
    behind = np.arange(54, 0, -1)
    np.testing.assert_allclose(result.shortcut_product, scale**behind, rtol=1e-12)
    np.testing.assert_allclose(result.direct_norm / result.gradient_at_end, scale**behind, rtol=1e-12)
    np.testing.assert_allclose(result.shortcut_rms, scale * result.signal_rms, rtol=1e-12)
    assert result.network_product[0] == pytest.approx(product, rel=0.02)


def test_gradients_smaller_than_float32_can_hold_are_measured_all_the_same():
    shortcut = {"name": "constant_scaling", "scale": 0.5, "branch_scale": 1.0}
    model = without_branches(one_stage(333, unit="single", shortcut=shortcut))
    change_weights(model, "final_bn/beta", np.ones_like)  # the signal vanishes too; keep the last ReLU open
    result = analyze(model, *batch(), training=False)
    behind = np.arange(333, 0, -1)
    np.testing.assert_allclose(result.gradient_norm / result.gradient_at_end, 0.5**behind, rtol=1e-4)
    np.testing.assert_allclose(result.shortcut_product, 0.5**behind, rtol=1e-4)
    np.testing.assert_array_equal(result.direct_norm, result.gradient_norm)


def test_gradients_larger_than_float32_can_hold_are_measured_all_the_same():
    shortcut = {"name": "constant_scaling", "scale": 2.0, "branch_scale": 1.0}
    model = without_branches(one_stage(200, unit="single", shortcut=shortcut))
    change_weights(model, "stem_bn/gamma", np.zeros_like)  # all signals are 0: they would overflow, too
    change_weights(model, "final_bn/beta", np.ones_like)
    result = analyze(model, *batch(), training=False)
    behind = np.arange(200, 0, -1)
    np.testing.assert_allclose(result.gradient_norm / result.gradient_at_end, 2.0**behind, rtol=1e-4)


@float64
@pytest.mark.parametrize(("gate_bias", "product"), [(-6.0, 0.875), (-3.0, 0.073), (0.0, 5.6e-17)])
def test_gates_are_as_open_as_their_bias_says(gate_bias, product):
    shortcut = {"name": "exclusive_gating", "gate_bias": gate_bias}
    model = change_weights(one_stage(54, shortcut=shortcut), "gate_conv/kernel", np.zeros_like)
    result = analyze(model, *batch())
    openness = 1 / (1 + np.exp(gate_bias))
    np.testing.assert_allclose(result.gate_openness, openness, rtol=1e-12)
    np.testing.assert_allclose(result.shortcut_product, openness ** np.arange(54, 0, -1), rtol=1e-10)
    assert result.network_product[0] == pytest.approx(product, rel=0.02)


@float64
def test_the_network_product_leaves_units_out_that_change_the_shape():
    shortcut = {"name": "constant_scaling", "scale": 0.5, "branch_scale": 1.0}
    result = analyze(build(shortcut=shortcut, widening="zero_pad"), *batch())
    np.testing.assert_allclose(result.network_product, [0.5**4, 0.5**3, 0.5**2, 0.5**2, 0.5], rtol=1e-12)
    np.testing.assert_allclose(result.shortcut_product[[0, 1, 3, 4]], [0.5**2, 0.5, 0.5**2, 0.5], rtol=1e-12)
    assert result.shortcut_product[2] < 0.5**3  # the gradient of the zeros appended is lost, too


# Claims 6 and 7: convolutions and dropout on the shortcut


@float64
def test_convolutions_on_the_shortcut_multiply_their_matrices():
    model = randomized(one_stage(5, width=4, shortcut="conv1x1"))
    images, labels = batch()
    result = analyze(model, images, labels, training=False)
    plain = Plain(keras_preact.relayout(model, "layers"), images, labels, False)
    direct = plain.gradient(5)
    for index in range(4, -1, -1):
        kernel = plain.model.get_layer(f"{plain.units[index].name}_shortcut_conv").kernel.value
        direct = direct @ tf.transpose(kernel[0, 0])
        np.testing.assert_allclose(result.direct_norm[index], np.linalg.norm(direct), rtol=1e-10)
    np.testing.assert_allclose(result.shortcut_product[0], result.direct_norm[0] / result.gradient_at_end, rtol=1e-10)


@float64
def test_dropout_puts_a_mask_on_the_shortcut_in_training_alone():
    model = without_branches(one_stage(6, width=16, shortcut={"name": "dropout", "rate": 0.5}))
    change_weights(model, "final_bn/beta", lambda beta: beta + 100.0)  # the last ReLU passes what masks have zeroed
    masked, other = (analyze(model, *batch(16), seed=seed) for seed in (0, 1))
    # Half of the elements stay, doubled: the mean square doubles. Of the gradient ever fewer elements are left.
    np.testing.assert_allclose(np.square(masked.shortcut_rms / masked.signal_rms), 2.0, rtol=0.1)
    np.testing.assert_allclose(np.square(masked.shortcut_factor), 2.0, rtol=0.3)
    assert np.all(masked.shortcut_rms != other.shortcut_rms)
    np.testing.assert_array_equal(masked.gradient_norm, analyze(model, *batch(16), seed=0).gradient_norm)
    np.testing.assert_array_equal(analyze(model, *batch(16), training=False).shortcut_factor, 1.0)


@float64
def test_stochastic_depth_takes_branches_away_in_training_alone():
    model = one_stage(3, width=4, stochastic_depth=(0.0, 1.0 - 1e-9, 0.0))
    np.testing.assert_array_equal(analyze(model, batch()[0]).branch_rms > 0, [True, False, True])
    assert np.all(analyze(model, batch()[0], training=False).branch_rms > 0)


# Claims 8 to 10 and 15: what stands after the addition, and how signals grow


@float64
def test_the_original_unit_cuts_and_the_sum_grows():
    images, _ = batch(16)
    result = analyze(one_stage(18, width=16, ordering="original"), images)
    assert result.cut_share[0] == pytest.approx(0.37, abs=0.02)
    assert result.cut_share[-1] == pytest.approx(0.13, abs=0.02)
    assert result.loss is None
    assert result.gradient_norm is None
    assert result.network_product is None

    growing = analyze(one_stage(19, width=16, ordering="relu_before_addition"), images)
    np.testing.assert_array_equal(growing.cut_share, 0.0)
    np.testing.assert_allclose(np.square(growing.signal_rms)[[0, 18]], [0.5, 63], rtol=0.05)


@float64
@pytest.mark.parametrize(
    ("unit", "slope"),
    # Of a 3x3 kernel's nine taps 1 in 12 falls off an 8x8 image along each axis.
    [("basic", (11 / 12) ** 2), ("bottleneck", 1 / 4)],
)
def test_under_preactivation_each_unit_adds_the_same_power(unit, slope):
    stem = {"width": 16 if unit == "basic" else 64}
    model = build(units=(19,), widths=(16,), stem=stem, unit=unit)
    power = np.square(analyze(model, batch(16)[0]).signal_rms)
    assert np.polyfit(np.arange(19), power, 1)[0] == pytest.approx(slope, rel=0.1)


@float64
def test_bn_after_the_addition_is_the_factor_of_f():
    model = one_stage(4, width=4, ordering="bn_after_addition", bn_epsilon=0.0)
    for ending, value in (("after_addition/gamma", 3.0), ("after_addition/moving_variance", 4.0)):
        change_weights(model, f"bn_{ending}", lambda old, value=value: np.full_like(old, value))
    change_weights(model, "bn_after_addition/beta", lambda old: old + 1.0)
    result = analyze(without_branches(model), *batch(), training=False)  # no ReLU cuts anything
    np.testing.assert_allclose(result.after_addition_factor, 3.0 / np.sqrt(4.0), rtol=1e-9)
    np.testing.assert_array_equal(result.shortcut_factor, 1.0)
    np.testing.assert_array_equal(result.cut_share, 0.0)


def one_output(num_classes=1):
    spec = NetworkSpec((1, 2), (4, 6), "basic", stem={"width": 4})
    arguments = {"input_shape": (8, 8, 3), "num_classes": num_classes, "classifier_activation": "sigmoid"}
    return randomized(keras_preact.build_network(spec, layout="layers", **arguments))


@float64
def test_one_sigmoid_output_has_the_loss_and_the_gradients_of_binary_crossentropy():
    (images, _), labels, model = batch(), np.array([0, 1, 1, 0]), one_output()
    result = analyze(model, images, labels, training=False)
    signal, logits = model.get_layer("stage2_unit02_add").output, _logits(model)
    x, whole = keras.Model(model.input, signal)(images), keras.Model(signal, logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels.astype("float64"), whole(x)[:, 0])
        loss = tf.reduce_mean(losses)
    assert result.loss == pytest.approx(float(loss), rel=1e-9)
    assert result.gradient_at_end == pytest.approx(float(np.linalg.norm(tape.gradient(loss, x))), rel=1e-9)
    assert (result.gradient_norm > 0).all()


def test_labels_of_a_head_whose_loss_is_not_known_are_refused():
    images, labels = batch()
    with pytest.raises(ValueError, match=r"`labels` must be left out.*one sigmoid output.*5 x sigmoid"):
        analyze(one_output(5), images, labels)
    with pytest.raises(ValueError, match=r"`labels` must be from 0 to 1\b"):
        analyze(one_output(), images, labels)
