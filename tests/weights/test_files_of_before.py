"""Files that earlier versions of this package wrote are read as they were meant."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.weights import schema

BEFORE = pathlib.Path(__file__).parent / "files_of_before"  # written at commit 44bb509
EXPECTED = json.loads((BEFORE / "expected.json").read_text())
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
SPEC = keras_preact.NetworkSpec((1, 2), (4, 4), "basic", stem={"width": 4})


@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_models_and_weights(layout):
    model = keras.models.load_model(BEFORE / f"{layout}.keras")
    assert model.layout == layout
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), EXPECTED[layout], rtol=1e-4, atol=1e-6)
    assert int(model.optimizer.iterations.numpy()) == 2
    for other in ("stacked", "layers"):
        network = keras_preact.build_network(
            SPEC, input_shape=(8, 8, 3), num_classes=3, layout=other, weights=BEFORE / f"{layout}.weights.h5"
        )
        np.testing.assert_allclose(network.predict(IMAGES, verbose=0), EXPECTED[layout], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_a_classifier_of_two_layers(layout):
    """Its Dense was `logits`, and `predictions` an activation, of which only what it computes goes on."""
    expected = json.loads((BEFORE / "two_layers" / "expected.json").read_text())[layout]
    changed = keras.models.load_model(BEFORE / "two_layers" / f"changed_{layout}.keras")
    classifier = changed.layers[-1]
    assert (classifier.name, classifier.trainable, classifier.activation) == (
        *("predictions", False),
        keras.activations.sigmoid,
    )
    assert changed.get_layer("stem_conv").kernel_regularizer is not None
    np.testing.assert_allclose(changed.predict(IMAGES, verbose=0), expected["changed"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["stacked", "layers"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_classifier_of_two_layers(layout):
    path = BEFORE / "two_layers" / f"quantized_{layout}.keras"
    if not hasattr(keras.quantizers, "Int8QuantizationConfig"):  # of a Keras older than the file's
        with pytest.raises(TypeError, match="quantization_config"):
            keras.models.load_model(path)
        return
    expected = json.loads((BEFORE / "two_layers" / "expected.json").read_text())[layout]
    quantized = keras.models.load_model(path)
    assert quantized.layers[-1].quantization_mode == "int8"
    assert quantized.layers[-1].trainable  # its activation was frozen, which meant nothing
    np.testing.assert_allclose(quantized.predict(IMAGES, verbose=0), expected["quantized"], rtol=1e-4, atol=1e-6)


def test_a_run(tmp_path):
    stated = json.loads((BEFORE / "run" / "card.json").read_text())
    assert keras_preact.evaluate(BEFORE / "run")["error_percent"] == pytest.approx(stated["error_percent"], abs=0.28)
    assert keras_preact.verify(BEFORE / "run").agrees


def test_cards_with_a_deviation_and_the_interpolation_of_before(tmp_path):
    seen = {"size": [16, 16], "mean": [77.0], "deviation": [81.0]}
    expected = keras_preact.Preprocessing((16, 16), (77.0,), (81.0,), interpolation="bilinear")
    card = keras_preact.get_card("resnet164.digits.digits").get_config()
    assert keras_preact.Card.from_config({**card, "preprocessing": seen}).preprocessing == expected
    (tmp_path / "card.json").write_text(json.dumps({"preprocessing": seen}))
    assert keras_preact.Preprocessing(**schema.read_fields(tmp_path / "card.json")["preprocessing"]) == expected


def test_stacked_units_whose_configuration_has_names_alone():
    unit = SPEC.stages[1][1]
    layer = ResidualUnits([unit], bn_momentum=0.9, bn_epsilon=1e-5)
    config = layer.get_config()
    fields = {name: value for name, value in config["units"][0].items() if name not in ("stage", "number", "digits")}
    for name in ("stage2_unit02", "stage2_unit002"):
        (read,) = ResidualUnits.from_config({**config, "units": [{"name": name, **fields}]}).units
        assert read == unit
        assert (read.name, read.stage, read.number) == (name, 2, 2)
