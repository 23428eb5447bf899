"""Feature maps: they are what the paper's units pass on, in both layouts, through files, and in bigger models."""

import itertools
import math

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.network.costs import model_costs, summary
from keras_preact.network.named_weights import copy_weights, named_weights
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.unit_spec import ORDERINGS

pytestmark = pytest.mark.usefixtures("float64")

STAGES = ("stage1", "stage2", "stage3")
SUMS = {
    **dict.fromkeys(("original", "bn_after_addition"), "relu_after_addition"),
    **dict.fromkeys(("relu_before_addition", "relu_only_preactivation", "preactivation"), "add"),
}


def build(layout="layers", strides=(1, 2, 2), **arguments):
    """Seven units in stage 2, so that the stacked layout loops; with its stride 1 the first of them, too."""
    fields = {name: arguments.pop(name) for name in ("ordering", "widening_reads") if name in arguments}
    spec = NetworkSpec(units=(2, 7, 2), widths=(4, 4, 6), unit="basic", stem={"width": 4}, strides=strides, **fields)
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=5, layout=layout, **arguments)


def randomized(model):
    rng = np.random.default_rng(1)
    for variable, _ in named_weights(model).values():
        noise = rng.normal(size=variable.shape) * (0.1 if len(variable.shape) == 1 else 0.3)
        variable.assign(np.abs(1 + noise) if variable.name.endswith(("gamma", "variance")) else noise)
    return model


def images(count=3):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3))


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9)


def signals(whole, tap):
    """The stages' signals by the names of a whole network's layers, in the layout of layers."""
    ordering = whole.spec.ordering
    names = [f"stage1_unit02_{SUMS[ordering]}", f"stage2_unit07_{SUMS[ordering]}", f"stage3_unit02_{SUMS[ordering]}"]
    if tap == "activated" and ORDERINGS[ordering].is_preactivation:
        names = ["stage2_unit01_relu1", "stage3_unit01_relu1", "final_relu"]
    outputs = dict(zip(STAGES, (whole.get_layer(name).output for name in names)))
    return keras.Model(whole.input, outputs)(images())


@pytest.mark.parametrize("ordering", ORDERINGS)
@pytest.mark.parametrize("tap", ["sum", "activated"])
def test_a_tap_is_the_signal_of_the_named_layer(ordering, tap):
    whole = randomized(build(ordering=ordering, strides=(1, 1, 2)))
    expected = signals(whole, tap)
    for layout in ("layers", "stacked"):
        features = build(layout, ordering=ordering, strides=(1, 1, 2), features=STAGES, tap=tap)
        copy_weights(whole, features)
        assert_equal(features(images()), expected)


def test_without_a_leading_activation_activated_is_the_sum_and_with_one_it_is_not():
    for ordering in ORDERINGS:
        network = build(ordering=ordering, features=["stage1", "stage2"], tap=["activated", "sum"])
        other = build(ordering=ordering, features=["stage1", "stage2"], tap="sum")
        copy_weights(network, other)
        equal = np.allclose(network(images())["stage1"], other(images())["stage1"])
        assert equal == (not ORDERINGS[ordering].is_preactivation)


def test_raw_widening_reads_the_sum_and_the_tap_still_what_the_convolution_reads():
    whole = randomized(build(widening_reads="raw"))
    features = build("stacked", widening_reads="raw", features=STAGES, tap="activated")
    copy_weights(whole, features)
    assert_equal(features(images()), signals(whole, "activated"))


def test_strides_are_what_the_shapes_say():
    network = keras_preact.ResNet50(input_shape=(64, 96, 3), features=["stage1", "stage3", "stage4"])
    assert network.feature_strides == {"stage1": 4, "stage3": 16, "stage4": 32}
    for name, stride in network.feature_strides.items():
        assert network.output[name].shape[1:3] == (64 // stride, 96 // stride)


@pytest.mark.parametrize("layout", ["layers", "stacked"])
@pytest.mark.parametrize(("features", "tap"), [(STAGES, "activated"), (("stage1",), "activated"), (("stage2",), "sum")])
def test_weights_files_of_the_whole_network_fit_and_their_own_make_the_round_trip(layout, features, tap, tmp_path):
    whole = randomized(build())
    whole.save_weights(tmp_path / "whole.weights.h5")
    network = build(layout, features=features, tap=tap, weights=tmp_path / "whole.weights.h5")
    expected = {name: signal for name, signal in signals(whole, tap).items() if name in features}
    assert_equal(network(images()), expected)

    network.save_weights(tmp_path / "own.weights.h5")
    other = "layers" if layout == "stacked" else "stacked"
    assert_equal(build(other, features=features, tap=tap, weights=tmp_path / "own.weights.h5")(images()), expected)
    assert_equal(keras_preact.relayout(network, other)(images()), expected)
    for refusing in (build(), build(include_top=False), build(features=["stage3"])):
        before = refusing.get_weights()
        with pytest.raises(ValueError, match="They differ in features"):
            refusing.load_weights(tmp_path / "own.weights.h5")
        assert all(map(np.array_equal, before, refusing.get_weights()))


def test_a_network_without_the_top_reads_the_trunk_of_one_with(tmp_path):
    whole = randomized(build("stacked"))
    whole.save_weights(tmp_path / "whole.weights.h5")
    trunk = build("stacked", include_top=False, weights=tmp_path / "whole.weights.h5")
    np.testing.assert_array_equal(
        trunk(images()), keras.Model(whole.input, whole.get_layer("final_relu").output)(images())
    )


@pytest.mark.filterwarnings("ignore:.*The structure of `inputs` doesn't match")  # Keras 3.10, of a part
def test_a_backbone_in_a_bigger_model_trains_and_saves_in_both_layouts(tmp_path):
    first = randomized(build(features=["stage1", "stage3"], tap="activated"))
    models = []
    for layout in ("layers", "stacked"):
        backbone = build(layout, features=["stage1", "stage3"], tap="activated")
        copy_weights(first, backbone)
        inputs = keras.Input((8, 8, 3))
        maps = backbone(inputs)
        pooled = [keras.layers.GlobalAveragePooling2D()(maps[name]) for name in ("stage1", "stage3")]
        outputs = keras.layers.Dense(2, kernel_initializer="ones")(keras.layers.Concatenate()(pooled))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.01), "mean_squared_error", jit_compile=False)
        model.train_on_batch(images(), np.zeros((3, 2)))
        models.append(model)
    np.testing.assert_allclose(*(model(images()) for model in models), rtol=1e-7)
    models[1].save(tmp_path / "bigger.keras")
    loaded = keras.models.load_model(tmp_path / "bigger.keras")
    np.testing.assert_array_equal(loaded(images()), models[1](images()))


@pytest.mark.parametrize("ordering", ["original", "preactivation"])
@pytest.mark.parametrize("strides", [(1, 2, 2), (1, 1, 2)])
def test_a_backbone_costs_what_it_holds(ordering, strides):
    for layout, stages, tap in itertools.product(("layers", "stacked"), (STAGES[:1], STAGES), ("sum", "activated")):
        backbone = build(layout, strides, ordering=ordering, features=stages, tap=tap)
        parts = model_costs(backbone)
        counts = [sum(getattr(part, name) for part in parts) for name in ("trainable", "moving")]
        held = [backbone.trainable_variables, backbone.non_trainable_variables]
        assert counts == [sum(math.prod(variable.shape) for variable in variables) for variables in held]
        assert [part.name for part in parts][: len(stages) + 1] == ["stem", *stages]


def test_the_summary_of_a_backbone_says_where_it_ends():
    lines = []
    summary(build(features="stage2"), print_fn=lines.append)
    assert lines[0].endswith("24 layers, preactivation, shortcut identity; as far as stage2")
    assert [line.split()[0] for line in lines[3:]] == ["stem", "stage1", "stage2", "all", "parameters"]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("mixed_bfloat16", 2), ("float64", 8)])
def test_a_summary_has_the_bytes_of_the_signals(dtype, size):
    lines, model = [], keras_preact.ResNet(8, dtype=dtype)
    summary(model, 100, print_fn=lines.append)
    megabytes = sum(cost.elements for cost in model_costs(model)) * size * 100 / 1e6
    assert lines[-2].split()[-1] == f"{megabytes:,.1f}"


def test_the_backbone_of_a_built_network_has_a_copy_of_its_weights():
    whole = randomized(build())
    expected = signals(whole, "activated")
    backbone = keras_preact.ResNetFeatures(whole, STAGES, "activated")
    whole.set_weights([0 * weight for weight in whole.get_weights()])
    assert_equal(backbone(images()), expected)
    with pytest.raises(ValueError, match="of the stages that the network holds"):
        keras_preact.ResNetFeatures(keras_preact.ResNetFeatures(whole, "stage1"), "stage3")


def test_the_backbone_of_trained_weights_knows_their_card():
    whole = keras_preact.ResNet164(weights="digits")
    backbone = keras_preact.ResNetFeatures(whole, "stage2")
    assert (backbone.card, backbone.loaded) == (whole.card, whole.loaded)
    assert keras_preact.preprocess_input(np.zeros((1, 16, 16, 1)), backbone.card).shape == (1, 16, 16, 1)


def test_a_backbone_without_stages_is_refused():
    for model in ("resnet11", build()):
        with pytest.raises(ValueError, match=r"features.*one at least.*None"):
            keras_preact.ResNetFeatures(model, None)


def test_the_backbone_of_a_name_takes_the_keywords_of_its_function():
    assert list(keras_preact.ResNetFeatures("resnet11", "stage2", ordering="original").output) == ["stage2"]
    with pytest.raises(ValueError, match="the name of a network if there are other keywords"):
        keras_preact.ResNetFeatures(build(), "stage1", ordering="original")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": ["stage4"]}, 'Nearest: "stage3"'),
        ({"features": []}, "one at least"),
        ({"features": ["stage1", "stage1"]}, "different stages"),
        ({"features": ["stage1", "stage2"], "tap": ["sum"]}, "one for each"),
        ({"features": "stage1", "tap": "activation"}, 'Nearest: "activated"'),
        ({"features": "stage1", "pooling": "avg"}, "`pooling` must be None"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)
