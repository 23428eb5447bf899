"""The public builders: signatures, counts, names of layers, and bad input."""

import inspect
import math

import keras
import pytest

import keras_preact
from keras_preact.laboratory.reproduce.parameters import ROWS, measure

KERAS = [
    "include_top",
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "num_classes",
    "classifier_activation",
    "name",
]
OURS = ["ordering", "shortcut", "widening", "stride_on", "layout", "unroll", "remat", "dtype", "features", "tap"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_parameters_and_multiply_adds_are_the_papers_to_the_digit(row):
    parameters, multiply_adds = measure(row)
    assert parameters == row.parameters
    assert row.multiply_adds in (None, multiply_adds)


@pytest.mark.parametrize(
    ("implementation", "depth", "classes", "trainable"),
    [
        ("keras_applications", 50, 1000, 25_568_360),
        ("keras_applications", 101, 1000, 44_577_896),
        ("keras_applications", 152, 1000, 60_236_904),
        ("keras_applications", 200, 1000, 64_726_120),
        ("slim", 50, 1001, 25_570_409),
        ("slim", 101, 1001, 44_579_945),
        ("slim", 152, 1001, 60_238_953),
        ("slim", 200, 1001, 64_728_169),
        ("gluon", 50, 1000, 25_549_480),
        ("mxnet", 200, 1000, 64_666_280 + 3),
        ("osmr_b", 152, 1000, 60_185_256),
    ],
)
def test_other_implementations_graphs_have_their_counts(implementation, depth, classes, trainable):
    fields = keras_preact.IMPLEMENTATIONS[implementation]
    model = keras_preact.ResNet(depth, family="imagenet", num_classes=classes, **fields)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == trainable


@pytest.mark.parametrize("name", keras_preact.list_models())
def test_keras_arguments_come_first_and_ours_are_keyword_only(name):
    parameters = inspect.signature(keras_preact.zoo._MODELS[name]).parameters
    assert list(parameters) == [*KERAS, *OURS, "spec_fields"]
    assert parameters["name"].default == name
    ours = [parameter.kind for parameter in list(parameters.values())[8:-1]]
    assert set(ours) == {inspect.Parameter.KEYWORD_ONLY}


def test_the_registry_lists_the_functions_in_lower_case():
    names = keras_preact.list_models()
    assert names == ["resnet110", "resnet164", "resnet1001", "resnet50", "resnet101", "resnet152", "resnet200"]
    assert keras_preact.get_model("ResNet164", num_classes=7).output_shape == (None, 7)
    assert keras_preact.get_model("resnet29").spec.depth == 29


def test_the_defaults_are_the_papers():
    assert keras_preact.ResNet110().spec.widening == "zero_pad"
    cifar = keras_preact.ResNet1001(num_classes=10)
    assert (cifar.input_shape, cifar.output_shape) == ((None, 32, 32, 3), (None, 10))
    assert (cifar.spec.stride_on, cifar.spec.widening, cifar.spec.stem.activates) == ("1x1", "projection", True)
    imagenet = keras_preact.ResNet50()
    assert (imagenet.input_shape, imagenet.output_shape) == ((None, 224, 224, 3), (None, 1000))
    assert (imagenet.spec.stride_on, imagenet.spec.stem.pool) == ("3x3", "negative_infinity")


def test_layer_names_are_frozen():
    spec = keras_preact.NetworkSpec((2, 2), (4, 8))
    model = keras_preact.build_network(spec, layout="layers")
    unit = ["bn1", "relu1", "conv1", "bn2", "relu2", "conv2", "bn3", "relu3", "conv3", "add"]
    golden = {"images", "stem_conv", "stem_bn", "stem_relu", "final_bn", "final_relu", "pool", "logits", "predictions"}
    golden |= {f"stage{stage}_unit{number}_{part}" for stage in (1, 2) for number in ("01", "02") for part in unit}
    golden -= {"stage1_unit01_bn1", "stage1_unit01_relu1"}
    golden |= {"stage2_unit01_shortcut_conv"}
    assert {layer.name for layer in model.layers} == golden
    stacked = keras_preact.build_network(spec.replace(units=(3, 120)))
    names = [layer.name for layer in stacked.layers if layer.name.startswith("stage")]
    assert names == ["stage1_unit01", "stage1_units02_03", "stage2_unit001", "stage2_units002_120"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ordering": "pre-act"}, 'ordering.*pre-act.*Nearest: "preactivation"'),
        ({"shortcut": "gated"}, "shortcut.*gated.*Nearest"),
        ({"num_classes": 0}, "num_classes.*at least 1.*0.*Nearest: 1"),
        ({"num_classes": -1}, "num_classes.*-1.*Nearest: 1"),
        ({"num_classes": 1.5}, "num_classes.*1.5.*Nearest: 2"),
        ({"num_classes": True}, "num_classes.*True"),
        ({"input_shape": (32, 32)}, r"input_shape.*\(height, width, channels\).*\(32, 32\)"),
        ({"input_shape": (32, 32, None)}, "input_shape.*known channels"),
        ({"input_shape": (7, 32, 3)}, r"input_shape.*at least 8x8.*Nearest: \(8, 32, 3\)"),
        ({"input_shape": 32}, "input_shape.*height, width, channels.*32"),
        ({"weights": "imagenet22k"}, "weights.*imagenet22k"),
        ({"weights": 3}, "weights.*3"),
        ({"pooling": "mean"}, "pooling.*avg.*mean"),
        ({"classifier_activation": "sofmax"}, "classifier_activation.*sofmax"),
        ({"layout": "looped"}, "layout.*stacked.*looped"),
        ({"unroll": 0}, "unroll.*at least 1.*0"),
        ({"unroll": "al"}, 'unroll.*whole number, "auto" or "all".*al'),
        ({"remat": -1}, "remat.*-1"),
        ({"input_tensor": [1, 2]}, "input_tensor.*Keras tensor.*list"),
        ({"shortcut": keras_preact.ShortcutSpec, "dtype": None}, "shortcut"),
        ({"width": 3}, "NetworkSpec field.*width.*Nearest"),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(arguments, message, monkeypatch):
    monkeypatch.setattr(keras_preact.zoo, "ResidualNetwork", None)
    with pytest.raises(ValueError, match=message):
        keras_preact.ResNet164(**arguments)


def test_an_unknown_model_or_depth_names_the_nearest():
    with pytest.raises(ValueError, match=r'model.*Nearest: "resnet164"'):
        keras_preact.get_model("resnet-164")
    with pytest.raises(ValueError, match=r"depth.*163.*Nearest"):
        keras_preact.ResNet(163)
    with pytest.raises(ValueError, match=r'family.*Nearest: "cifar"'):
        keras_preact.ResNet(164, family="cifar10")
    with pytest.raises(ValueError, match=r"units.*imagenet"):
        keras_preact.ResNet(164, units=(1, 1, 1))


def test_channels_first_is_refused_with_a_sentence():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match=r"image_data_format.*channels_last.*Call keras.config"):
            keras_preact.ResNet164()
    finally:
        keras.config.set_image_data_format("channels_last")


def test_sizes_channels_and_heads():
    spec = keras_preact.NetworkSpec((1, 1), (4, 8))
    build = lambda **arguments: keras_preact.build_network(spec, **arguments)  # noqa: E731
    assert build(input_shape=(None, None, 1)).output_shape == (None, 10)
    assert build(input_shape=(None, None, 1), include_top=False).output_shape == (None, None, None, 32)
    assert build(input_shape=(8, 9, 4), include_top=False).output_shape == (None, 4, 5, 32)
    assert build(include_top=False, pooling="max").output_shape == (None, 32)
    logits = build(classifier_activation=None, num_classes=3)
    assert logits.get_layer("predictions").activation is keras.activations.linear


def test_a_network_can_stand_on_another_models_tensor():
    spec = keras_preact.NetworkSpec((1, 1), (4, 8))
    inputs = keras.Input((16, 16, 3))
    assert keras_preact.build_network(spec, input_tensor=inputs).inputs[0] is inputs
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    model = keras_preact.build_network(spec, input_tensor=scaled)
    assert model.inputs[0] is inputs
    assert model.output_shape == (None, 10)
    with pytest.raises(ValueError, match=r"input_shape.*\(16, 16, 3\).*\(8, 8, 3\)"):
        keras_preact.build_network(spec, input_tensor=inputs, input_shape=(8, 8, 3))


def test_free_imagenet_depths():
    model = keras_preact.ResNet(family="imagenet", units=(1, 2, 1, 1), num_classes=5, input_shape=(64, 64, 3))
    assert model.spec.depth == 17
    assert model.name == "resnet17"
