"""Names from cards, data sets and object stores never lead out of their folder, and are checked before training."""

import dataclasses
import json
import os
import pathlib
import re

import fsspec
import numpy as np
import pytest
from weights_files import run_card, trained

import keras_preact
from keras_preact import bounds
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.names import check_name, path_inside, safe_name
from keras_preact.training import finish, publish, remote_folder
from keras_preact.training.recipe import Recipe

HOSTILE = [
    "../../ESCAPED",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "é" * 255,
    ".hidden",
    "\udc80",
    "a:b",
]
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(20, 8, 8, 1), dtype=np.uint8), np.arange(20) % 5
RECIPE = Recipe(epochs=1, global_batch_size=10, learning_rate=0.01)


def data_of(names, images=IMAGES, name="arrays"):
    return from_arrays(images, LABELS, images, LABELS, names, name)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_safe_name_stays_in_its_folder_and_any_other_is_refused(text, tmp_path):
    name = safe_name(text)
    (tmp_path / f"{name}.png").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    assert safe_name(name) == name == check_name("name", name)
    assert len(name.encode()) <= bounds.NAME_BYTES
    with pytest.raises(ValueError, match=r"`recipe.name` must be a name of letters.*Received"):
        check_name("recipe.name", text)


@pytest.mark.parametrize("text", ["cat", "German shepherd", "0.5", "多い", "a_b-c+d=1,2 (e)"])
def test_an_ordinary_name_stays_as_it_is(text):
    assert safe_name(text) == text


@pytest.mark.parametrize("key", ["../out", "a/../../out", "/out", "a//b", "a/.", "a\\..\\b", "a\0", ""])
def test_a_key_that_leads_out_of_its_folder_is_refused(key, tmp_path):
    with pytest.raises(ValueError, match=r"`output` must be a folder whose keys are names of files in it"):
        path_inside("output", tmp_path, key)
    assert path_inside("output", tmp_path, "a/b c/d.npz") == tmp_path / "a" / "b c" / "d.npz"


def test_names_that_are_no_names_of_files_are_kept_on_the_card_and_lead_nowhere(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "keras_preact")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    names = ("../../ESCAPED", "cat/dog", "cat_dog", "x" * 255, "CAT_DOG")
    data = data_of(names, name="../../x")
    card = keras_preact.train("ResNet11", data=data, recipe=RECIPE, verbose=0)
    assert card["folder"] == "runs/resnet11._._.._x.custom"
    assert tuple(card["classes"]) == names
    folder = pathlib.Path(card["folder"]).resolve()
    samples = sorted(path.name for path in (folder / "samples").iterdir())
    assert samples == ["CAT_DOG_4.png", "_._.._ESCAPED.png", "cat_dog.png", "cat_dog_2.png", f"{'x' * 100}.png"]
    assert [path.name for path in tmp_path.rglob("*ESCAPED*")] == ["_._.._ESCAPED.png"]
    # A URL of a local file is its path.
    again = keras_preact.train("ResNet11", data=data, recipe=RECIPE, output=folder.as_uri())
    assert f"{folder} holds this run, finished" in caplog.text
    assert again["folder"] == str(folder)


def test_urls_of_local_files_alone_become_paths():
    assert remote_folder.without_scheme("gs://bucket/run") == "gs://bucket/run"
    assert remote_folder.without_scheme("runs/a b") == "runs/a b"
    assert remote_folder.without_scheme("file:///x/a%20b") == "/x/a b"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": (0.0,)}, "std.*positive"),
        ({"mean": (float("nan"),)}, "mean.*finite number"),
        ({"crop": 0.001}, "size / crop.*at most 4096"),
        ({"recipe": RECIPE.replace(source=5)}, "recipe.source: Input should be a valid string, not 5"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_what_a_reader_of_the_card_would_refuse_is_refused_before_the_first_step(change, message, tmp_path):
    recipe = change.pop("recipe", RECIPE)
    data = dataclasses.replace(data_of(None), **change)
    with pytest.raises(ValueError, match=message):
        keras_preact.train("ResNet11", data=data, recipe=recipe, output=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["two\nlines", "nul\0", " ", "\udc80", "\x1b[31mred"], ids=ascii)
def test_class_names_that_are_no_line_of_text_are_refused_before_the_first_step(name, tmp_path):
    with pytest.raises(ValueError, match=r"`class_names` must be names of one line.*Received"):
        keras_preact.train("ResNet11", data=data_of(("a", name, "b", "c", "d")), recipe=RECIPE, output=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_images_that_no_file_holds_leave_no_samples_and_no_error(tmp_path):
    finish._write_samples(data_of(None, np.repeat(IMAGES, 5, axis=-1)), tmp_path / "samples")
    assert not list((tmp_path / "samples").iterdir())


def finished_run(folder, **fields):
    """Writes the folder of a finished run, with some fields of its card changed."""
    model = trained()
    folder.mkdir()
    model.save(folder / "model.keras")
    (folder / "history.csv").write_text("epoch\n1\n")
    (folder / "card.json").write_text(json.dumps(run_card(model, **fields)))
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recipe": {"name": "/../../victim.dir", "source": "", "seed": 0}}, r"recipe: `name` must be a name of"),
        ({"model": "../victim"}, r"`model` must be a name of"),
    ],
    ids=["recipe", "model"],
)
def test_a_foreign_card_makes_keep_replace_nothing(fields, message, tmp_path, capsys):
    run = finished_run(tmp_path / "run", **fields)
    victim = tmp_path / "victim.dir"
    victim.mkdir()
    (victim / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "keep", str(run), "--output", str(tmp_path / "kept" / "deeper")])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert (victim / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "victim.dir"]


def test_a_run_on_a_folder_of_images_is_kept_under_the_folders_name_and_verified_on_it(tmp_path):
    from PIL import Image

    pets = tmp_path / "my.pets"
    for label in "abcd":
        for split in ("train", "test"):
            (pets / split / label).mkdir(parents=True)
            Image.fromarray(RNG.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(pets / split / label / "1.png")
    run = finished_run(tmp_path / "run", data=str(pets))
    folder = publish.keep_weights(run, tmp_path / "kept")
    assert folder == tmp_path / "kept" / "resnet11.my_pets.ours"
    found = publish.verify(folder, pets)
    assert (found.name, found.published_percent) == ("resnet11.my_pets.ours", 12.5)
    assert found.error_percent in (0.0, 25.0, 50.0, 75.0, 100.0)
    with pytest.raises(ValueError, match=r"resnet11.my_pets.ours is new.*overwrite=True"):
        publish.keep_weights(run, tmp_path / "kept")
    assert publish.keep_weights(run, tmp_path / "kept", overwrite=True) == folder


def test_what_is_no_kept_folder_is_not_replaced(tmp_path):
    run = finished_run(tmp_path / "run")
    there = tmp_path / "kept" / "resnet11.digits.ours"
    there.mkdir(parents=True)
    (there / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`output` must be a folder in which resnet11.digits.ours is new"):
        publish.keep_weights(run, tmp_path / "kept")
    assert os.listdir(there) == ["thesis.txt"]


def test_a_key_of_a_bucket_writes_nothing_outside_the_local_copy(tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    store.store.clear()
    for name in ("card.json", "../../escaped.txt"):
        store.store[f"/bucket/run/{name}"] = fsspec.implementations.memory.MemoryFile(store, name, b"{}")
    written = []
    monkeypatch.setattr(type(store), "get_file", lambda self, key, path: written.append(path))
    with (
        pytest.raises(ValueError, match=r"`output` must be a folder whose keys.*escaped.txt"),
        remote_folder.local_copy("memory://bucket/run"),
    ):
        pass
    assert written == []
