"""What the paper's equations say of a network, measured on networks that `build_network` built.

A network is cut at its additions into models of its own layers, so that F can be stopped, zeroed or replaced. Where a
property holds for some orderings only, the others are tested to break it.
"""

import collections
import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from changed_weights import change_weights, last_convolution, randomized, without_branches

import keras_preact
from keras_preact.copying import named_weights
from keras_preact.spec import NetworkSpec

pytestmark = pytest.mark.usefixtures("float64")

# h and f are the identity in Fig. 4(c), (d) and (e); in (a) and (b) f is not.
WITH_IDENTITY_F = ("relu_before_addition", "relu_only_preactivation", "preactivation")
WITHOUT_IDENTITY_F = ("original", "bn_after_addition")


def build(layout="layers", **fields):
    """A network on 8x8 images, with two stages of basic units unless `fields` of its spec say else; seeded."""
    keras.utils.set_random_seed(0)
    spec = NetworkSpec(**{"units": (2, 4), "widths": (4, 8), "stem": {"width": 4}, "unit": "basic", **fields})
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=5, layout=layout)


def one_stage(units, width=2, **fields):
    """A network of basic units none of which changes the shape."""
    return build(units=(units,), widths=(width,), stem={"width": width}, **fields)


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def unit_names(model):
    return [unit.name for stage in model.spec.stages for unit in stage]


def unit_outputs(model):
    """The x_{l+1} of every unit: what the last of the layers that bear its name puts out."""
    last = {"_".join(layer.name.split("_")[:2]): layer.output for layer in model.layers}
    return [last[name] for name in unit_names(model)]


@dataclasses.dataclass
class Unit:
    """A unit of a built network in two models of its layers: x_l -> h, F and h, F -> y_l, x_{l+1}.

    Keras takes no output that is an input or comes twice, so h is left out if it is x_l, and x_{l+1} if it is y_l.
    """

    name: str
    has_identity: bool
    split: keras.Model
    join: keras.Model

    def parts(self, x, training):
        """Returns h(x_l) and F(x_l)."""
        parts = keras.tree.flatten(self.split(x, training=training))
        return x if self.has_identity else parts[0], parts[-1]

    def added(self, shortcut, branch, training):
        """Returns y_l and x_{l+1}."""
        parts = keras.tree.flatten(self.join([shortcut, branch], training=training))
        return parts[0], parts[-1]


Trace = collections.namedtuple("Trace", "xs shortcuts branches sums")


class Cut:
    """A built network cut at its additions: `stem` is images -> x_1, then `units`, and `head` is x_{L+1} -> output."""

    def __init__(self, model):
        x, self.units = model.get_layer("stem_relu").output, []
        self.stem = keras.Model(model.input, x)
        for name, out in zip(unit_names(model), unit_outputs(model)):
            add = model.get_layer(f"{name}_add")
            shortcut, branch = add.input
            split = keras.Model(x, [branch] if shortcut is x else [shortcut, branch])
            join = keras.Model(add.input, [add.output] if out is add.output else [add.output, out])
            self.units.append(Unit(name, shortcut is x, split, join))
            x = out
        self.head = keras.Model(x, model.output)

    def run(self, x, units=slice(None), training=True, stopped=False):
        """Applies units to x, `stopped` without a gradient through any F; returns a `Trace`, `xs` one longer."""
        trace = Trace([x], [], [], [])
        for unit in self.units[units]:
            shortcut, branch = unit.parts(trace.xs[-1], training)
            branch = tf.stop_gradient(branch) if stopped else branch
            y, x = unit.added(shortcut, branch, training)
            for values, value in zip(trace, (x, shortcut, branch, y)):
                values.append(value)
        return trace

    def loss_gradients(self, x, units, training, stopped):
        """Returns dE/dx_l and dE/dx_L for what `units` read and put out, E a cross-entropy of the whole network."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            end = self.run(x, units, training, stopped).xs[-1]
            last = self.run(end, slice(units.stop, None), training).xs[-1]
            loss = -tf.reduce_mean(tf.math.log(self.head(last, training=training)[:, 1]))
        return [array(gradient) for gradient in tape.gradient(loss, [x, end])]


@functools.cache
def random_cut(ordering, unit="basic"):
    """The `Cut` of a network of identity shortcuts with random weights."""
    return Cut(randomized(build(ordering=ordering, unit=unit)))


def direct_terms(model):
    """Returns, for a network of one stage, v^T dx_{L+1}/dx_l of every l from 1 to L + 1 in inference, and v, random."""
    start = model.get_layer("stem_relu").output
    ends = [layer.output for layer in model.layers if layer.name.startswith("stage")]
    ends = unit_outputs(model) if model.layout == "layers" else ends
    x, v = normal(2, *start.shape[1:]), normal(2, *start.shape[1:], seed=7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        xs = [x, *keras.tree.flatten(keras.Model(start, ends)(x))]
    return [array(gradient) for gradient in tape.gradient(xs[-1], xs, output_gradients=v)], array(v)


# 1. Eqs. (3) and (4): x_L = x_l + sum of F_i

SECOND_STAGE = slice(3, 6)  # without its first unit, which changes the shape


def deviation_from_sum(cut):
    """The largest |x_L - (x_l + sum of F_i)| within a stage, relative to the largest |x_L|."""
    x = cut.run(cut.stem(normal(4, 8, 8, 3)), slice(SECOND_STAGE.start)).xs[-1]
    trace = cut.run(x, SECOND_STAGE)
    return max(
        np.max(np.abs(trace.xs[end] - trace.xs[start] - sum(trace.branches[start:end]))) / np.max(np.abs(trace.xs[end]))
        for start in range(3)
        for end in range(start + 1, 4)
    )


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_a_signal_is_an_earlier_one_plus_the_branches_between(ordering, unit):
    assert deviation_from_sum(random_cut(ordering, unit)) < 4 * np.finfo(np.float64).eps


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("ordering", WITHOUT_IDENTITY_F)
def test_an_activation_after_the_addition_breaks_the_sum(ordering, unit):
    assert deviation_from_sum(random_cut(ordering, unit)) > 0.1


@pytest.mark.parametrize("shortcut", ["constant_scaling", "exclusive_gating", "shortcut_only_gating", "conv1x1"])
def test_a_shortcut_that_is_no_identity_breaks_the_sum(shortcut):
    assert deviation_from_sum(Cut(randomized(build(shortcut=shortcut)))) > 0.1


@pytest.mark.parametrize(
    ("exceptions", "fields"),
    [
        (["stage2_unit01", "stage3_unit01"], dict(units=(2, 2, 2), widths=(4, 8, 16), widening="zero_pad")),
        (["stage2_unit01", "stage3_unit01"], dict(units=(2, 2, 2), widths=(4, 8, 16))),
        (
            ["stage1_unit01", "stage2_unit01", "stage3_unit01"],
            dict(units=(2, 2, 2), widths=(4, 8, 16), unit="bottleneck"),
        ),
        (["stage2_unit01", "stage3_unit01", "stage4_unit01"], dict(units=(2, 2, 2, 2), widths=(4, 8, 16, 32))),
    ],
    ids=["cifar_zero_pad", "cifar_projection", "cifar_bottleneck", "imagenet_basic"],
)
def test_shortcuts_are_identities_except_where_the_shape_changes(exceptions, fields):
    cut = Cut(build(**fields))
    assert [unit.name for unit in cut.units if not unit.has_identity] == exceptions


def test_a_projection_breaks_the_sum_even_if_the_shape_stays():
    cut = Cut(randomized(one_stage(3, width=4, project_first_units=True)))
    trace = cut.run(cut.stem(normal(4, 8, 8, 3)))
    changed = [np.max(np.abs(y - x - branch)) for x, y, branch in zip(trace.xs, trace.sums, trace.branches)]
    assert changed[0] > 0.1
    assert max(changed[1:]) < 1e-14


# 2. Eq. (5): dE/dx_l = dE/dx_L + dE/dx_L * d(sum of F)/dx_l


def stage_input(cut):
    """What the second unit of the second stage reads in training."""
    return cut.run(cut.stem(normal(4, 8, 8, 3)), slice(SECOND_STAGE.start)).xs[-1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_the_gradient_passes_a_stage_unchanged_beside_its_branches(ordering, training):
    cut = random_cut(ordering)
    x = stage_input(cut)
    direct, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=True)
    assert np.any(at_end)
    np.testing.assert_array_equal(direct, at_end)

    whole, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=False)
    with tf.GradientTape() as tape:
        tape.watch(x)
        branches = sum(cut.run(x, SECOND_STAGE, training).branches)
    through_branches = array(tape.gradient(branches, x, output_gradients=at_end))
    assert np.max(np.abs(through_branches)) > 0.01 * np.max(np.abs(at_end))
    np.testing.assert_allclose(whole, at_end + through_branches, rtol=0, atol=1e-13 * np.max(np.abs(whole)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITHOUT_IDENTITY_F)
def test_an_activation_after_the_addition_changes_the_gradient_on_the_shortcut(ordering, training):
    cut = random_cut(ordering)
    direct, at_end = cut.loss_gradients(stage_input(cut), SECOND_STAGE, training, stopped=True)
    assert np.max(np.abs(direct - at_end)) > 0.1 * np.max(np.abs(at_end))


# 3. The gradient does not vanish, however small the weights are


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_a_stage_with_zero_weights_is_the_identity_both_ways(ordering, training):
    cut = Cut(without_branches(build(ordering=ordering)))
    x = stage_input(cut)
    np.testing.assert_array_equal(cut.run(x, SECOND_STAGE, training).xs[-1], x)
    at_start, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=False)
    assert np.any(at_end)
    np.testing.assert_array_equal(at_start, at_end)


def test_a_plain_network_with_zero_weights_has_no_gradient():
    gradients, _ = direct_terms(without_branches(one_stage(4, width=4, shortcut="none")))
    assert not np.any(gradients[:-1])


@pytest.mark.parametrize(("shortcut", "exponent"), [("identity", 0), ("none", 6)])
def test_small_weights_cost_a_plain_network_one_factor_a_unit(shortcut, exponent):
    def size(factor):
        model = one_stage(6, width=4, shortcut=shortcut)
        change_weights(model, last_convolution(model), lambda kernel: factor * kernel)
        gradients, _ = direct_terms(change_weights(model, "beta", lambda beta: beta + 1.0))
        return np.linalg.norm(gradients[0])

    assert np.log10(size(1e-4) / size(1e-5)) == pytest.approx(exponent, abs=0.01)


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


# 8. The original unit truncates


@functools.cache
def at_the_start(ordering, units=18, width=16):
    """The `Cut` and the trace in training of an untrained network of one stage, as wide as the first of ResNet-110."""
    cut = Cut(one_stage(units, width, ordering=ordering))
    return cut, cut.run(cut.stem(normal(16, 8, 8, 3), training=True))


def test_the_original_unit_cuts_off_negative_sums():
    _, trace = at_the_start("original")
    shares = [np.mean(y < 0) for y in map(array, trace.sums)]
    assert shares[0] == pytest.approx(0.37, abs=0.02)
    assert shares[-1] == pytest.approx(0.13, abs=0.02)
    assert min(shares) > 0.1
    for x, y in zip(trace.xs[1:], trace.sums):
        np.testing.assert_array_equal(x, np.where(array(y) >= 0, y, 0.0))


def test_the_original_unit_passes_the_gradient_where_no_sum_was_negative():
    cut, trace = at_the_start("original", units=4, width=4)
    x = trace.xs[0]
    direct, at_end = cut.loss_gradients(x, slice(0, 4), training=True, stopped=True)
    open_path = np.all([array(y) > 0 for y in cut.run(x).sums], axis=0)
    assert 0.1 < np.mean(open_path) < 0.9
    np.testing.assert_array_equal(direct, np.where(open_path, at_end, 0.0))


@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_the_other_units_pass_the_sum_on(ordering):
    _, trace = at_the_start(ordering, units=4, width=4)
    for x, y in zip(trace.xs[1:], trace.sums):
        np.testing.assert_array_equal(x, y)


# 9. BN after the addition rescales the shortcut


def test_bn_after_the_addition_fixes_mean_and_variance_whatever_comes_in():
    model = randomized(one_stage(2, width=4, ordering="bn_after_addition", bn_epsilon=0.0))
    norm = model.get_layer("stage1_unit02_bn_after_addition")
    normed = keras.Model(model.get_layer("stage1_unit01_relu_after_addition").output, norm.output)
    for scale in (0.1, 1.0, 70.0):
        y = array(normed(scale * normal(8, 8, 8, 4), training=True))
        np.testing.assert_allclose(y.mean((0, 1, 2)), norm.beta.value, rtol=1e-10)
        np.testing.assert_allclose(y.var((0, 1, 2)), norm.gamma.value**2, rtol=1e-10)


@pytest.mark.parametrize("ordering", keras_preact.ORDERINGS)
def test_only_bn_after_the_addition_keeps_the_signal_from_growing(ordering):
    _, trace = at_the_start(ordering)
    powers = [np.mean(np.square(x)) for x in trace.xs[1:]]
    if ordering == "bn_after_addition":
        np.testing.assert_allclose(powers, 0.6, atol=0.12)
    else:
        assert powers[-1] > 10


def test_bn_after_the_addition_multiplies_the_gradient_by_gamma_over_sigma():
    model = randomized(one_stage(4, width=4, ordering="bn_after_addition"))
    cut = Cut(model)
    x = cut.stem(normal(4, 8, 8, 3))
    direct, expected = cut.loss_gradients(x, slice(0, 4), training=False, stopped=True)
    for name, out in reversed(list(zip(unit_names(model), cut.run(x, training=False).xs[1:]))):
        norm = model.get_layer(f"{name}_bn_after_addition")
        sigma = np.sqrt(array(norm.moving_variance.value) + model.spec.bn_epsilon)
        expected = np.where(array(out) > 0, expected * array(norm.gamma.value) / sigma, 0.0)
    assert np.any(expected)
    np.testing.assert_allclose(direct, expected, rtol=1e-12)


# 10. ReLU before the addition: the signal can only grow


def test_relu_before_the_addition_lets_no_element_fall():
    _, trace = at_the_start("relu_before_addition")
    for before, after in zip(trace.xs, trace.xs[1:]):
        assert np.min(after - before) == 0.0
    powers = [np.mean(np.square(x)) for x in trace.xs]
    assert powers[0] == pytest.approx(0.5, rel=0.05)
    assert powers[18] == pytest.approx(63, rel=0.05)
    assert powers[18] / powers[9] > 3  # quadratic: 4; linear: 2


@pytest.mark.parametrize("ordering", [name for name in keras_preact.ORDERINGS if name != "relu_before_addition"])
def test_the_other_orderings_let_elements_fall(ordering):
    _, trace = at_the_start(ordering)
    for before, after in zip(trace.xs, trace.xs[1:]):
        assert np.min(after - before) < 0
    powers = [np.mean(np.square(x)) for x in trace.xs]
    assert powers[18] / powers[9] < 2.5


# 11. Under pre-activation F takes both signs, and nothing stands on the shortcut


@pytest.mark.parametrize("ordering", ["relu_only_preactivation", "preactivation"])
def test_under_preactivation_branches_take_both_signs_beside_a_bare_shortcut(ordering):
    cut, trace = at_the_start(ordering)
    assert all(unit.has_identity for unit in cut.units)
    for x, shortcut, branch in zip(trace.xs, trace.shortcuts, trace.branches):
        assert np.min(branch) < 0 < np.max(branch)
        np.testing.assert_array_equal(shortcut, x)


def test_relu_before_the_addition_gives_branches_one_sign():
    _, trace = at_the_start("relu_before_addition")
    assert all(np.min(branch) == 0 < np.max(branch) for branch in trace.branches)


# 12. Eq. (9), Fig. 5: an asymmetric activation after the addition is the next unit's pre-activation


def postactivated_name(name, units):
    """What the network with BN-ReLU after the addition calls the weight `name` of the pre-activation network."""
    layer, weight = name.split("/")
    unit, _, place = layer.rpartition("_bn")
    if layer == "final_bn":
        layer = f"{units[-1]}_bn_after_addition"
    elif unit in units and place == "1":
        layer = f"{units[units.index(unit) - 1]}_bn_after_addition"
    elif unit in units:
        layer = f"{unit}_bn{int(place) - 1}"
    return f"{layer}/{weight}"


def asymmetric_output(cut, x, shares_activation, training):
    """Applies a network of units with BN-ReLU after the addition so that F alone reads what BN-ReLU puts out.

    Args:
        cut: The network, a `Cut`.
        x: What its first unit reads.
        shares_activation: Whether h reads it too where it changes the shape (appendix of the paper).
        training: Whether BN uses the batch's statistics.
    """
    y = activated = x
    for unit in cut.units:
        shortcut, _ = unit.parts(activated if shares_activation and not unit.has_identity else y, training)
        _, branch = unit.parts(activated, training)
        y, activated = unit.added(shortcut, branch, training)
    return cut.head(activated, training=training)


@pytest.mark.parametrize("widening_reads", ["activated", "raw"])
@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
def test_an_asymmetric_activation_after_the_addition_is_a_preactivation(unit, widening_reads):
    fields = dict(unit=unit, widening_reads=widening_reads)
    after = randomized(build(ordering="bn_after_addition", **fields))
    before = randomized(build(ordering="preactivation", **fields), seed=2)
    theirs, units = named_weights(after), unit_names(after)
    for name, (variable, _) in named_weights(before).items():
        variable.assign(theirs.pop(postactivated_name(name, units))[0].value)
    assert not theirs

    batch, cut = normal(4, 8, 8, 3), Cut(after)
    for training in (False, True):
        x = cut.stem(batch, training=training)
        ours = array(asymmetric_output(cut, x, widening_reads == "activated", training))
        np.testing.assert_array_equal(ours, before(batch, training=training))
        assert not np.allclose(after(batch, training=training), ours)


# 13. Under full pre-activation every convolution behind conv1 reads a normalised signal


def producers(model):
    """The layer that puts out a tensor, by the tensor's id."""
    return {id(layer.output): layer for layer in model.layers}


def letters_between(model, first, last):
    """What stands between the layer called `first` and the tensor `last`: B for BN, R for ReLU, P for a max-pooling."""
    letters, by_tensor = "", producers(model)
    layer = by_tensor[id(last)]
    while layer.name != first:
        if isinstance(layer, keras.layers.Activation):
            assert layer.activation is keras.activations.relu
        letters = {"BatchNormalization": "B", "Activation": "R", "StemPool": "P"}[type(layer).__name__] + letters
        layer = by_tensor[id(layer.input)]
    return letters


def normalised_convolutions(model):
    """Returns for every convolution behind conv1 whether it reads BN-ReLU, by name."""
    by_tensor, found = producers(model), {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "stem_conv":
            behind = by_tensor[id(layer.input)]
            while not isinstance(behind, (keras.layers.Activation, keras.layers.Add)):
                behind = by_tensor[id(behind.input)]
            is_relu = isinstance(behind, keras.layers.Activation)
            norm = by_tensor[id(behind.input)] if is_relu else None
            found[layer.name] = isinstance(norm, keras.layers.BatchNormalization)
    return found


@pytest.mark.parametrize("unit", ["basic", "bottleneck", "single"])
def test_under_preactivation_all_convolutions_read_bn_relu(unit):
    found = normalised_convolutions(build(unit=unit))
    assert len(found) > 6
    assert all(found.values())


@pytest.mark.parametrize("ordering", ["original", "relu_before_addition", "relu_only_preactivation"])
def test_elsewhere_the_first_convolution_of_a_unit_reads_an_unnormalised_sum(ordering):
    found = normalised_convolutions(build(ordering=ordering))
    for name in ("stage1_unit02", "stage2_unit02", "stage2_unit03", "stage2_unit04"):
        assert not found[f"{name}_conv1"]
        assert found[f"{name}_conv2"]


def change_under_scaling(ordering, scales, unit="basic", **fields):
    """The largest change of the second unit's F in training when x is multiplied by `scales`, relative to F."""
    cut = Cut(randomized(one_stage(2, width=4, ordering=ordering, unit=unit, **fields)))
    x = normal(8, 8, 8, 4)
    (_, branch), (_, scaled) = (cut.units[1].parts(signal, training=True) for signal in (x, scales * x))
    return np.max(np.abs(scaled - branch)) / np.max(np.abs(branch))


SCALES = np.array([7.0, 0.5, 3.0, 1.0])  # a channel


@pytest.mark.parametrize("unit", ["basic", "single"])
def test_under_preactivation_branches_do_not_see_the_scale_of_the_signal(unit):
    assert change_under_scaling("preactivation", SCALES, unit, bn_epsilon=0.0) < 1e-14
    assert change_under_scaling("preactivation", 7.0, unit) < 1e-5  # bn_epsilon is what is left


# A factor common to all channels passes conv1 and is taken out by the BN behind it, so in a unit of two or three
# convolutions it leaves F as it is under every ordering; one factor a channel does so under pre-activation alone.
@pytest.mark.parametrize("unit", ["basic", "single"])
@pytest.mark.parametrize("ordering", [name for name in keras_preact.ORDERINGS if name != "preactivation"])
def test_elsewhere_branches_see_the_scales_of_the_channels(ordering, unit):
    assert change_under_scaling(ordering, SCALES, unit, bn_epsilon=0.0) > 0.1


# 14. Special cases at both ends

ENDS = {  # between conv1 and the first unit; between the last addition and the pooling
    "original": ("BR", "R"),
    "bn_after_addition": ("BR", "BR"),
    "relu_before_addition": ("BR", ""),
    "relu_only_preactivation": ("BR", "R"),
    "preactivation": ("BR", "BR"),
}


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("ordering", keras_preact.ORDERINGS)
def test_one_activation_stands_before_the_first_split_and_one_after_the_last_addition(ordering, unit):
    model = build(ordering=ordering, unit=unit)
    split = model.get_layer("stage1_unit01_conv1").input
    projects = unit == "bottleneck"
    shortcut = model.get_layer("stage1_unit01_shortcut_conv").input if projects else None
    assert split is (shortcut if projects else model.get_layer("stage1_unit01_add").input[0])
    ends = (
        letters_between(model, "stem_conv", split),
        letters_between(model, "stage2_unit04_add", model.get_layer("pool").input),
    )
    assert ends == ENDS[ordering]


@pytest.mark.parametrize(
    ("letters", "stem", "first_unit_activates"),
    [
        ("BRP", {"pool": "negative_infinity"}, False),
        ("BR", {"activates": False}, False),
        ("PBR", {"activates": False, "pool": "zero"}, False),
        ("BRPBR", {"pool": "negative_infinity"}, True),
    ],
)
def test_an_imagenet_stem_activates_once_unless_the_first_unit_is_told_to(letters, stem, first_unit_activates):
    spec = dict(unit="bottleneck", stem={"width": 4, **stem}, first_unit_activates=first_unit_activates)
    model = build(**spec)
    assert letters_between(model, "stem_conv", model.get_layer("stage1_unit01_conv1").input) == letters


def count_layers(model):
    """Numbers of convolutions without projections, of projections, and of batch normalisations."""
    names = [name for name in named_weights(model) if name.endswith(("/kernel", "/gamma"))]
    projections = sum("shortcut_conv/" in name for name in names)
    convolutions = sum("conv" in name for name in names) - projections
    return convolutions, projections, sum("/gamma" in name for name in names)


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [
        ("resnet110", "layers", (109, 0, 109)),
        ("resnet110", "stacked", (109, 0, 109)),
        ("resnet164", "layers", (163, 3, 163)),
        ("resnet164", "stacked", (163, 3, 163)),
        ("resnet1001", "stacked", (1000, 3, 1000)),
    ],
)
def test_there_are_as_many_normalisations_as_convolutions_without_projections(name, layout, expected):
    assert count_layers(keras_preact.get_model(name, layout=layout, dtype="float32")) == expected


def test_the_original_network_normalises_its_projections_too():
    assert count_layers(keras_preact.get_model("resnet164", ordering="original")) == (163, 3, 166)
