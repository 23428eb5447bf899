"""Run folders at URLs, in fsspec's own memory."""

import os
import pathlib
import sys

import fsspec
import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.training import checkpoints, remote_folder, run_folder
from keras_preact.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("eager")

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(48, 8, 8, 1), dtype=np.uint8), np.arange(48) % 3
DATA = from_arrays(IMAGES, LABELS, IMAGES[:9], LABELS[:9])
RECIPE = Recipe(epochs=4, global_batch_size=16, learning_rate=0.01, warmup_steps=0, crop_padding=1)


@pytest.fixture
def store():
    """An empty store."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    return store


def train(output, **arguments):
    return keras_preact.train(
        "ResNet8", data=DATA, recipe=RECIPE, output=output, strategy="none", verbose=0, **arguments
    )


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


def whole(store, url):
    """Returns the names of whole checkpoints."""
    return sorted(path.split("/")[-2] for path in store.glob(f"{url}/checkpoints/*/{checkpoints.SUMS}"))


def test_a_run_at_a_url_goes_on_and_ends_as_one_in_a_folder(store, tmp_path, caplog):
    caplog.set_level("INFO", "keras_preact")
    expected = train(tmp_path / "run")
    url = "memory://bucket/runs/a"
    with pytest.raises(KeyboardInterrupt):
        train(url, callbacks=[Stop()])
    assert whole(store, url) == ["000000006", "000000009"]
    assert store.exists(f"{url}/experiment.json")
    assert not store.exists(f"{url}/{run_folder.CARD}")
    store.rm_file(f"{url}/checkpoints/000000009/{checkpoints.SUMS}")  # as if killed while it copied
    card = train(url)
    assert "resuming after step 6 of 12" in caplog.text
    assert (card["folder"], card["error_percent"]) == (url, expected["error_percent"])
    store.get(url, str(tmp_path / "copy"), recursive=True)
    assert keras_preact.evaluate(tmp_path / "copy", DATA)["error_percent"] == card["error_percent"]
    assert (tmp_path / "copy" / run_folder.HISTORY).read_text() == (tmp_path / "run" / run_folder.HISTORY).read_text()
    ours, theirs = (checkpoints.newest(tmp_path / name / "checkpoints") for name in ("run", "copy"))
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name in ours.arrays:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name], err_msg=name)
    assert train(url)["error_percent"] == card["error_percent"]
    assert f"{url} holds this run, finished" in caplog.text
    with pytest.raises(
        ValueError, match=r"output.*bucket/runs/a.*learning_rate is 0.01 there and 0.02 here.*overwrite"
    ):
        keras_preact.train("ResNet8", data=DATA, recipe=RECIPE.replace(learning_rate=0.02), output=url)
    other = RECIPE.replace(learning_rate=0.02, epochs=1)
    keras_preact.train("ResNet8", data=DATA, recipe=other, output=url, overwrite=True, strategy="none", verbose=0)
    assert whole(store, url) == ["000000003"]


def test_what_says_that_files_are_whole_is_copied_last_and_removed_first(store, tmp_path, monkeypatch):
    calls = []
    put, remove = type(store).put_file, type(store).rm_file
    monkeypatch.setattr(type(store), "put_file", lambda *args, **k: (calls.append(("put", args[2])), put(*args, **k)))
    monkeypatch.setattr(type(store), "rm_file", lambda self, path: (calls.append(("remove", path)), remove(self, path)))

    def changes():
        done = [f"{what} {path.removeprefix('/run/')}" for what, path in calls]
        calls.clear()
        return done

    with remote_folder.local_copy("memory://run") as (folder, keep):
        for name in ("arrays.npz", "SHA256SUMS", "state.json"):
            path = folder / "checkpoints" / "7" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        (folder / "card.json").write_text("{}")
        (folder / "model.keras").write_text("")
        keep()
        first, last = changes(), changes()
        assert {line.rpartition("/")[2].split()[-1] for line in first[:3]} == {
            "arrays.npz",
            "state.json",
            "model.keras",
        }
        assert sorted(first[3:]) == ["put card.json", "put checkpoints/7/SHA256SUMS"]
        keep()
        assert (changes(), last) == ([], [])
        for name in ("SHA256SUMS", "arrays.npz", "state.json"):
            (folder / "checkpoints" / "7" / name).unlink()
        (folder / "model.keras").write_text("new")
        keep()
        done = changes()
        assert (done[0], done[-1]) == ("remove checkpoints/7/SHA256SUMS", "put model.keras")
        assert len(done) == 4
    assert not folder.exists()
    with remote_folder.local_copy("memory://run") as (folder, _):
        assert sorted(os.listdir(folder)) == ["card.json", "model.keras"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/run", r"output.*gs://bucket/run.*pip install fsspec.*gcsfs"),
        ("nowhere://bucket/run", r"output.*nowhere://bucket/run.*nowhere"),
    ],
)
def test_a_url_that_cannot_be_written_to_is_refused(url, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ValueError, match=message):
        train(url)
    with pytest.raises(SystemExit):
        main(["train", "ResNet8", "--output", url])
    assert url in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"`output` must be a local path.*as a string"):
        train(pathlib.Path(url))  # is one slash short
