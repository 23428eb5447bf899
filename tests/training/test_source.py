"""What a person names for a trained network: every verb takes every kind of it, or says in one sentence why not."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.laboratory.analysis.sources import find_network
from keras_preact.training import publish
from keras_preact.training.source import find_source

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
DATA = from_arrays(IMAGES[:40], LABELS[:40], IMAGES[40:], LABELS[40:], class_names=("ant", "bee", "cat"))
KINDS = ("run", "kept", "file", "network", "weights")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained network in every form that has no name, its card, and the path of an image."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = keras_preact.Recipe(epochs=2, global_batch_size=8, learning_rate=0.01)
    card = keras_preact.train("ResNet11", data=DATA, recipe=recipe, output=folder / "run", verbose=0)
    kept = publish.keep(folder / "run", folder / "kept")
    file = folder / "run" / "model.keras"
    kinds = (folder / "run", kept, file, keras.models.load_model(file), kept / "model.weights.h5")
    Image.fromarray(RNG.integers(256, size=(11, 9, 3), dtype=np.uint8)).save(folder / "photo.png")
    return dict(zip(KINDS, kinds)), card, folder / "photo.png"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_same_network(kind, trained):
    kinds, _, _ = trained
    source = find_source(kinds[kind])
    assert (source.spec, source.channels) == (find_source(kinds["run"]).spec, 3)
    assert (source.preprocessing is None) == (source.classes is None) == (kind == "weights")
    expected = kinds["network"].predict(IMAGES[:4].astype("float32"), verbose=0)
    np.testing.assert_allclose(source.load().predict(IMAGES[:4].astype("float32"), verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_predict_takes_each_kind_that_says_what_it_was_trained_on(kind, trained):
    kinds, _, photo = trained
    (found,) = keras_preact.predict(kinds[kind], [photo], top=3)
    (expected,) = keras_preact.predict(kinds["run"], [photo], top=3)
    assert {name for name, _ in found.classes} == {"ant", "bee", "cat"}
    assert [name for name, _ in found.classes] == [name for name, _ in expected.classes]
    np.testing.assert_allclose([p for _, p in found.classes], [p for _, p in expected.classes], atol=1e-6)


def test_predict_says_what_weights_alone_do_not(trained):
    kinds, _, photo = trained
    with pytest.raises(ValueError, match=r"`model` must be one that says how images are prepared.*folder of a run"):
        keras_preact.predict(kinds["weights"], [photo])


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_takes_each_kind(kind, trained):
    kinds, card, _ = trained
    if kind == "weights":  # it does not say how images are normalised: the data set's own numbers are the run's
        assert find_source(kinds[kind]).data is None
        with pytest.raises(ValueError, match=r"`data` must be given with a network that does not say"):
            keras_preact.evaluate(kinds[kind])
    assert keras_preact.evaluate(kinds[kind], DATA)["error_percent"] == card["error_percent"]


def test_evaluate_refuses_images_of_other_classes_or_channels(trained):
    kinds, _, _ = trained
    with pytest.raises(
        ValueError, match=r"`data` must be of 3 classes and images of 3 channel.*10 classes and 1 channels"
    ):
        keras_preact.evaluate(kinds["run"], "digits")


@pytest.mark.parametrize("kind", KINDS)
def test_explain_measures_each_kind(kind, trained):
    kinds, _, _ = trained
    network, data = find_network(kinds[kind], DATA)
    assert (network.spec.depth, data) == (11, DATA)


def test_a_name_is_the_network_of_its_card(tmp_path, capsys):
    digits = keras_preact.load("digits")
    card = keras_preact.get_card("resnet164.digits.digits")
    assert keras_preact.evaluate(card.name)["error_percent"] == pytest.approx(card.error_percent)
    assert find_source(card.name).classes == tuple(map(str, range(10))) == tuple(digits.class_names)
    Image.fromarray(digits.test.images[0, ..., 0]).save(tmp_path / "digit.png")
    main(["predict", card.name, str(tmp_path / "digit.png"), "--top", "1"])
    assert capsys.readouterr().out.split()[-1] == str(digits.test.labels[0])


@pytest.mark.parametrize("name", publish.own_weights())
def test_weights_that_came_with_the_package_do_not_say_where_their_data_lay(name):
    source = find_source(name)
    assert (source.data, source.data_dir) == (keras_preact.get_card(name).dataset, None)


@pytest.mark.parametrize("kind", ["run", "kept", "file", "weights"])
def test_inspect_takes_each_kind_that_has_a_path(kind, trained, capsys):
    kinds, _, _ = trained
    main(["inspect", str(kinds[kind])])
    assert "11 layers, preactivation" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [keras_preact.evaluate, lambda model: keras_preact.predict(model, []), find_network])
@pytest.mark.parametrize("model", ["resnet164.digits.digit", "nowhere", 7])
def test_what_names_nothing_is_one_sentence(verb, model):
    with pytest.raises(ValueError, match=r"`model` must be a network of keras_preact, a name of list_weights"):
        verb(model)
