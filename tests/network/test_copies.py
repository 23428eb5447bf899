"""Copies of networks whose layers a person changed: LoRA goes with them, and what a copy cannot do is refused."""

import json
import random
import warnings

import h5py
import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import from_arrays
from keras_preact.network.copies import without_lora
from keras_preact.network.named_weights import named_weights
from keras_preact.network.weights_files import FINGERPRINT, halve_kernels
from keras_preact.training.recipe import Recipe

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 8, 3)).astype("float32")


def network(**arguments):
    return keras_preact.ResNet(11, input_shape=(8, 8, 3), **arguments)


def adapted(model):
    """Gives convolutions within units, the first one and the classifier LoRA that counts; returns the model."""
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and layer.weights:
            layer.enable_lora(2)
            for weight in (layer.lora_kernel_a, layer.lora_kernel_b):
                weight.assign(RNG.normal(scale=0.3, size=weight.shape))
    return model


def difference(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


@pytest.fixture(scope="module")
def lora():
    plain = network()
    weights = plain.get_weights()
    model = network()
    model.set_weights(weights)
    model = adapted(model)
    assert difference(model(IMAGES), plain(IMAGES)) > 1e-3
    return model


def test_what_lora_adds_is_in_weights_files_and_copies(lora, tmp_path):
    lora.save_weights(tmp_path / "lora.weights.h5")
    lora.save(tmp_path / "lora.keras")
    read, again = network(), adapted(network())
    for model in (read, again):  # the second has a LoRA of its own, which is zero then, as in Keras
        model.load_weights(tmp_path / "lora.weights.h5")
    named = network(weights=tmp_path / "lora.keras")
    for copy in (read, again, named, without_lora(lora)):
        assert difference(copy(IMAGES), lora(IMAGES)) < 1e-5
    assert not any("lora" in weight.path for weight in without_lora(lora).weights)
    assert without_lora(read) is read


def test_what_lora_adds_is_frozen_measured_exported_and_trained_on(lora, tmp_path):
    assert difference(keras_preact.frozen_function(lora)(IMAGES), lora(IMAGES)) < 1e-5
    labels = np.array([1, 2, 3])
    probabilities = np.asarray(lora(IMAGES))[np.arange(3), labels]
    found = keras_preact.analyze(lora, IMAGES, labels, training=False)
    assert found.loss == pytest.approx(-np.log(probabilities).mean(), rel=1e-4)
    keras_preact.export(lora, tmp_path / "out", formats=("savedmodel",), sample_images=pixels(3), **HOW)  # it compares
    data = from_arrays(pixels(20), np.arange(20) % 10, pixels(20), np.arange(20) % 10)
    recipe = Recipe(steps=1, learning_rate=0.0, weight_decay=0.0, global_batch_size=4)
    lora.save(tmp_path / "lora.keras")
    folder = tmp_path / "run"
    keras_preact.train("ResNet11", data=data, recipe=recipe, start=tmp_path / "lora.keras", output=folder, verbose=0)
    ours = {
        name: np.asarray(place[0])
        for name, place in named_weights(keras_preact.relayout(run(folder), "layers")).items()
    }
    for layer in lora.layers:
        if getattr(layer, "lora_enabled", False):
            np.testing.assert_allclose(ours[f"{layer.name}/kernel"], layer.kernel, atol=1e-6)


def run(folder):
    return keras.models.load_model(folder / "model.keras")


HOW = {"mean": (127.5,) * 3, "std": (60.0,) * 3}


def pixels(count):
    return RNG.integers(256, size=(count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def silu(tmp_path_factory):
    """A network with another activation, and its file."""
    model = network()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Activation):
            layer.activation = keras.activations.silu
    path = tmp_path_factory.mktemp("silu") / "silu.keras"
    model.save(path)
    return model, path


@pytest.mark.parametrize(
    "use",
    [
        lambda model, path: keras_preact.frozen_function(model),
        lambda model, path: keras_preact.analyze(model, IMAGES),
        lambda model, path: keras_preact.export(model, path.parent / "out", sample_images=pixels(3), **HOW),
        lambda model, path: network(weights=path),
        lambda model, path: keras_preact.finetune(
            path, from_arrays(pixels(8), np.arange(8) % 2, pixels(8), np.arange(8) % 2), output=path.parent / "tuned"
        ),
    ],
    ids=["frozen_function", "analyze", "export", "weights", "finetune"],
)
def test_what_copies_would_compute_otherwise_is_refused(use, silu):
    with pytest.raises(ValueError, match=r"a network whose \w+relu\w* has no activation of its own"):
        use(*silu)


def test_regularized_and_frozen_layers_are_copied_all_the_same():
    model = network()
    for layer in model.layers:
        layer.trainable = "bn" not in layer.name
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel_regularizer = keras.regularizers.L2(1e-4)
    assert difference(keras_preact.frozen_function(model)(IMAGES), model(IMAGES)) < 1e-5
    keras_preact.analyze(model, IMAGES, training=False)
    with pytest.raises(
        ValueError, match=r"`training` must be False while some of the equal units of a stage are frozen"
    ):
        keras_preact.analyze(model, IMAGES)


@pytest.mark.parametrize("layout", ["layers", "stacked"])
def test_a_backbone_is_frozen_and_measured_as_far_as_it_goes(layout):
    backbone = network(features="stage1", tap="activated", layout=layout)
    (ours,) = keras.tree.flatten(keras_preact.frozen_function(backbone)(IMAGES))
    assert difference(ours, keras.tree.flatten(backbone(IMAGES))[0]) < 1e-5
    found = keras_preact.analyze(backbone, IMAGES, training=False)
    assert set(found.stage) == {1}
    with pytest.raises(
        ValueError, match=r"`features` must be of the stages that the network holds.*stage2.* not there"
    ):
        keras_preact.ResNetFeatures(backbone, "stage2")


def test_a_quantized_network_is_not_measured():
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the layers that have no weights
        model.quantize("int8")
    with pytest.raises(ValueError, match=r"`model` must be without quantized layers"):
        keras_preact.analyze(model, IMAGES)


def test_a_weights_file_of_before_has_the_places_of_biases_in_any_order(tmp_path):
    spec = keras_preact.NetworkSpec((1, 1), (4, 8), conv_bias=("last", "stem"))
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3))
    model.save_weights(tmp_path / "before.weights.h5")
    with h5py.File(tmp_path / "before.weights.h5", "r+") as file:  # as files of before have it
        fields = json.loads(file.attrs[FINGERPRINT])
        file.attrs[FINGERPRINT] = json.dumps({**fields, "conv_bias": fields["conv_bias"][::-1]})
    model.load_weights(tmp_path / "before.weights.h5")


def test_kernels_of_float64_are_halved_too(tmp_path):
    model = network(dtype="float64")
    model.save_weights(tmp_path / "half.weights.h5")
    halve_kernels(tmp_path / "half.weights.h5")
    kernel = model.get_layer("stem_conv").kernel.numpy()
    model.load_weights(tmp_path / "half.weights.h5")
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, kernel.astype("float16"))
    assert np.any(model.get_layer("stem_conv").kernel != kernel)


def test_what_lora_froze_stays_frozen_in_files_and_copies(tmp_path):
    model = adapted(network(layout="layers"))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.arange(3))
    model.save(tmp_path / "lora.keras")
    trained = {weight.path for weight in model.trainable_variables}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras warns where it passes over an optimizer's state
        loaded = keras.models.load_model(tmp_path / "lora.keras")
    for copy in (loaded, type(model).from_config(model.get_config())):
        assert {weight.path for weight in copy.trainable_variables} == trained
    assert int(loaded.optimizer.iterations) == 1


@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_a_weights_file_gives_an_optimizer_its_state(layout, tmp_path):
    def compiled():
        model = network(layout=layout)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    trained, again = compiled(), compiled()
    trained.train_on_batch(IMAGES, np.arange(3))
    trained.save_weights(tmp_path / "trained.weights.h5")
    again.load_weights(tmp_path / "trained.weights.h5")
    assert int(again.optimizer.iterations) == 1
    for ours, theirs in zip(again.optimizer.variables, trained.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_copy_decays_the_same_weights():
    model = network(layout="layers")
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    deeper = keras_preact.deepen(model, 20)
    for weight in deeper.trainable_variables:
        assert deeper.optimizer._use_weight_decay(weight) == (weight.name not in ("gamma", "beta")), weight.path
    listed = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    listed.exclude_from_weight_decay(var_list=[model.trainable_variables[0]])
    model.compile(listed, "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"`model` must be compiled with what Keras can serialize.*has a var_list"):
        keras_preact.deepen(model, 20)


def test_a_network_of_which_the_head_alone_is_trained_is_deepened():
    """Its optimizer has as many variables of its own as weights that it trains: two."""
    model = network()
    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.arange(3))
    deeper = keras_preact.deepen(model, 20)
    assert int(deeper.optimizer.iterations) == 1


def test_saving_draws_no_random_numbers(tmp_path):
    model = network(layout="layers")
    state = random.getstate()
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
    assert random.getstate() == state


def test_the_only_bn_of_a_backbone_may_be_frozen():
    """Its units end before the last BN; that of the stem alone is no loop over all."""
    backbone = keras_preact.ResNet110(features="stage2")
    backbone.get_layer("stem_bn").trainable = False
    backbone.compile("sgd", "mse")
    assert backbone.compiled
