"""The public builders: signatures, counts, names of layers, and bad input."""

import ast
import dataclasses
import inspect
import math
import pydoc

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.laboratory.reproduce.parameters import ROWS, measure
from keras_preact.network.checks import chosen_layout
from keras_preact.network.costs import model_costs
from keras_preact.network.families import IMAGENET_UNITS, network_spec

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
BUILD = ["layout", "unroll", "remat", "dtype", "features", "tap"]
SPEC = [field.name for field in dataclasses.fields(keras_preact.NetworkSpec)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_parameters_and_multiply_adds_are_the_papers_to_the_digit(row):
    parameters, multiply_adds = measure(row)
    assert parameters == row.parameters
    assert row.multiply_adds in (None, multiply_adds)


def test_the_signals_of_a_summary_are_the_outputs_of_all_operations():
    model = keras_preact.ResNet(8, input_shape=(8, 8, 3), layout="layers")
    outputs = [layer.output.shape[1:] for layer in model.layers[1:] if not layer.name.endswith("conv1_pad")]
    assert sum(cost.elements for cost in model_costs(model)) == sum(map(math.prod, outputs))


def test_the_classifier_starts_uniform_and_without_bias():
    kernel, bias = keras_preact.ResNet(8, input_shape=(8, 8, 3)).layers[-1].get_weights()
    bound = 1 / math.sqrt(64)
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not bias.any()


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
def test_other_implementations_graphs_have_their_counts(implementation, depth, classes, trainable, no_values):
    fields = keras_preact.IMPLEMENTATIONS[implementation]
    model = keras_preact.ResNet(depth, family="imagenet", num_classes=classes, layout="stacked", **fields)
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == trainable


def function_of(name):
    return getattr(keras_preact, f"ResNet{name[6:]}")


@pytest.mark.parametrize("name", keras_preact.list_models())
def test_keras_arguments_come_first_and_ours_are_keyword_only(name):
    parameters = inspect.signature(function_of(name)).parameters
    assert list(parameters)[:8] == KERAS
    assert sorted(list(parameters)[8:]) == sorted([*SPEC, *BUILD])
    assert parameters["name"].default == name
    ours = [parameter.kind for parameter in list(parameters.values())[8:]]
    assert set(ours) == {inspect.Parameter.KEYWORD_ONLY}
    build = inspect.signature(keras_preact.build_network).parameters
    assert list(build) == ["spec", *KERAS, *BUILD]
    assert all(parameters[key].default == build[key].default for key in [*KERAS[:-1], *BUILD])


@pytest.mark.parametrize("name", keras_preact.list_models())
def test_each_function_builds_its_network(name, no_values):
    assert function_of(name)(layout="stacked").spec == network_spec(name)


@pytest.mark.parametrize("name", ["resnet", *keras_preact.list_models()])
def test_every_network_is_a_def_whose_help_shows_every_argument(name):
    function = function_of(name)
    tree = ast.parse(inspect.getsource(inspect.getmodule(function)))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function.__name__)
    assert found.lineno < function.__code__.co_firstlineno + 2  # the decorator's line
    shown = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert f"\n{function.__name__}(" in shown
    assert all(f"{key}: " in shown for key in [*KERAS, *SPEC, *BUILD])
    assert "ordering: Where BN and ReLU stand" in shown


def test_the_registry_lists_the_functions_in_lower_case(no_values):
    names = keras_preact.list_models()
    assert names == ["resnet110", "resnet164", "resnet1001", "resnet50", "resnet101", "resnet152", "resnet200"]
    assert keras_preact.get_model("ResNet164", num_classes=7).output_shape == (None, 7)
    assert keras_preact.get_model("resnet29").spec.depth == 29
    assert keras_preact.get_model("resnet29", name="mine").name == "mine"


def test_the_defaults_are_the_papers(no_values):
    assert keras_preact.ResNet110().spec.widening == "zero_pad"
    cifar = keras_preact.ResNet1001(num_classes=10)
    assert (cifar.input_shape, cifar.output_shape) == ((None, 32, 32, 3), (None, 10))
    assert (cifar.spec.stride_on, cifar.spec.widening, cifar.spec.stem.activates) == ("1x1", "projection", True)
    imagenet = keras_preact.ResNet50(layout="stacked")
    assert (imagenet.input_shape, imagenet.output_shape) == ((None, 224, 224, 3), (None, 1000))
    assert (imagenet.spec.stride_on, imagenet.spec.stem.pool) == ("3x3", "negative_infinity")


def test_networks_of_up_to_50_units_have_named_layers(no_values):
    of = lambda spec, unroll="auto", remat=0: chosen_layout(None, spec, unroll, remat)  # noqa: E731
    assert [of(network_spec(name)) for name in ("resnet50", "resnet152", "resnet29")] == ["layers"] * 3  # 16, 50, 9
    assert [of(network_spec(name)) for name in ("resnet200", "resnet164", "resnet110")] == ["stacked"] * 3  # 66, 54, 54
    spec = keras_preact.NetworkSpec((1, 1), (4, 8))
    assert keras_preact.build_network(spec).layout == "layers"
    for chosen in ({"unroll": 2}, {"remat": True}, {"layout": "stacked"}):
        assert keras_preact.build_network(spec, **chosen).layout == "stacked"


def test_layer_names_are_frozen(no_values):
    spec = keras_preact.NetworkSpec((2, 2), (4, 8))
    model = keras_preact.build_network(spec, layout="layers")
    unit = ["bn1", "relu1", "conv1", "bn2", "relu2", "conv2", "bn3", "relu3", "conv3", "add"]
    golden = {"images", "stem_conv", "stem_bn", "stem_relu", "final_bn", "final_relu", "pool", "predictions"}
    golden |= {f"stage{stage}_unit{number}_{part}" for stage in (1, 2) for number in ("01", "02") for part in unit}
    golden -= {"stage1_unit01_bn1", "stage1_unit01_relu1"}
    golden |= {"stage2_unit01_shortcut_conv"}
    assert {layer.name for layer in model.layers} == golden
    stacked = keras_preact.build_network(spec.replace(units=(3, 120)), layout="stacked")
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
        ({"pooling": "max"}, 'pooling.*"avg" or left out with include_top=True.*max'),
        ({"num_classes": "abc", "include_top": False}, "num_classes.*abc"),
        ({"num_classes": 1}, 'classifier_activation.*another with num_classes=1.*softmax.*"sigmoid"'),
        ({"classifier_activation": "sofmax"}, "classifier_activation.*sofmax"),
        ({"layout": "looped"}, "layout.*stacked.*looped"),
        ({"unroll": 0}, "unroll.*at least 1.*0"),
        ({"unroll": "al"}, 'unroll.*whole number, "auto" or "all".*al'),
        ({"remat": -1}, "remat.*-1"),
        ({"layout": "layers", "remat": True}, 'remat.*left out with layout="layers".*True.*layout="stacked"'),
        ({"layout": "layers", "unroll": "all"}, 'unroll.*left out with layout="layers".*all'),
        ({"tap": "nonsense"}, "tap.*left out without `features`.*nonsense"),
        ({"units": (1, 1, 1)}, r"depth.*11 with units=\(1, 1, 1\).*164"),
        ({"input_tensor": [1, 2]}, "input_tensor.*Keras tensor.*list"),
        ({"shortcut": keras_preact.ShortcutSpec, "dtype": None}, "shortcut"),
        ({"width": 3}, '`width`.*ResNet164 has no such argument.*Nearest: "widths"'),
        ({"num_clases": 7}, '`num_clases`.*Nearest: "num_classes"'),
        ({"weight": "cifar10"}, '`weight`.*Nearest: "weights"'),
        ({"input_shpae": (32, 32, 3)}, '`input_shpae`.*Nearest: "input_shape"'),
        ({"laiout": "layers"}, '`laiout`.*Nearest: "layout"'),
        ({"classes": 7}, r"`classes`.*Here it is num_classes\."),
        ({"pretrained": True}, "`pretrained`.*Here it is weights"),
        ({"in_chans": 1}, "`in_chans`.*Here it is the last of input_shape"),
        ({"features_only": True}, "`features_only`.*Here it is features"),
        ({"global_pool": "avg"}, "`global_pool`.*Here it is pooling"),
        ({"drop_rate": 0.1}, "`drop_rate`.*no dropout before the classifier"),
        ({"drop_path_rate": 0.1}, r"`drop_path_rate`.*Here it is stochastic_depth\."),
    ],
)
def test_bad_input_is_refused_before_anything_is_built(arguments, message, monkeypatch):
    monkeypatch.setattr(keras_preact.zoo, "ResidualNetwork", None)
    with pytest.raises(ValueError, match=message):
        keras_preact.ResNet164(**arguments)


def test_every_way_to_a_network_names_an_unknown_argument():
    spec = keras_preact.NetworkSpec((1, 1), (4, 8))
    with pytest.raises(ValueError, match=r'`num_clases`.*build_network has no such.*Nearest: "num_classes"'):
        keras_preact.build_network(spec, num_clases=7)
    with pytest.raises(ValueError, match=r'`familly`.*ResNet has no such.*Nearest: "family"'):
        keras_preact.ResNet(50, familly="cifar")
    with pytest.raises(ValueError, match=r"`classes`.*get_model has no such.*num_classes"):
        keras_preact.get_model("resnet56", classes=7)
    with pytest.raises(ValueError, match=r'`orderings`.*Nearest: "ordering"'):
        keras_preact.ResNetFeatures("resnet29", "stage1", orderings="original")


def test_a_depth_of_both_families_asks_for_one(no_values):
    depths = [depth for depth in IMAGENET_UNITS if cifar_has(depth)]
    assert depths == [50, 101, 152, 200]
    for depth in depths:
        with pytest.raises(ValueError, match=rf'`family` must be "cifar" or "imagenet".*{depth} layers') as error:
            keras_preact.ResNet(depth)
        assert str(error.value).count(". ") == 1  # what must be, what was received
    assert keras_preact.ResNet(50, family="cifar", num_classes=3).spec.units == (8, 8, 8)
    assert keras_preact.ResNet(50, unit="basic").spec.units == (8, 8, 8)  # ImageNet's 50 has bottleneck units
    assert keras_preact.ResNet(18, input_shape=(32, 32, 3)).spec.units == (2, 2, 2, 2)  # no depth of CIFAR's
    assert network_spec("resnet50").units == (3, 4, 6, 3)
    assert network_spec("resnet50", family="cifar").units == (8, 8, 8)
    assert network_spec("resnet34").units == (3, 4, 6, 3)
    with pytest.raises(ValueError, match=r"depth.*50, 101, 152, 200.*110"):
        keras_preact.get_model("resnet110", family="imagenet")


def cifar_has(depth):
    try:
        keras_preact.cifar_spec(depth)
    except ValueError:
        return False
    return True


def test_models_are_listed_by_pattern():
    assert keras_preact.list_models("resnet1*") == ["resnet110", "resnet164", "resnet1001", "resnet101", "resnet152"]
    assert keras_preact.list_models("ResNet?00") == ["resnet200"]
    assert keras_preact.list_models("vgg*") == []
    with pytest.raises(ValueError, match=r'pattern.*"resnet1\*".*164'):
        keras_preact.list_models(164)


def test_an_unknown_model_or_depth_names_the_nearest():
    with pytest.raises(ValueError, match=r'model.*Nearest: "resnet164"'):
        keras_preact.get_model("resnet-164")
    with pytest.raises(ValueError, match=r"`model` must be .*resnet²"):  # a digit, by `str.isdigit`, and no number
        keras_preact.get_model("resnet²")
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


def test_sizes_channels_and_heads(no_values):
    spec = keras_preact.NetworkSpec((1, 1), (4, 8))
    build = lambda **arguments: keras_preact.build_network(spec, **arguments)  # noqa: E731
    assert build(input_shape=(None, None, 1)).output_shape == (None, 10)
    assert build(input_shape=(None, None, 1), include_top=False).output_shape == (None, None, None, 32)
    assert build(input_shape=(8, 9, 4), include_top=False).output_shape == (None, 4, 5, 32)
    assert build(include_top=False, pooling="max").output_shape == (None, 32)
    assert build(pooling="avg").output_shape == (None, 10)  # as the top does
    assert build(num_classes=1, classifier_activation="sigmoid").output_shape == (None, 1)
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


def doubled(x):
    return 2 * x


@pytest.mark.parametrize(
    ("name", "fields"),
    [("resnet8", {"widths": (16, 24, 32)}), ("resnet8", {"unit": "single"}), ("resnet14", {"units": (1, 2, 3)})],
)
def test_the_call_that_built_a_network_reads_its_file(name, fields, tmp_path):
    network = keras_preact.get_model(name, input_shape=(8, 8, 3), **fields)
    network.save(tmp_path / "own.keras")
    again = keras_preact.get_model(name, input_shape=(8, 8, 3), weights=tmp_path / "own.keras", **fields)
    assert all(map(np.array_equal, again.get_weights(), network.get_weights()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifier_activation": doubled}, "`classifier_activation` must be None or an activation.*Register"),
        ({"dtype": keras.dtype_policies.DTypePolicyMap()}, "`dtype` must be one policy for all layers"),
    ],
)
def test_what_no_file_could_hold_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_preact.ResNet(8, **arguments)
