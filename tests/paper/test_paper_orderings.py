"""What the paper says of the orderings of Fig. 4, eq. (9) and both ends of a network: properties 8 to 14.

Where a property holds for some orderings only, the others are tested to break it.
"""

import functools

import keras
import numpy as np
import pytest
from changed_weights import randomized
from cut_networks import WITH_IDENTITY_F, Cut, array, build, normal, one_stage, unit_names

import keras_preact
from keras_preact.network.named_weights import named_weights

pytestmark = pytest.mark.usefixtures("float64")

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
def test_there_are_as_many_normalisations_as_convolutions_without_projections(name, layout, expected, no_values):
    assert count_layers(keras_preact.get_model(name, layout=layout, dtype="float32")) == expected


def test_the_original_network_normalises_its_projections_too(no_values):
    assert count_layers(keras_preact.get_model("resnet164", ordering="original")) == (163, 3, 166)
