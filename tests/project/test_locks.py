"""One process at a time where files are written; the second is told who is there."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys

import pytest

import keras_preact
from keras_preact import Preprocessing, export, locks
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.training.recipe import Recipe

HOLD = """
import sys
sys.argv[0] = "keras-preact"  # whose start imports no Keras
from keras_preact import locks
with locks.held(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(path):
    """Holds the lock of a path in another process until the end, or until that is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def who(process):
    return rf"process {process.pid} on {re.escape(socket.gethostname())} since 20\d\d-\d\d-\d\dT"


def test_the_second_is_told_who_holds_it_and_a_killed_holder_holds_nothing(tmp_path):
    path = tmp_path / "run"
    with another_process(path) as process:
        with pytest.raises(ValueError, match=f"`output`.*{who(process)}"), locks.held(path):
            raise AssertionError
        assert (tmp_path / ".run.lock").exists()
        process.kill()
        process.wait()
        with locks.held(path):
            assert json.loads((tmp_path / ".run.lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_one_process_does_not_hold_it_twice(tmp_path):
    with locks.held(tmp_path / "run"):
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), locks.held(tmp_path / "run"):
            raise AssertionError
        with locks.held(tmp_path / "other"):
            pass
    with locks.held(tmp_path / "run"):
        pass


def test_a_second_run_and_a_fine_tuning_on_one_folder_are_refused(tmp_path, capsys):
    recipe = Recipe(epochs=1, global_batch_size=128)
    with another_process(tmp_path / "run") as process:
        with pytest.raises(ValueError, match=f"`output`.*{who(process)}"):
            keras_preact.train("ResNet11", recipe=recipe, output=tmp_path / "run", verbose=0)
        network = keras_preact.ResNet(11, input_shape=(16, 16, 1), num_classes=3)
        with pytest.raises(ValueError, match=f"`output`.*{who(process)}"):
            keras_preact.finetune(network, "digits", output=tmp_path / "run", steps=2, verbose=0)
        with pytest.raises(SystemExit) as stop:
            main(["train", "ResNet11", "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"process {process.pid} on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_second_export_to_one_folder_is_refused(tmp_path):
    model = keras_preact.ResNet(11, input_shape=(8, 8, 3), num_classes=3)
    images = load("digits").test.images[:3, :8, :8].repeat(3, axis=-1)
    how = Preprocessing((8, 8), (0.0,) * 3, (255.0,) * 3)
    with another_process(tmp_path / "export") as process, pytest.raises(ValueError, match=f"`output`.*{who(process)}"):
        export(model, tmp_path / "export", preprocessing=how, class_names="abc", sample_images=images)
    assert not (tmp_path / "export").exists()


def test_a_second_process_that_fetches_the_same_weights_waits_and_says_for_whom(tmp_path, monkeypatch):
    """The first one fetches; the second finds the file when it is there."""
    from keras_preact.weights import pretrained

    name = keras_preact.list_weights()[0]
    card = keras_preact.get_card(name)
    with another_process(tmp_path / f"{name}.weights.h5") as process:
        monkeypatch.setattr(pretrained, "_write_converted", lambda *_, **__: pytest.fail("it was fetched twice"))
        (tmp_path / f"{name}.weights.h5").write_text("fetched")
        said = []

        def warning(text):
            said.append(text)
            process.stdin.close()  # it ends, once another waits for it

        monkeypatch.setattr(locks.log, "warning", warning)
        with pretrained.weights_file(card, None, output=tmp_path) as path:
            assert path.read_text() == "fetched"
    assert re.search(f"waiting for {who(process)}", said[0])


def test_a_folder_has_one_lock_by_whatever_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    with locks.held(tmp_path / "run"), pytest.raises(locks.HeldError), locks.held(tmp_path / "latest"):
        pass
