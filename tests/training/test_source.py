"""What a person names for a trained network: every verb takes every kind of it, or says in one sentence why not."""

import dataclasses
import pathlib
import shutil

import keras
import numpy as np
import pytest
from conftest import forgotten
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.data import from_arrays, load
from keras_preact.laboratory.analysis.sources import find_network
from keras_preact.network.families import cifar_spec, imagenet_spec
from keras_preact.training import export, publish, trainer
from keras_preact.training.levels import begin_with
from keras_preact.training.source import Source, find_source
from keras_preact.transfer import finetuning
from keras_preact.weights.cards import Card, find_weights
from keras_preact.weights.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 3
DATA = from_arrays(IMAGES[:40], LABELS[:40], IMAGES[40:], LABELS[40:], class_names=("ant", "bee", "cat"), name="tiny")
KINDS = ("run", "kept", "file", "network", "weights", "name")
NAME = "resnet11.tiny.mine"
SOURCE = Source("mine", "mine", "sha256", cifar_spec(20), 3, "stacked", lambda: None)


pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained network in every form, its card, and the path of an image."""
    folder = tmp_path_factory.mktemp("trained")
    with forgotten():
        keras_preact.register_data("tiny", lambda: DATA)
        recipe = keras_preact.Recipe(epochs=2, global_batch_size=8, learning_rate=0.01)
        card = keras_preact.train(
            "ResNet11", data="tiny", recipe=recipe, output=folder / "run", strategy="none", verbose=0
        )
        kept = publish.keep_weights(folder / "run", folder / "kept")
        file, weights = folder / "run" / "model.keras", kept / "model.weights.h5"
        known = find_source(kept)
        keras_preact.register_weights(
            NAME,
            spec=known.spec,
            preprocessing=known.preprocessing,
            classes=known.classes,
            error_percent=known.error_percent,
            path=weights,
        )
        kinds = (folder / "run", kept, file, keras.models.load_model(file), weights, NAME)
        Image.fromarray(RNG.integers(256, size=(11, 9, 3), dtype=np.uint8)).save(folder / "photo.png")
        yield dict(zip(KINDS, kinds)), card, folder / "photo.png"


# Each verb on something, as a function of it, of the fixture and of a folder; what it returns is checked for all kinds.


def predict(what, trained, folder):
    (found,) = keras_preact.predict(what, [trained[2]], top=3)
    return dict(found.classes)


def evaluate(what, trained, folder):
    assert keras_preact.evaluate(what)["error_percent"] == trained[1]["error_percent"]
    return True


def verify(what, trained, folder):
    found = keras_preact.verify(what)
    assert found.agrees
    return found.published_percent


def explain(what, trained, folder):
    network, data = find_network(what, DATA)
    return logits(network), data.name


def analyze(what, trained, folder):
    return keras_preact.analyze(what, IMAGES[:2].astype("float32"), training=False).signal_rms


def inspect(what, trained, folder):
    return [part.trainable for part in keras_preact.inspect(what)]  # a weights file leaves the images open


def weights(what, trained, folder):
    network = keras_preact.ResNet(11, weights=what, input_shape=(8, 8, 3))
    return logits(network), network.input_shape[-1], len(network.loaded.new)


def finetune(what, trained, folder):
    return keras_preact.finetune(what, DATA, steps=1, global_batch_size=8, output=folder / "run")


def start(what, trained, folder):
    return keras_preact.train("ResNet29", data=DATA, start=what, epochs=1, output=folder / "run")


def exported(what, trained, folder):
    return keras_preact.export(what, folder / "export", "onnx")


VERBS = (predict, evaluate, verify, explain, analyze, inspect, weights, finetune, start, exported)
REFUSED = {
    ("predict", "weights"): r"`model` must be one that says how images are prepared.*folder of a run",
    ("evaluate", "weights"): r"`data` must be given with a network that does not say what it was trained on",
    ("verify", "weights"): r"`what` must be a trained network whose card states its error.*model\.weights\.h5",
    ("exported", "weights"): r"`preprocessing` must be a Preprocessing, or mean and std, for a model that does not say",
    ("weights", "network"): r"`weights` must be None, a folder of trained weights, a \.weights\.h5 or \.keras file",
}


EXPECTED = {}  # what each verb found of the first kind


def logits(network):
    return np.asarray(network(IMAGES[:4].astype("float32")))


@pytest.fixture
def without_training(monkeypatch):
    """Ends `finetune`, `train` and `export` where the network is made and its data read."""

    def fine_tuned(experiment, data, *_):
        network = finetuning.new_head(experiment.source.load(), experiment.source.spec, data, "float32")
        return [array for array in network.get_weights() if array.any()]

    def begun(experiment, data, *_):
        network = keras_preact.ResNet(29, input_shape=data.image_shape, num_classes=3)
        begin_with(network, experiment.start)
        return network.get_layer("stem_conv").get_weights()

    def written(network, output, formats, **given):
        assert (formats, len(given["sample_images"]), tuple(given["class_names"])) == (("onnx",), 20, DATA.class_names)
        return logits(network), given["preprocessing"].mean

    monkeypatch.setattr(finetuning, "carry_out", fine_tuned)
    monkeypatch.setattr(trainer, "carry_out", begun)
    monkeypatch.setattr(export, "export_network", written)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_verb_takes_every_kind_or_says_why_not(verb, kind, trained, without_training, tmp_path):
    kinds = trained[0]
    if message := REFUSED.get((verb.__name__, kind)):
        with pytest.raises(ValueError, match=message) as refused:
            verb(kinds[kind], trained, tmp_path)
        assert "\n" not in str(refused.value)
        return
    found = verb(kinds[kind], trained, tmp_path)
    assert_same(found, EXPECTED.setdefault(verb, found))


def assert_same(found, expected):
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, two in zip(found, expected):
            assert_same(one, two)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(expected, (float, np.ndarray)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert found == expected


@pytest.mark.parametrize("ending", ["weights.h5", "keras"])
def test_the_files_of_a_backbone_are_found_and_have_no_error(ending, tmp_path):
    backbone = keras_preact.ResNetFeatures("ResNet20", ("stage1", "stage2"), input_shape=(8, 8, 3))
    path = tmp_path / f"backbone.{ending}"
    backbone.save(path) if ending == "keras" else backbone.save_weights(path)
    again, x = find_source(path).load(), np.ones((1, 8, 8, 3), "float32")
    for name, signal in backbone(x).items():
        np.testing.assert_allclose(again(x)[name], signal, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"`model` must be a network of keras_preact that ends in its classifier"):
        keras_preact.evaluate(path, DATA)


def test_weights_alone_are_evaluated_exported_and_inspected_with_what_they_do_not_say(
    trained, without_training, tmp_path, capsys
):
    kinds, card, _ = trained
    assert keras_preact.evaluate(kinds["weights"], DATA)["error_percent"] == card["error_percent"]
    how = {"mean": DATA.mean, "std": DATA.std, "sample_images": DATA.test.images, "class_names": DATA.class_names}
    network = keras_preact.ResNet(11, weights=kinds["weights"], input_shape=(8, 8, 3))
    found = keras_preact.export(network, tmp_path / "export", "onnx", **how)
    assert_same(found, (logits(network), tuple(DATA.mean)))
    arrays = {name: np.array(how[name]) for name in ("mean", "std")}
    assert_same(keras_preact.export(network, tmp_path / "export", "onnx", **{**how, **arrays}), found)
    file = keras_preact.export(kinds["weights"], tmp_path / "file", "onnx", image_size=8, **how)
    assert_same(file, found)
    with pytest.raises(ValueError, match="`image_size` must be given for a network that takes images of any size"):
        keras_preact.export(kinds["weights"], tmp_path / "other", "onnx", **how)
    main(["inspect", str(kinds["weights"])])
    assert "11 layers, preactivation" in capsys.readouterr().out


def test_weights_of_a_run_bring_its_network_and_another_is_refused(trained, tmp_path):
    kinds, _, _ = trained
    network = keras_preact.ResNet(11, weights=kinds["run"], num_classes=5)
    assert (network.card.classes, network.loaded.new) == (DATA.class_names, ("predictions/kernel", "predictions/bias"))
    assert network.input_shape == (None, 8, 8, 3)
    for build, message in (
        (lambda: keras_preact.ResNet(20, weights=kinds["run"]), r"`weights` must be those of a network of units=\(3"),
        (lambda: keras_preact.ResNet(11, weights=kinds["file"], ordering="original"), r"`ordering` must be 'preact"),
        (lambda: keras_preact.ResNet(20, weights=kinds["kept"]), r"`weights` must be those of resnet20"),
        (lambda: keras_preact.ResNet(11, weights=tmp_path), r"`weights` must be a \.weights\.h5 or \.keras file, or"),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_a_fine_tuned_network_has_the_name_of_its_depth_whatever_the_trained_one_was_called(trained, tmp_path):
    flowers = keras_preact.ResNet(11, weights=trained[0]["file"], name="flowers")
    card = keras_preact.finetune(
        flowers, DATA, steps=1, global_batch_size=8, output=tmp_path / "run", strategy="none", verbose=0
    )
    assert (card["model"], card["network"]["name"]) == ("resnet11", "resnet11")
    assert keras.models.load_model(tmp_path / "run" / "model.keras").card.network == "resnet11"
    kept = publish.keep_weights(tmp_path / "run", tmp_path / "kept")
    assert keras_preact.ResNet(11, weights=kept).card.network == "resnet11"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (cifar_spec(20), "resnet20"),
        (cifar_spec(29, ordering="original", widening="zero_pad"), "resnet29"),
        (imagenet_spec(50, stem={"pool": "same"}), "resnet50"),
        (imagenet_spec(units=(2, 3, 4, 1)), "resnet32"),
        (cifar_spec(20, units=(2, 3, 4)), "mine"),
        (cifar_spec(20, widths=(16, 32, 128)), "mine"),
        (cifar_spec(20, widths=(16, 32, 128)), ".mine"),
    ],
)
def test_a_network_of_no_family_keeps_its_name_if_files_can_have_it(spec, name):
    source = dataclasses.replace(SOURCE, spec=spec, model="mine" if name.startswith("resnet") else name)
    if name != ".mine":
        assert finetuning.network_name(source) == name
        return
    with pytest.raises(ValueError, match=r"`weights\.name` must be a name of letters.*'\.mine'"):
        finetuning.network_name(source)


def test_a_run_is_refused_in_the_folder_of_the_weights_that_it_would_overwrite(trained, tmp_path, monkeypatch):
    kinds, before = trained[0], contents(trained[0]["run"].parent)
    monkeypatch.chdir(kinds["run"].parent)
    how = dict(data=DATA, steps=1, global_batch_size=8, overwrite=True, strategy="none", verbose=0)
    for what, output in (("run", kinds["run"]), (kinds["file"], "run"), (kinds["kept"], kinds["kept"])):
        with pytest.raises(ValueError, match=r"`output` must be (another folder than that of the|a new folder)"):
            keras_preact.finetune(what, output=output, **how)
    with pytest.raises(ValueError, match="`output` must be another folder than that of the weights"):
        keras_preact.train("ResNet11", start="run", output="run", **how)
    assert contents(kinds["run"].parent) == before


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_evaluate_refuses_images_of_other_classes_or_channels(trained):
    kinds, _, _ = trained
    with pytest.raises(
        ValueError, match=r"`data` must be of 3 classes and images of 3 channel.*10 classes and 1 channels"
    ):
        keras_preact.evaluate(kinds["run"], "digits")
    height, width, channels = DATA.image_shape
    images, labels = np.zeros((3, height, width + 8, channels), "uint8"), np.arange(3)
    wide = from_arrays(images, labels, images, labels, class_names=DATA.class_names)
    with pytest.raises(ValueError, match=f"`data` must be of images of {height}x{width}.*: {height}x{width + 8}"):
        keras_preact.evaluate(kinds["run"], wide)


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


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("what", ["resnet164.digits.digit", "nowhere", 7])
def test_what_names_nothing_is_one_sentence(verb, what, tmp_path):
    expected = (
        r"(the name of a network such as resnet110, )?a network of keras_preact, a name of list_weights|"
        r"None, a folder of trained weights, a \.weights\.h5"
    )
    with pytest.raises(ValueError, match=rf"`\w+` must be ({expected})") as refused:
        verb(what, (None, {"error_percent": 0.0}, "photo.png"), tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_files_are_cut_for_evaluation_as_the_card_says(tmp_path):
    """By timm's own arithmetic, not as the files of a data set of ours are."""
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        for index in range(6):
            pixels = RNG.integers(256, size=(31 + number, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    network = keras_preact.ResNet(11, input_shape=(16, 16, 3), num_classes=2)
    how = Preprocessing((16, 16), (120.0,) * 3, (60.0,) * 3, crop=0.6, transform="timm")
    fields = dict(name="mine", network="resnet11", dataset="photos", author="", licence="", recipe="", published="")
    network.card = Card(error_percent=1.0, preprocessing=how, classes=("a", "b"), megabytes=0.1, **fields)
    test = load(str(tmp_path), image_size=16).test
    photos = [np.asarray(Image.open(path)) for path in test.paths]
    probabilities = network.predict(keras_preact.preprocess_input(photos, network), verbose=0)
    expected = -np.log(probabilities[np.arange(len(photos)), test.labels]).mean()
    assert keras_preact.evaluate(network, str(tmp_path))["loss"] == pytest.approx(expected, abs=1e-5)


def test_a_network_of_another_size_reads_images_of_its_own():
    """Their card's images are of 32 pixels."""
    network = keras_preact.ResNet164(weights="cifar10", input_shape=(48, 40, 3))
    assert find_source(network).preprocessing.size == (48, 40)
    assert find_source("resnet164.cifar10.modern_cifar").preprocessing.size == (32, 32)


def test_a_path_is_never_the_name_of_weights(trained, tmp_path, monkeypatch):
    """A folder called like weights of this package is what it holds, to whoever has a `Path` of it."""
    kept = tmp_path / "resnet164.digits.digits"
    shutil.copytree(trained[0]["kept"], kept)
    monkeypatch.chdir(tmp_path)
    assert find_source(pathlib.Path(kept.name)).classes == ("ant", "bee", "cat")
    assert find_source(kept.name).classes == tuple("0123456789")
    (kept / "history.csv").unlink()
    with pytest.raises(ValueError, match=r"`run` must be a folder with history\.csv in it"):
        publish.keep_weights(kept, tmp_path / "half", dtype="float16")


def test_the_file_of_registered_weights_may_be_gone(trained):
    card = dataclasses.replace(find_weights(NAME, "resnet11"), path="/gone/model.weights.h5")
    with pytest.raises(ValueError, match=r"`weights` must be a name whose file is there.*/gone/model\.weights\.h5"):
        keras_preact.ResNet(11, weights=card, input_shape=(8, 8, 3))


def test_a_card_of_a_newer_version_is_read(trained):
    config = keras_preact.get_card("resnet164.digits.digits").get_config()
    newer = {**config, "doi": "10.1000/1", "preprocessing": {**config["preprocessing"], "gamma": 2.2}}
    assert Card.from_config(newer) == keras_preact.get_card("resnet164.digits.digits")
