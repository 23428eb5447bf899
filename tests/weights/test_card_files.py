"""`card.json` of both kinds, damaged in every field: one sentence that names the field, or the card as it was."""

import collections
import copy
import dataclasses
import json
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from weights_files import build, run_card, trained

import keras_preact
from keras_preact import bounds
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.training import publish, run_folder
from keras_preact.training.recipe import Recipe
from keras_preact.training.source import find_source
from keras_preact.weights.cards import TRAINED, read_card
from keras_preact.weights.preprocessing import Preprocessing

OURS = TRAINED / "resnet164.digits.digits"
WRONG = [None, True, 5, -1, 2.5, float("nan"), float("inf"), "x", "", [], [None], ["x"], [[1]], {}, {"x": 1}]


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """A folder that `keep` wrote of a small run."""
    folder = tmp_path_factory.mktemp("run")
    model.save(folder / "model.keras")
    (folder / "history.csv").write_text("epoch\n1\n")
    (folder / "card.json").write_text(json.dumps(run_card(model)))
    return publish.keep_weights(folder, folder / "kept")


def changes(fields, within=()):
    """Yields (path of a field, fields with it left out, or with a wrong value in it) for every field at every depth."""
    for name, value in fields.items():
        for wrong in [..., *WRONG]:
            changed = copy.deepcopy(fields)
            if wrong is ...:
                del changed[name]
            else:
                changed[name] = wrong
            yield (*within, name), changed
        if isinstance(value, dict):
            for path, inner in changes(value, (*within, name)):
                yield path, {**copy.deepcopy(fields), name: inner}


def refusals(read, folder, fields, start):
    """Returns how often a card in `folder` was refused, by the path of the field that was changed."""
    refused = collections.Counter()
    for path, changed in changes(fields):
        (folder / "card.json").write_text(json.dumps(changed))
        said = ""
        try:
            read(folder)
        except ValueError as error:
            said = str(error)
        if said:
            assert said.startswith(start)
            # A spec calls a shortcut by its name.
            assert any(name in said.partition("Received")[2] for name in path[-2:]), (path, said)
            refused[path] += 1
    return refused


def test_any_field_of_a_runs_card_may_be_wrong_and_the_answer_is_a_sentence_that_names_it(model, tmp_path):
    fields = run_card(model, data_dir=None, digest=None)
    start = "`run` must be a folder whose card.json is whole. Received: run="
    refused = refusals(run_folder.read_card, tmp_path, fields, start)
    known = ["model", "data", "error_percent", "classes", "recipe", "network", "preprocessing"]
    assert all(refused[(name,)] >= 10 for name in known), refused
    assert refused[("preprocessing", "std")] == refused[("preprocessing", "mean")] == len(WRONG) + 1


def test_any_field_of_a_kept_card_may_be_wrong_and_the_answer_is_a_sentence_that_names_it(kept, tmp_path):
    fields = json.loads((kept / "card.json").read_text())
    shutil.copy(kept / "model.weights.h5", tmp_path)
    start = "`folder` must be a folder with a card.json of trained weights in it. Received: folder="
    refused = refusals(read_card, tmp_path, fields, start)
    assert all(refused[(name,)] >= 10 for name in ("name", "error_percent", "preprocessing", "spec")), refused
    assert refused[("preprocessing", "std")] == len(WRONG) + 1


TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "cut": b'{"model": ',
    "bytes": b"\xff\xfe\x00",
    "deep": b'{"a":' * 200_000,
    "deep lists": b'{"model": ' + b"[" * 900 + b"]" * 900 + b"}",
    "long": b" " * (bounds.CARD_BYTES + 1),
    "digits": b'{"error_percent": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_card_that_is_no_card_is_one_sentence(text, tmp_path):
    (tmp_path / "card.json").write_bytes(TEXTS[text])
    for read in (run_folder.read_card, read_card):
        with pytest.raises(ValueError, match=r"`(run|folder)` must be .*card.json.*Received") as raised:
            read(tmp_path)
        assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": [float("nan")] * 3}, "mean.*finite number.*nan"),
        ({"std": [1.0, 0.0, 1.0]}, "std.*positive"),
        ({"std": [1.0, 1.0]}, r"std.*one number per channel, as mean has \(3\)"),
        ({"size": [1_000_000, 1_000_000]}, r"size / crop.*at most 4096 pixels.*1e\+06"),
        ({"crop": 1e-9}, r"size / crop.*at most 4096 pixels.*8e\+09"),
        ({"crop": 0.0}, "crop.*above 0"),
        ({"size": [16, 16]}, r"preprocessing.size.*\(8, 8\), as the network reads"),
        ({"mean": [1.0], "std": [1.0]}, "preprocessing.mean.*3 numbers"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_preprocessing_that_would_predict_nonsense_is_refused(fields, message, model, tmp_path):
    card = run_card(model)
    card["preprocessing"].update(fields)
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        keras_preact.predict(tmp_path, [])
    if len({**card["preprocessing"]}["mean"]) == 3 and "size" not in message.partition("as the")[0]:
        with pytest.raises(ValueError, match=message):
            Preprocessing(**card["preprocessing"])


def test_a_kept_card_of_a_network_that_its_weights_cannot_hold_builds_nothing(kept, tmp_path, monkeypatch):
    shutil.copytree(kept, tmp_path / "kept")
    card = json.loads((kept / "card.json").read_text())
    monkeypatch.setattr(keras_preact.zoo, "ResidualNetwork", None)
    for field, value, message in (
        ("widths", [4, 50_000], "as many parameters"),
        ("units", [10**7, 1], "at most 10,000"),
    ):
        card["spec"][field] = value
        (tmp_path / "kept" / "card.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=message):
            publish.verify(tmp_path / "kept")


def test_old_cards_still_load():
    card = read_card(OURS)
    assert (card.name, card.preprocessing.interpolation) == ("resnet164.digits.digits", "bilinear")
    from keras_preact.weights import schema

    old = schema.read_fields(OURS / "run.json")  # in which std is called deviation
    assert "digest" not in old
    assert schema.checked(schema.RunCard, old).network.spec.depth == 164
    saved = OURS.parents[3] / "saved_models" / OURS.name
    assert read_card(saved).digest == card.digest


IMAGES = np.random.default_rng(0).integers(256, size=(20, 8, 8, 1), dtype=np.uint8)
DATA = from_arrays(IMAGES, np.arange(20) % 5, IMAGES, np.arange(20) % 5)
RECIPE = Recipe(epochs=1, global_batch_size=10, learning_rate=0.01)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = dataclasses.replace(DATA, class_names=tuple(np.arange(5)), mean=tuple(np.float32(DATA.mean)))
    keras_preact.train("ResNet11", data=data, recipe=RECIPE, output=folder, verbose=0)
    return folder


def test_the_card_of_a_run_is_read_again_whatever_its_class_names_and_numbers_were(finished, tmp_path):
    card = run_folder.read_card(finished)
    assert card["classes"] == ["0", "1", "2", "3", "4"]
    assert card["preprocessing"]["mean"] == pytest.approx(DATA.mean)
    odd = {**card, "data": "/photos/caf\udce9", "classes": [0, 1, 2, 3, 4]}  # a path that is no UTF-8; an older card
    (tmp_path / "card.json").write_text(json.dumps(odd))
    assert run_folder.read_card(tmp_path) == odd


def swap_two_arrays(path):
    """Exchanges two arrays of one shape in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights = path.with_name("swapped.h5")
    weights.write_bytes(parts["model.weights.h5"])
    found = {}
    with h5py.File(weights, "r+") as file:
        file.visititems(lambda name, item: found.setdefault(getattr(item, "shape", None), []).append(name))
        one, two = next(names[:2] for shape, names in found.items() if shape and len(names) > 1)
        first, second = file[one][()], file[two][()]
        file[one][...], file[two][...] = second, first
    parts["model.weights.h5"] = weights.read_bytes()
    weights.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_a_runs_model_is_sealed_by_its_card(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    card = json.loads((folder / "card.json").read_text())
    assert card["digest"].startswith("sha256:")
    swap_two_arrays(folder / "model.keras")
    readers = (run_folder.load_model, keras_preact.evaluate, publish.keep_weights, publish.verify, find_source)
    for read in readers:
        with pytest.raises(ValueError, match=r"`run` must be a folder whose model.keras has the hash on its card"):
            read(folder)
    for command in (["predict", str(folder), str(folder / "samples" / "0.png")], ["inspect", str(folder)]):
        with pytest.raises(SystemExit):
            main(command)
        assert "the hash on its card" in capsys.readouterr().err
    del card["digest"]  # as cards were before
    (folder / "card.json").write_text(json.dumps(card))
    assert run_folder.load_model(folder).count_params() > 0


def test_kept_weights_are_sealed_by_their_card(kept, tmp_path):
    """The seal within the file goes with the file; the card's does not."""
    folder = tmp_path / "kept"
    shutil.copytree(kept, folder)
    other = trained(seed=1)
    other.save_weights(folder / "model.weights.h5")
    with pytest.raises(ValueError, match=r"file.*one whose hash is sha256:.*as its card says"):
        build(read_card(folder))
    with pytest.raises(ValueError, match=r"file.*one whose hash is sha256:.*as its card says"):
        publish.verify(folder)


def test_a_finished_run_with_a_foreign_card_is_told_of_in_a_sentence(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    card = json.loads((finished / "card.json").read_text())
    (tmp_path / "run" / "card.json").write_text(json.dumps({**card, "error_percent": "low"}))
    with pytest.raises(ValueError, match=r"output.*card.json is whole.*error_percent: Input should be a valid number"):
        keras_preact.train("ResNet11", data=DATA, recipe=RECIPE, output=tmp_path / "run")
