"""What the paper says of shortcuts that are not the identity, eqs. (6) to (8) and Fig. 2: properties 4 to 7."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from changed_weights import change_weights, randomized, without_branches
from cut_networks import Cut, array, build, direct_terms, normal, one_stage, unit_names

import keras_preact
from keras_preact.network.named_weights import named_weights

pytestmark = pytest.mark.usefixtures("float64")

# 4. Eqs. (7) and (8): with x_{l+1} = lambda_l x_l + F_l the direct term is the product of the lambdas


@pytest.mark.parametrize(
    ("scale", "products"),
    [
        (0.5, {18: 3.8e-6, 54: 5.55e-17}),
        (0.9, {18: 0.150, 54: 3.4e-3}),
        (0.99, {54: 0.581}),
        (1.1, {54: 172}),
    ],
)
def test_scaled_shortcuts_multiply_up(scale, products):
    model = one_stage(54, shortcut={"name": "constant_scaling", "scale": scale, "branch_scale": 1.0})
    gradients, v = direct_terms(without_branches(model))
    for units, product in products.items():
        np.testing.assert_allclose(gradients[54 - units] / v, scale**units, rtol=1e-12)
        assert scale**units == pytest.approx(product, rel=0.02)


@pytest.mark.parametrize(("scale", "product"), [(0.99, 0.035), (1.01, 27.5), (1.1, 6e13)])
def test_scaled_shortcuts_multiply_up_over_333_units(scale, product):
    shortcut = {"name": "constant_scaling", "scale": scale, "branch_scale": 1.0}
    model = one_stage(333, layout="stacked", unit="single", shortcut=shortcut)
    (gradient, *_), v = direct_terms(without_branches(model))
    np.testing.assert_allclose(gradient / v, scale**333, rtol=1e-12)
    assert scale**333 == pytest.approx(product, rel=0.02)


def test_each_branch_is_weighted_by_the_scales_behind_it():
    scales = [0.5, 1.5, 0.75, 1.25, 0.625]
    model = randomized(one_stage(5, width=4, shortcut={"name": "constant_scaling", "scale": 1.0, "branch_scale": 1.0}))
    for name, scale in zip(unit_names(model), scales):
        model.get_layer(f"{name}_shortcut_scale").scale = scale
    cut = Cut(model)
    x, v = normal(2, 8, 8, 4), normal(2, 8, 8, 4, seed=7)
    branches = cut.run(x, training=False).branches
    with tf.GradientTape() as tape:
        tape.watch([x, *branches])
        end = x
        for unit, branch in zip(cut.units, branches):  # as constants
            shortcut, _ = unit.parts(end, training=False)
            _, end = unit.added(shortcut, branch, training=False)
    for number, gradient in enumerate(tape.gradient(end, [x, *branches], output_gradients=v)):
        np.testing.assert_allclose(array(gradient / v), np.prod(scales[number:]), rtol=1e-12)
    weighted = sum(np.prod(scales[number:]) * branch for number, branch in enumerate(branches, start=1))
    np.testing.assert_allclose(end, np.prod(scales) * x + weighted, rtol=0, atol=1e-12)


# 5. Gates: the direct term is the product of 1 - g, and the gate's own derivative

GATES = ("exclusive_gating", "shortcut_only_gating")


@pytest.mark.parametrize("shortcut", GATES)
def test_the_gate_bias_decides_how_open_54_shortcuts_are(shortcut):
    products = {-6: 0.875, -7: 0.952, -5: 0.696, -4: 0.375, -3: 0.073, 0: 5.6e-17}
    model = without_branches(one_stage(54, width=6, shortcut={"name": shortcut, "gate_bias": -4.0}))
    np.testing.assert_array_equal(model.get_layer("stage1_unit54_gate_conv").bias.value, -4.0)
    change_weights(model, "gate_conv/kernel", np.zeros_like)
    change_weights(model, "gate_conv/bias", lambda bias: np.array(list(products)))  # one a channel
    (gradient, *_), v = direct_terms(model)
    np.testing.assert_allclose(gradient / v, np.broadcast_to(list(products.values()), v.shape), rtol=0.01)


@pytest.mark.parametrize(("gate_bias", "factor"), [(-6, 2.5e-3), (-7, 9.1e-4)])
def test_only_the_exclusive_gate_suppresses_the_branch(gate_bias, factor):
    passed = {}
    for shortcut in GATES:
        model = one_stage(2, shortcut={"name": shortcut, "gate_bias": gate_bias})
        change_weights(model, "gate_conv/kernel", np.zeros_like)
        ends = model.get_layer("stage1_unit02_conv2").output, model.get_layer("stage1_unit02_add").input[1]
        branch, added = keras.Model(model.input, ends)(normal(2, 8, 8, 3))
        passed[shortcut] = array(added / branch)
    np.testing.assert_allclose(passed["exclusive_gating"], factor, rtol=0.02)
    np.testing.assert_array_equal(passed["shortcut_only_gating"], 1.0)


@pytest.mark.parametrize("shortcut", GATES)
def test_the_gate_adds_its_own_derivative(shortcut):
    model = without_branches(randomized(one_stage(4, width=4, shortcut=shortcut)))
    (gradient, *_), v = direct_terms(model)
    x, gates, inputs = array(normal(2, 8, 8, 4)), [], []
    for name in unit_names(model):
        kernel, bias = (array(weight.value) for weight in model.get_layer(f"{name}_gate_conv").weights)
        gate = 1.0 / (1.0 + np.exp(-(x @ kernel[0, 0] + bias)))
        gates.append((gate, kernel[0, 0]))
        inputs.append(x)
        x = (1.0 - gate) * x
    expected = v
    for (gate, kernel), x in zip(reversed(gates), reversed(inputs)):
        expected = expected * (1.0 - gate) - (expected * x * gate * (1.0 - gate)) @ kernel.T
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-14)
    product = np.prod([1.0 - gate for gate, _ in gates], axis=0)
    assert np.max(np.abs(gradient - v * product)) > 1e-3


# 6. 1x1 convolutions on the shortcut: the direct term is the product of their Jacobians


def test_convolved_shortcuts_multiply_their_matrices():
    model = randomized(one_stage(5, width=4, shortcut="conv1x1"))
    cut = Cut(model)
    x, v = normal(2, 8, 8, 4), normal(2, 8, 8, 4, seed=7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        trace = cut.run(x, stopped=True)
    gradient, expected = array(tape.gradient(trace.xs[-1], x, output_gradients=v)), array(v)
    for name in reversed(unit_names(model)):
        expected = expected @ array(model.get_layer(f"{name}_shortcut_conv").kernel.value)[0, 0].T
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def test_convolved_shortcuts_let_the_gradient_drift_exponentially():
    gradients, _ = direct_terms(without_branches(one_stage(54, width=16, shortcut="conv1x1")))
    logs, units = np.log([np.linalg.norm(gradient) for gradient in gradients]), np.arange(55)
    slope, _ = np.polyfit(units, logs, 1)
    assert abs(slope) > 0.2  # per unit: a factor of more than 4e4 over 54
    assert abs(np.corrcoef(units, logs)[0, 1]) > 0.99


@pytest.mark.parametrize("ordering", keras_preact.ORDERINGS)
def test_convolved_shortcuts_contain_the_identity(ordering):
    identity = randomized(one_stage(3, width=4, ordering=ordering))
    convolved = randomized(one_stage(3, width=4, ordering=ordering, shortcut="conv1x1", shortcut_norm=False), seed=2)
    batch, theirs = normal(4, 8, 8, 3), named_weights(convolved)
    for name, (variable, _) in named_weights(identity).items():
        theirs[name][0].assign(variable.value)
    assert not np.allclose(convolved(batch), identity(batch))
    change_weights(convolved, "shortcut_conv/kernel", lambda kernel: np.eye(4)[None, None])
    for training in (False, True):
        np.testing.assert_array_equal(convolved(batch, training=training), identity(batch, training=training))


# 7. Dropout on the shortcut: the direct term is a product of random masks; inference is the identity. What is kept is
# divided by 1 - rate, so the mean factor is 1, where the paper speaks of 0.5.


def test_dropped_shortcuts_cut_the_direct_term_element_by_element():
    rate, v = 0.25, array(normal(2, 8, 8, 4, seed=7))
    cut = Cut(randomized(one_stage(4, width=4, shortcut={"name": "dropout", "rate": rate})))
    gradients, masks = {}, []
    for training in (True, False):
        x = normal(2, 8, 8, 4)
        with tf.GradientTape() as tape:
            tape.watch(x)
            trace = cut.run(x, training=training, stopped=True)
        gradients[training] = array(tape.gradient(trace.xs[-1], x, output_gradients=v))
        masks.append([array(shortcut / x) for shortcut, x in zip(trace.shortcuts, trace.xs)])
    for mask in masks[0]:
        np.testing.assert_allclose(mask[mask != 0], 1.0 / (1.0 - rate), rtol=1e-12)
        assert abs(np.mean(mask == 0) - rate) < 0.1
    product = np.prod(masks[0], axis=0)
    np.testing.assert_allclose(gradients[True], v * product, rtol=1e-12)
    assert abs(np.mean(product) - 1.0) < 0.3
    np.testing.assert_array_equal(gradients[False], v)


def test_dropped_shortcuts_in_a_loop_pass_what_all_masks_keep():
    """With no F, x_L over x_l is the product of the masks, and so is the gradient; a mask more leaves half of it."""
    model = without_branches(build("stacked", units=(9,), widths=(4,), shortcut="dropout"))
    units, x = model.get_layer("stage1_units02_09"), normal(64, 8, 8, 4)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = units(x, training=True)
    product = array(out / x)
    np.testing.assert_allclose(product[product != 0], 2.0**8, rtol=1e-12)
    assert 0.5 < np.mean(product) < 2.0
    np.testing.assert_allclose(array(tape.gradient(out, x)), product, rtol=1e-12)
    np.testing.assert_array_equal(units(x, training=False), x)
