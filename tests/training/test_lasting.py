"""What a run leaves after a kill or a signal at any time, and what it refuses to resume."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import files
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.data.dataset import held_out
from keras_preact.laboratory.sweep import sweep
from keras_preact.training import checkpoints, finish, fitting, remote_folder, run_folder, trainer
from keras_preact.training.recipe import Recipe
from keras_preact.training.signals import EndingSignals

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(48, 8, 8, 1), dtype=np.uint8), np.arange(48) % 3
DATA = from_arrays(IMAGES, LABELS, IMAGES[:9], LABELS[:9])
RECIPE = Recipe(epochs=3, global_batch_size=16, learning_rate=0.01, warmup_steps=0)

pytestmark = pytest.mark.usefixtures("eager")


class Kill(BaseException):
    """Stands for SIGKILL at some place."""


def train(output, recipe=RECIPE, data=DATA, **arguments):
    arguments = {"strategy": "none", "verbose": 0, **arguments}
    return keras_preact.train("ResNet8", data=data, recipe=recipe, output=output, **arguments)


def killed_in(function, monkeypatch, output, kill=Kill, **arguments):
    """Trains until `function` of `outputs` is called, where the process is killed."""

    def die(*_):
        raise kill

    with monkeypatch.context() as patch:
        patch.setattr(finish, function, die)
        with pytest.raises(kill):
            train(output, **arguments)


def assert_same_run(ours, theirs):
    assert (ours / run_folder.HISTORY).read_text() == (theirs / run_folder.HISTORY).read_text()
    one, two = (checkpoints.newest(folder / run_folder.CHECKPOINTS) for folder in (ours, theirs))
    assert (one.step, one.state) == (two.step, two.state)
    for name, array in two.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], array, err_msg=name)
    weights = [run_folder.load_model(folder).get_weights() for folder in (ours, theirs)]
    assert all(map(np.array_equal, *weights))


# What ends a run


class StopAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.last, self.step = step, 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step == self.last:
            self.model.stop_training = True


def early(restore_best_weights):
    return keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=restore_best_weights)


STOPS = {
    "recipe": lambda: {"recipe": RECIPE.replace(epochs=9, early_stopping=1, validation_images=16, learning_rate=1e-9)},
    "callback": lambda: {"callbacks": [early(False)]},
    "best weights": lambda: {"callbacks": [early(True)]},
    "within an epoch": lambda: {"callbacks": [StopAt(5)], "checkpoint_steps": 1},
}


@pytest.mark.parametrize(
    "how",
    ["recipe", "within an epoch", *(pytest.param(how, marks=pytest.mark.long) for how in ("callback", "best weights"))],
)
def test_a_run_that_was_stopped_early_stays_so_after_a_kill_before_its_card(how, tmp_path, monkeypatch):
    train(tmp_path / "whole", **STOPS[how]())
    killed_in("save", monkeypatch, tmp_path / "killed", **STOPS[how]())
    card = train(tmp_path / "killed", **STOPS[how]())
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert checkpoints.newest(tmp_path / "killed" / run_folder.CHECKPOINTS).state["stopped"] is True
    assert card["processes"][-1]["images"] == 0


def test_an_epoch_is_measured_on_what_was_held_out_and_not_trained_on(tmp_path):
    train(tmp_path, RECIPE.replace(epochs=1, validation_images=16))
    (row,) = csv.DictReader((tmp_path / "history.csv").read_text().splitlines())
    left, held = held_out(DATA, 16, RECIPE.seed)
    assert float(row["val_loss"]) == pytest.approx(keras_preact.evaluate(tmp_path, held)["loss"], rel=1e-4)
    assert sorted([*left.train.indices, *held.test.indices]) == list(range(48))
    assert list(held.test.indices) != list(held_out(DATA, 16, 1)[1].test.indices)


# Half-written files


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_while_a_folder_is_made_does_not_lock_it(overwrite, tmp_path):
    aside = tmp_path / "run" / ".experiment.json.abcdefgh.aside"
    aside.mkdir(parents=True)
    (aside / "experiment.json").write_text('{"mod')
    train(tmp_path / "run", overwrite=overwrite)
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_dir()]


def test_a_kill_while_a_sweep_is_made_does_not_lock_it(tmp_path):
    aside = tmp_path / "sweep" / ".sweep.json.abcdefgh.aside"
    aside.mkdir(parents=True)
    (aside / "sweep.json").write_text('{"mod')
    (aside / files.ALIVE).touch()
    (tmp_path / "sweep" / ".sweep.json.lock").touch()
    recipe = RECIPE.replace(epochs=1)
    rows = sweep("depth=8", data=DATA, recipe=recipe, seeds=1, output=tmp_path / "sweep", strategy="none")
    assert [row["depth"] for row in rows] == [8]
    assert not aside.exists()


def test_what_a_kill_left_in_a_finished_run_goes_at_the_next_start_and_into_no_bucket(tmp_path, monkeypatch):
    train(tmp_path / "run")
    for name in ("curves.png", "saved_model", "card.json"):
        aside = tmp_path / "run" / f".{name}.abcdefgh.aside"
        aside.mkdir()
        (aside / name).touch()
        (aside / files.ALIVE).touch()
    (tmp_path / "run" / "notes").mkdir()
    (tmp_path / "run" / "notes" / "mine.txt").touch()
    names = {path.relative_to(tmp_path / "run").as_posix() for path in remote_folder._files(tmp_path / "run")}
    assert "notes/mine.txt" in names
    assert not any("abcdefgh" in name for name in names)
    train(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def test_a_sweep_on_other_images_is_refused(tmp_path, monkeypatch):
    arguments = dict(recipe=RECIPE.replace(epochs=1), seeds=1, output=tmp_path / "sweep", strategy="none")
    sweep("depth=8", data=DATA, **arguments)
    other = from_arrays(IMAGES[::-1], LABELS, IMAGES[:9], LABELS[:9])
    with pytest.raises(ValueError, match=r"`output`.*another sweep: identity\.data_digest is"):
        sweep("depth=8", data=other, **arguments)


# What is resumed


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("killed") / "run"
        killed_in("save", patch, folder)
    return folder


@pytest.fixture
def folder(killed_run, tmp_path):
    """The folder of a run that was killed after its last step."""
    return shutil.copytree(killed_run, tmp_path / "run")


def test_the_same_run_is_resumed_with_overwrite_too(folder):
    assert train(folder, overwrite=True)["processes"][-1]["first_step"] == 9


def test_other_images_and_other_classes_are_refused(folder):
    images = IMAGES.copy()
    images[3, 2, 1, 0] ^= 1
    others = {
        "identity.data_digest is 'sha256:": from_arrays(images, LABELS, IMAGES[:9], LABELS[:9]),
        r"identity.mean is \[\d+.\d+\] there and \[0.0\] here": dataclasses.replace(DATA, mean=(0.0,)),
        "identity.data_digest is 'sha256": from_arrays(IMAGES, (LABELS + 1) % 3, IMAGES[:9], LABELS[:9]),
        r"identity.classes is \['0', '1', '2'\] there and \['a', 'b', 'c'\] here": from_arrays(
            IMAGES, LABELS, IMAGES[:9], LABELS[:9], ("a", "b", "c")
        ),
    }
    for message, data in others.items():
        with pytest.raises(ValueError, match=f"`output`.*another run.*{message}"):
            train(folder, data=data)


def test_a_run_of_a_version_that_knew_less_of_its_images_is_resumed(folder):
    experiment = json.loads((folder / run_folder.EXPERIMENT).read_text())
    for name in ("mean", "std"):
        del experiment["identity"][name]
    (folder / run_folder.EXPERIMENT).write_text(json.dumps(experiment))
    assert train(folder)["processes"][-1]["first_step"] == 9


@pytest.mark.parametrize(("field", "value"), [("backend", "torch"), ("keras_preact_major", 7)])
def test_another_backend_and_major_version_are_refused(field, value, folder):
    experiment = json.loads((folder / run_folder.EXPERIMENT).read_text())
    experiment["identity"][field] = value
    (folder / run_folder.EXPERIMENT).write_text(json.dumps(experiment))
    with pytest.raises(ValueError, match=rf"`output`.*identity\.{field} is {value!r} there"):
        train(folder)


def test_a_run_of_before_that_knows_no_identity_is_resumed(folder):
    experiment = json.loads((folder / run_folder.EXPERIMENT).read_text())
    del experiment["identity"]
    experiment["recipe"]["source"] = "what an older version says of the same recipe"
    (folder / run_folder.EXPERIMENT).write_text(json.dumps(experiment))
    for path in (folder / run_folder.CHECKPOINTS).iterdir():
        (path / checkpoints.PROCESSES).unlink()
        sums = path / checkpoints.SUMS
        lines = sums.read_text().splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if checkpoints.PROCESSES not in line))
    assert [process["first_step"] for process in train(folder)["processes"]] == [9]


def test_the_card_lists_the_processes_in_order_and_adds_them_up(tmp_path, monkeypatch):
    class KillAt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Kill

    with pytest.raises(Kill):
        train(tmp_path / "run", callbacks=[KillAt()])
    monkeypatch.setattr("keras_preact.training.processes.versions", lambda: {"numpy": "another"})
    killed_in("save", monkeypatch, tmp_path / "run", strategy="mirrored")
    card = train(tmp_path / "run")
    processes = card["processes"]
    assert [(one["first_step"], one["last_step"], one["images"]) for one in processes] == [
        (0, 6, 96),
        (6, 9, 48),
        (9, 9, 0),
    ]
    assert [one["devices"]["strategy"] for one in processes] == ["none", "mirrored", "none"]
    assert "keras" in processes[0]["versions"]
    assert processes[1]["versions"] == {"numpy": "another"}
    assert card["seconds"] == pytest.approx(sum(one["seconds"] for one in processes), abs=0.1)
    assert card["cpu_seconds"] == pytest.approx(sum(one["cpu_seconds"] for one in processes), abs=0.1)
    assert all(one["cpu_seconds"] > 0 for one in processes)
    training = sum(one["training_seconds"] for one in processes)
    assert card["images_per_second"] == pytest.approx(144 / training, rel=0.01)


# Signals


def signalled_in(function, number, monkeypatch):
    """Makes a function of `outputs` get a signal before it does what it does."""
    original = getattr(finish, function)

    def call(*arguments):
        os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(finish, function, call)


@pytest.fixture(autouse=True)
def signals_end():
    """Makes SIGHUP and Ctrl-C end this process, as they do unless the tests run under nohup or in the background."""
    ending = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in ending.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_outside_the_steps_ends_a_run_with_its_status(number, status, tmp_path, monkeypatch, capsys):
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signalled_in("save", number, patch)
        with pytest.raises(SystemExit) as stop:
            train(tmp_path / "run")
    assert stop.value.code == status
    assert f"{number.name}. The same command resumes" in capsys.readouterr().err
    assert not (tmp_path / "run" / run_folder.CARD).exists()
    assert signal.getsignal(number) is before
    assert train(tmp_path / "run")["processes"][-1]["first_step"] == 9


def test_a_signal_whose_exception_somebody_drops_still_ends_a_run(tmp_path, monkeypatch):
    """As Python does in `__del__`, and libraries do in callbacks."""

    original = finish.save

    def dropped(*arguments):
        with contextlib.suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(finish, "save", dropped)
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run")
    assert stop.value.code == 143


class Signal(keras.callbacks.Callback):
    def __init__(self, number, step):
        super().__init__()
        self.number, self.left = number, step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, callbacks=[Signal(0, 99)])
    return folder


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGTERM, SystemExit),
        pytest.param(signal.SIGHUP, SystemExit, marks=pytest.mark.long),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
def test_a_signal_within_the_steps_saves_first(number, error, whole_run, tmp_path, capsys):
    with pytest.raises(error):
        train(tmp_path / "run", callbacks=[Signal(number, 5)])
    assert checkpoints.newest(tmp_path / "run" / run_folder.CHECKPOINTS).step == 5
    assert f"{number.name} after step 5. The same command resumes from there." in capsys.readouterr().err
    train(tmp_path / "run", callbacks=[Signal(0, 99)])
    assert_same_run(tmp_path / "run", whole_run)


def test_a_terminal_that_is_closed_costs_no_step(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(keras.callbacks.ProgbarLogger, "on_train_batch_end", gone)
    monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", callbacks=[Signal(signal.SIGHUP, 1)], verbose=1)
    assert stop.value.code == 129
    assert checkpoints.newest(tmp_path / "run" / run_folder.CHECKPOINTS).step == 1


@pytest.mark.parametrize("where", ["save", "steps"])
def test_a_sweep_that_is_told_to_stop_runs_no_further_trial(where, tmp_path, monkeypatch):
    count, carry_out = [], trainer.carry_out

    def counted(*arguments):
        count.append(arguments)
        return carry_out(*arguments)

    monkeypatch.setattr(trainer, "carry_out", counted)
    if where == "save":
        signalled_in("save", signal.SIGTERM, monkeypatch)
    else:
        monkeypatch.setattr(fitting, "_stoppers", lambda recipe: [Signal(signal.SIGTERM, 2)])
    recipe = RECIPE.replace(epochs=1)
    with pytest.raises(SystemExit) as stop:
        sweep("depth=8", data=DATA, recipe=recipe, seeds=3, output=tmp_path / "sweep", strategy="none")
    assert stop.value.code == 143
    assert len(count) == 1


def test_ctrl_c_is_a_sentence_and_status_130(monkeypatch, capsys):
    monkeypatch.setattr("keras_preact.commands.networks.list_networks", lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(SystemExit) as stop:
        main(["list"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip() == "keras-preact: SIGINT. It was ended by Ctrl-C."


def test_signals_that_come_while_all_is_tidied_up_leave_that_alone():
    tidied = []

    def body():
        with EndingSignals("Ended."):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                tidied.append(True)

    with pytest.raises(SystemExit) as stop:
        body()
    assert (stop.value.code, tidied) == (143, [True])


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with EndingSignals("Ended."):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# Files of the current folder are not run


def test_no_file_of_the_current_folder_is_run_by_launch_or_its_watchdog(tmp_path):
    for name in ("signal", "select", "os", "ctypes", "keras"):
        (tmp_path / f"{name}.py").write_text(f"open('{name} was run', 'w').close()")
    start = "import sys; sys.argv[0] = 'keras-preact'; "  # which imports no Keras
    program = f"{start}from keras_preact.cli import main; main(['launch', '--workers', '1', '--', 'list'])"
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    elsewhere = dict(cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-P", "-c", program], **elsewhere)
    deadline = f"{start}from keras_preact.training import strategies as s\nwith s._deadline('it'): pass"
    subprocess.run([sys.executable, "-P", "-c", deadline], **elsewhere)
    assert not list(tmp_path.glob("*was run"))
