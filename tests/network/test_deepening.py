"""Deeper networks made of trained ones: the same function, the gradients that follow from it, the optimizer's state."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from products import diagonals

import keras_preact
from keras_preact.data import load
from keras_preact.network.deepening import IMAGES, deepen
from keras_preact.network.named_weights import assign, named_weights, value_at
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.network.unit_spec import ORDERINGS

RNG = np.random.default_rng(0)
SHORTCUTS = {
    "identity": "identity",
    "scale 1": ShortcutSpec("constant_scaling", scale=1.0, branch_scale=0.5),
    "conv1x1": "conv1x1",
    "dropout": "dropout",
}


def network(unit="basic", units=(2, 1), layout="stacked", widths=(4, 8), **fields):
    """Returns a network whose every weight, and every moving statistic, is drawn at random."""
    spec = keras_preact.NetworkSpec(units, widths[: len(units)], unit, stem={"width": 4}, **fields)
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), layout=layout, dtype="float64")
    for variable in model.variables:
        if "kernel" not in variable.path and variable.dtype == "float64":
            variable.assign(RNG.uniform(0.5, 1.5, variable.shape))
    return model


def images():
    return RNG.normal(size=(4, 8, 8, 3))


VARIANTS = {
    "ordering": [name for name in ORDERINGS if name != "bn_after_addition"],
    "shortcut": list(SHORTCUTS),
    "unit": ["basic", "bottleneck", "single"],
    "place": ["end", "spread"],
}


@pytest.mark.parametrize(tuple(VARIANTS), diagonals(*VARIANTS.values(), every=4))
def test_a_deepened_network_computes_the_same(ordering, shortcut, unit, place, float64):
    fields = {"ordering": ordering, "shortcut": SHORTCUTS[shortcut]}
    if shortcut == "conv1x1":
        fields["shortcut_norm"] = False
    model, x = network(unit, **fields), images()
    deeper = deepen(model, units=(5, 3), place=place)
    assert deeper.spec.units == (5, 3)
    np.testing.assert_allclose(deeper(x), model(x), rtol=0, atol=1e-10)
    if shortcut != "dropout":  # which draws its own mask in every unit
        np.testing.assert_allclose(deeper(x, training=True), model(x, training=True), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("place", "new"), [("end", {"05", "06", "07"}), ("spread", {"03", "05", "07"})])
def test_new_units_stand_at_the_end_or_behind_each_old_one(place, new):
    deeper = deepen(network(units=(4,)), units=(7,), place=place)
    assert {name.split("_")[1].removeprefix("unit") for name in deeper.loaded.new} == new


@pytest.mark.parametrize("ordering", ["original", "relu_before_addition", "relu_only_preactivation", "preactivation"])
def test_all_weights_of_the_new_units_learn(ordering):
    keras.utils.set_random_seed(0)
    # In 16 channels: behind a ReLU a channel may go to where it has no gradient, and with few so may all.
    deeper = deepen(network("basic", units=(1,), widths=(16,), ordering=ordering), units=(2,))
    before = {weight.path: weight.numpy() for weight in deeper.trainable_weights}
    deeper.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    for _ in range(4):
        deeper.train_on_batch(images(), np.arange(len(images())) % 2)
    new = [weight for weight in deeper.trainable_weights if "unit02" in weight.path]
    assert new
    assert [weight.path for weight in new if np.array_equal(weight.numpy(), before[weight.path])] == []


def test_the_kernel_that_ends_a_unit_before_a_relu_learns(registries):
    keras_preact.register_ordering("relu_tail", lead="B", tail="R")
    model, x = network(units=(1,), widths=(16,), ordering="relu_tail"), images()
    deeper = deepen(model, units=(2,))
    np.testing.assert_allclose(deeper(x), model(x), rtol=0, atol=1e-9)
    kernel = named_weights(deeper)["stage1_unit02_conv2/kernel"][0]
    before = kernel.numpy()
    deeper.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    deeper.train_on_batch(x, np.arange(len(x)) % 2)
    assert np.abs(kernel.numpy() - before).max() > 1e-6


def test_both_layouts_become_the_same_network(float64):
    for place in ("end", "spread"):
        model, x = network("bottleneck"), images()
        layered = keras_preact.relayout(model, "layers")
        keras.utils.set_random_seed(3)
        ours = deepen(model, units=(7, 3), place=place)
        deeper = deepen(layered, units=(7, 3), place=place)
        assert deeper.layout == "layers"
        np.testing.assert_allclose(deeper(x), ours(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shortcut": "none"}, r"shortcut.*identity.*'none'.*degradation problem"),
        ({"shortcut": "exclusive_gating"}, r"shortcut.*gate multiplies"),
        ({"shortcut": "shortcut_only_gating"}, r"shortcut.*gate multiplies"),
        ({"shortcut": "constant_scaling"}, r"shortcut.*multiplied by 0\.5"),
        ({"shortcut": "conv1x1", "ordering": "original"}, r"shortcut.*BN follows the 1x1"),
        ({"ordering": "bn_after_addition"}, r"ordering.*BN follows the addition"),
        ({"stochastic_depth": (0.0, 0.1, 0.1)}, r"stochastic_depth.*one number"),
    ],
)
def test_what_cannot_be_the_identity_is_refused_with_the_reason(fields, message):
    with pytest.raises(ValueError, match=message):
        deepen(network(**fields), units=(3, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"depth.*given, or `units`"),
        ({"depth": 29, "units": (3, 3, 3)}, r"depth.*not both"),
        ({"depth": 30}, r"depth.*9n \+ 2.*30.*Nearest: 29, 38"),
        ({"depth": 11}, r"depth.*at least 20.*11"),
        ({"units": (3, 1, 3)}, r"units.*at least \(2, 2, 2\)"),
        ({"units": (3, 3)}, r"units.*for each stage"),
        ({"depth": 29, "place": "start"}, r'place.*"end"'),
        ({"depth": 29, "branch": "half"}, r'branch.*"zero"'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    model = keras_preact.ResNet(20, unit="bottleneck", input_shape=(8, 8, 3))
    with pytest.raises(ValueError, match=message):
        deepen(model, **arguments)
    with pytest.raises(ValueError, match="that keras_preact built"):
        deepen(keras.Sequential(), 29)


@pytest.mark.parametrize(("layout", "tap"), [("layers", "sum"), ("layers", "activated"), ("stacked", "activated")])
def test_a_backbone_grows_as_far_as_it_goes(layout, tap, float64):
    backbone, x = keras_preact.ResNetFeatures(network(layout=layout), "stage1", tap), images()
    deeper = deepen(backbone, units=(4, 3))
    assert (deeper.spec.units, deeper.features) == ((4, 3), {"stage1": tap})
    assert len(named_weights(deeper)) > len(named_weights(backbone))
    np.testing.assert_allclose(deeper(x)["stage1"], backbone(x)["stage1"], rtol=0, atol=1e-10)
    copied = deepen(backbone, units=(4, 3), branch="copy")  # stage 2, which has no unit to copy, is not there
    assert copied.loaded.new == deeper.loaded.new


def test_imagenet_networks_grow_to_the_depths_in_use():
    model = keras_preact.ResNet(family="imagenet", units=(1, 1, 1, 1), input_shape=(32, 32, 3), num_classes=2)
    assert deepen(model, 50).spec.units == (3, 4, 6, 3)
    with pytest.raises(ValueError, match=r"one of 26, 50, 101, 152, 200"):
        deepen(model, 51)


def test_the_gradients_of_new_units_are_as_the_formulas_say(float64):
    """dE/dx_l = dE/dx_{l+1}; of F only the last convolution has a gradient: its input times dE/dx_{l+1}."""
    model = deepen(network("bottleneck", units=(2,), layout="layers"), units=(3,))
    assert model.spec.depth == 11
    added = [model.get_layer(f"stage1_unit0{number}_add").output for number in (2, 3)]
    read = model.get_layer("stage1_unit03_relu3").output
    parts = keras.Model(model.inputs, [*added, read, model.output])
    x = tf.constant(images())
    with tf.GradientTape() as tape:
        before, after, reads, outputs = parts(x, training=True)
        loss = tf.reduce_sum(tf.math.log(outputs[:, 0]))
    new = {v.path: v.value for v in model.trainable_variables if v.path.startswith("stage1_unit03")}
    of_before, of_after, of_weights = tape.gradient(loss, [before, after, new])
    np.testing.assert_allclose(of_before, of_after, rtol=1e-12)
    expected = np.einsum("bhwi,bhwo->io", reads, of_after)
    for path, gradient in of_weights.items():
        if path.endswith("conv3/kernel"):
            np.testing.assert_allclose(gradient[0, 0], expected, rtol=1e-9)
            assert np.abs(expected).max() > 0
        else:
            assert not np.any(gradient), path


def test_an_optimizer_built_before_layers_were_frozen_is_that_of_the_same_weights():
    model = network(units=(2,))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images(), np.arange(4))
    momentum = dict(zip(map(id, model.trainable_variables), model.optimizer.momentums))
    wanted = momentum[id(model.get_layer("predictions").kernel)].numpy()
    model.get_layer("stem_conv").trainable = False
    deeper = deepen(model, units=(3,))
    theirs = {variable.path: slot for variable, slot in zip(deeper.trainable_variables, deeper.optimizer.momentums)}
    assert len(deeper.optimizer.momentums) == len(deeper.trainable_variables)
    np.testing.assert_array_equal(theirs[deeper.get_layer("predictions").kernel.path], wanted)
    assert np.isfinite(deeper.train_on_batch(images(), np.arange(4)))


@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_the_optimizer_goes_on_where_it_was(layout):
    model = keras_preact.ResNet(20, unit="bottleneck", input_shape=(8, 8, 3), layout=layout)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True)
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(RNG.normal(size=(16, 8, 8, 3)), np.arange(16) % 10, batch_size=8, verbose=0)
    deeper = deepen(model, 47, place="spread")
    assert int(deeper.optimizer.iterations.numpy()) == 2
    assert float(deeper.optimizer.learning_rate) == pytest.approx(0.01)
    old, new = ({n: (v, i) for n, (v, i) in named_weights(m).items() if v.trainable} for m in (model, deeper))
    momenta = [dict(zip(map(id, m.trainable_variables), m.optimizer.momentums)) for m in (model, deeper)]
    averages = [
        dict(zip(map(id, m.trainable_variables), m.optimizer._model_variables_moving_average)) for m in (model, deeper)
    ]

    def at(slots, variable, index):
        array = slots[id(variable)].numpy() if slots else variable.numpy()
        return array if index is None else array[index]

    # Units 1 and 2 of each stage are now 1 and 2; what was spread over the stage follows the second.
    for name, place in new.items():
        was = name
        if name in old and "unit03" not in name:
            np.testing.assert_array_equal(at(momenta[1], *place), at(momenta[0], *old[was]), err_msg=name)
        else:
            assert not at(momenta[1], *place).any(), name
            np.testing.assert_array_equal(at(averages[1], *place), at(None, *place), err_msg=name)
    losses = deeper.fit(RNG.normal(size=(16, 8, 8, 3)), np.arange(16) % 10, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all()


def test_a_copy_projects_no_signal_twice(float64):
    """Where F adds nothing, a copied unit is the identity, though the shortcut before it is a projection."""
    model, x = network("basic", units=(3, 3), shortcut="conv1x1", shortcut_norm=False), images()
    ends = {name: place for name, place in named_weights(model).items() if name.endswith("_conv2/kernel")}
    assign(ends, lambda name: np.zeros_like(value_at(ends[name])))
    deeper = deepen(model, units=(6, 5), branch="copy")
    np.testing.assert_allclose(deeper(x), model(x), rtol=0, atol=1e-10)


def test_copies_share_what_one_unit_added(float64):
    model, x = network("bottleneck", units=(3, 3)), images()
    deeper = deepen(model, units=(6, 3), branch="copy")
    stated = float(deeper.loaded.adapted[0].rpartition(" ")[2])
    drawn = np.random.default_rng(0).normal(size=(IMAGES, 8, 8, 3)).astype("float32")
    assert stated == pytest.approx(np.abs(deeper(drawn).numpy() - model(drawn).numpy()).max(), rel=0.06)  # two digits
    weights, before = named_weights(deeper), named_weights(model)
    last = before["stage1_unit03_conv3/kernel"][0].numpy()[before["stage1_unit03_conv3/kernel"][1]]
    for number in (3, 4, 5, 6):
        variable, index = weights[f"stage1_unit0{number}_conv3/kernel"]
        np.testing.assert_allclose(variable.numpy()[index], last / 4)
    model.compile(keras.optimizers.SGD(0.0, use_ema=True), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(x, np.arange(len(x)) % 2)  # which leaves the averages at the weights
    grown = deepen(model, units=(6, 3), branch="copy")
    grown.optimizer.finalize_variable_values(grown.trainable_variables)
    for ours, theirs in zip(grown.trainable_variables, deeper.trainable_variables):
        np.testing.assert_allclose(ours, theirs, err_msg=ours.path)
    difference = np.abs(deeper(x).numpy() - model(x).numpy()).max()
    assert 0 < difference < 1
    with pytest.raises(ValueError, match=r"no unit to copy"):
        deepen(network("bottleneck"), units=(2, 2), branch="copy")


def test_files_and_reports_are_those_of_any_network(tmp_path):
    model = keras_preact.ResNet164(weights="digits")
    deeper = deepen(model, 200)
    assert deeper.name == "resnet200"
    assert deeper.card is model.card
    assert deeper.loaded.source == "resnet164.digits.digits"
    assert "(18, 18, 18) units became resnet200 of (22, 22, 22) units" in str(deeper.loaded)
    x = RNG.normal(size=(2, 16, 16, 1)).astype("float32")
    deeper.save(tmp_path / "deeper.keras")
    deeper.save_weights(tmp_path / "deeper.weights.h5")
    again = keras.models.load_model(tmp_path / "deeper.keras")
    other = keras_preact.ResNet(200, family="cifar", input_shape=(16, 16, 1), weights=tmp_path / "deeper.weights.h5")
    for network in (deeper, again, other):
        np.testing.assert_allclose(network(x), model(x), rtol=0, atol=1e-5)
    assert deepen(model, 164) is model


def test_frozen_layers_stay_frozen():
    model = keras_preact.ResNet(20, unit="bottleneck", input_shape=(8, 8, 3), layout="layers")
    model.get_layer("stem_conv").trainable = False
    model.get_layer("stage1_unit02_conv1").trainable = False
    deeper = deepen(model, 29)
    frozen = [layer.name for layer in deeper.layers if not layer.trainable]
    assert frozen == ["stem_conv", "stage1_unit02_conv1"]


@pytest.mark.long
def test_a_trained_network_that_is_grown_and_trained_on_becomes_better():
    """29 layers become 56, on digits of 8x8 pixels: the same answers at first, then better ones, by new units too."""
    digits = load("digits")
    (images, labels), (unseen, truth) = (
        (digits.normalized(split.images)[:, ::2, ::2], split.labels) for split in (digits.train, digits.test)
    )

    def error_and_loss(outputs):
        return np.mean(outputs.argmax(-1) != truth), -np.log(outputs[np.arange(len(truth)), truth]).mean()

    keras.utils.set_random_seed(0)
    model = keras_preact.ResNet(29, unit="bottleneck", input_shape=(8, 8, 1), num_classes=10)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=32, verbose=0)
    deeper = deepen(model, 56)
    assert deeper.spec.units == (6, 6, 6)
    before, grown = (network(unseen, training=False).numpy() for network in (model, deeper))
    np.testing.assert_allclose(grown, before, rtol=0, atol=1e-5)
    (error, loss), weights = error_and_loss(before), named_weights(deeper)
    assert error < 0.2  # 0.12 measured

    deeper.fit(images, labels, batch_size=32, verbose=0)
    error_after, loss_after = error_and_loss(deeper(unseen, training=False).numpy())
    assert error_after <= error
    assert loss_after < 0.8 * loss  # 0.36 of it measured
    for stage in (1, 2, 3):
        variable, index = weights[f"stage{stage}_unit06_conv3/kernel"]
        assert np.any(variable.numpy()[index])  # it was zero
