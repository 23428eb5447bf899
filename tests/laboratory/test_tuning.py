"""Sweeps that go on, trials that fail, and keras-tuner's searches, on networks of eight layers."""

import csv
import fcntl
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras_tuner
import numpy as np
import pytest

import keras_preact
from keras_preact.cli import main
from keras_preact.data import from_arrays
from keras_preact.laboratory.sweep import PreActHyperModel, Range, axes, launch_search, sweep, trials
from keras_preact.network.spec import ShortcutSpec
from keras_preact.training.recipes import RECIPES
from keras_preact.training.trainer import train

TINY = RECIPES["digits"].replace(epochs=1, global_batch_size=16, warmup_steps=0)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = (rng.integers(0, 60, (80, 8, 8)) + 60 * labels[:, None, None]).astype("uint8")
    return from_arrays(images[:64], labels[:64], images[64:], labels[64:], name="tiny")


@pytest.fixture
def trained(monkeypatch):
    """Replaces `train`: returns the list of the run folders that it was called with, and errors by name."""
    calls, errors = [], {}

    def fake(model, *, recipe, output, **_):
        calls.append(output.name)
        outcome = errors.get(output.name, 5.0 + recipe.seed)
        if isinstance(outcome, BaseException):
            raise outcome
        return {"error_percent": outcome, "seconds": 1.0}

    monkeypatch.setattr(trials.trainer, "train", fake)
    return calls, errors


def rows_of(folder):
    with open(folder / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


# What is varied


def test_a_grid_has_each_point_once_and_a_parameter_beside_its_shortcut_only():
    found = axes.grid(axes.parse_axes("shortcut=identity:dropout:exclusive_gating,gate_bias=-6:0,rate=0.5"))
    assert found == [
        {"shortcut": "identity"},
        {"shortcut": "dropout", "rate": 0.5},
        {"shortcut": "exclusive_gating", "gate_bias": -6},
        {"shortcut": "exclusive_gating", "gate_bias": 0},
    ]
    assert len(axes.grid(axes.parse_axes("shortcut,ordering"))) == 7 * 5


def test_a_point_is_a_network_and_a_recipe():
    point = {"shortcut": "constant_scaling", "scale": 0.9, "width": 8, "depth": 29, "learning_rate": 0.5}
    model, options = axes.network_of(point, options={"remat": True})
    assert (model, options["widths"], options["stem"], options["remat"]) == (
        "resnet29",
        [8, 16, 32],
        {"width": 8},
        True,
    )
    assert options["shortcut"] == {"name": "constant_scaling", "scale": 0.9, "branch_scale": 0.5}
    assert axes.recipe_of(point, TINY) == TINY.replace(learning_rate=0.5)


@pytest.mark.parametrize(
    ("model", "depth", "options", "stages"),
    [("resnet20", 50, {"family": "cifar"}, 3), ("resnet50", 101, {}, 4), ("resnet20", 56, {}, 3)],
)
def test_a_depth_of_both_families_is_of_the_models(model, depth, options, stages):
    key, found = axes.network_of({"depth": depth, "width": 4}, model)
    assert {name: value for name, value in found.items() if name == "family"} == options
    assert len(found["widths"]) == stages
    network = keras_preact.get_model(key, input_shape=(32, 32, 3), num_classes=2, **found)
    assert (network.spec.depth, len(network.spec.units)) == (depth, stages)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("shortcuts", 'Nearest: "shortcut"'),
        ("depth", "with values for depth"),
        ("ordering=preact", 'Nearest: "preactivation"'),
        ("depth=20:21", "depth"),
        ("rate=0.5", "with a shortcut that takes rate: dropout"),
        ("shortcut=dropout,rate=1.5", "rate"),
        ("learning_rate=-1", "learning_rate"),
        ("image_size=8:16", "`over` must be one of"),  # the images are loaded once, in one size
        ("", "one axis at least"),
    ],
)
def test_a_wrong_axis_is_refused_before_anything_is_written(over, message, tmp_path, data):
    with pytest.raises(ValueError, match=message):
        sweep(over, data=data, output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "tpu"}, "strategy.*where there is no TPU"),
        ({"model_options": {"ordring": "original"}}, '`model_options` must be one of .*Nearest: "ordering"'),
        ({"recipe": TINY.replace(global_batch_size=15, mixup=1.0)}, "global_batch_size.*multiple of 2.*15"),
    ],
)
def test_a_sweep_that_no_run_of_which_could_start_is_refused(arguments, message, tmp_path, data):
    with pytest.raises(ValueError, match=message):
        sweep("ordering", data=data, output=tmp_path / "sweep", **arguments)
    assert not (tmp_path / "sweep").exists()


# Sweeps


def test_the_shortcut_of_all_points_may_be_a_spec(tmp_path, data, trained):
    shortcut = ShortcutSpec("dropout", rate=0.3)
    sweep("width=16", data=data, seeds=1, output=tmp_path / "sweep", model_options={"shortcut": shortcut})
    result = json.loads((tmp_path / "sweep" / "width=16,seed=0.json").read_text())
    assert result["options"]["shortcut"] == {"name": "dropout", "rate": 0.3}


def test_a_sweep_that_is_interrupted_goes_on_and_runs_each_trial_once(tmp_path, data, trained):
    calls, errors = trained
    over, arguments = "ordering=original:preactivation", dict(data=data, output=tmp_path / "sweep")
    errors["ordering=preactivation,seed=0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sweep(over, seeds=2, **arguments)
    assert len(rows_of(tmp_path / "sweep")) == 2
    (tmp_path / "sweep" / ".ordering=original,seed=0.json.half").mkdir()  # as a killed process leaves it
    errors.clear()
    rows = sweep(over, seeds=2, **arguments)
    places = [(name, seed) for name in ("original", "preactivation") for seed in (0, 1)]
    assert [(row["ordering"], row["seed"]) for row in rows] == places
    assert sorted(calls) == sorted([f"ordering={n},seed={s}" for n, s in places] + ["ordering=preactivation,seed=0"])
    assert len(sweep(over, seeds=3, **arguments)) == 6
    assert len(calls) == 7


def test_a_failing_trial_is_a_row_and_never_best(tmp_path, data, trained):
    _, errors = trained
    errors["ordering=original,seed=0"] = FloatingPointError("The loss is nan at step 3.\nmore")
    errors["ordering=bn_after_addition,seed=0"] = RuntimeError("out of memory")
    errors["ordering=relu_before_addition,seed=0"] = 20.01
    errors["ordering=preactivation,seed=0"] = 4.0
    sweep("ordering", data=data, seeds=1, output=tmp_path / "sweep")
    rows = {row["ordering"]: row for row in rows_of(tmp_path / "sweep")}
    assert [row["result"] for row in rows.values()] == ["fail", "fail", "fail", "5.00", "4.00"]
    assert rows["original"]["reason"] == "diverged: The loss is nan at step 3."
    assert rows["bn_after_addition"]["reason"] == "RuntimeError: out of memory"
    assert "above 20 %" in rows["relu_before_addition"]["reason"]
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert (best["point"], best["median"]) == ("ordering=preactivation", 4.0)
    table = (tmp_path / "sweep" / "sweep.md").read_text()
    assert "| original | fail |" in table
    assert "| preactivation | 4.00 | 4.00 | 4.00 | 1 |" in table


def test_a_full_disk_ends_a_sweep_and_is_no_row(tmp_path, data, trained):
    trained[1]["ordering=original,seed=0"] = OSError("No space left on device")
    with pytest.raises(OSError, match="No space"):
        sweep("ordering", data=data, seeds=1, output=tmp_path / "sweep")
    assert not list((tmp_path / "sweep").glob("ordering=*.json"))


def test_processes_share_a_sweep(tmp_path, data, trained):
    calls, _ = trained
    folder = tmp_path / "sweep"
    sweep("ordering=original", data=data, seeds=1, output=folder)
    (folder / "ordering=original,seed=0.json").unlink()
    held = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    lock = folder / ".ordering=original,seed=0.lock"
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        assert sweep("ordering=original", data=data, seeds=1, output=folder) == []
        other.kill()
    assert len(sweep("ordering=original", data=data, seeds=1, output=folder)) == 1
    assert len(calls) == 2


def test_the_tables_hold_what_another_process_has_done_meanwhile(tmp_path, data, monkeypatch):
    theirs, folder = tmp_path / "theirs.json", tmp_path / "sweep"
    result = folder / "ordering=original,seed=0.json"

    def fake(*_, **__):
        if theirs.exists():
            theirs.rename(result)  # the other process ends its trial while this one is on the next
        return {"error_percent": 5.0, "seconds": 1.0}

    monkeypatch.setattr(trials.trainer, "train", fake)
    sweep("ordering=original:preactivation", data=data, seeds=1, output=folder)
    result.rename(theirs)
    (folder / "ordering=preactivation,seed=0.json").unlink()
    with open(folder / ".ordering=original,seed=0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = sweep("ordering=original:preactivation", data=data, seeds=1, output=folder)
    assert [row["ordering"] for row in rows] == ["original", "preactivation"]
    assert [row["ordering"] for row in rows_of(folder)] == ["original", "preactivation"]


def test_the_folder_of_another_sweep_is_refused_with_the_difference(tmp_path, data, trained):
    sweep("ordering", data=data, seeds=1, output=tmp_path / "sweep")
    with pytest.raises(ValueError, match=r"over\.shortcut is None there and \['none'\] here"):
        sweep("ordering,shortcut=none", data=data, seeds=1, output=tmp_path / "sweep")
    with pytest.raises(ValueError, match=r"recipe\.epochs is 6 there and 7 here"):
        sweep("ordering", data=data, recipe=RECIPES["digits"].replace(epochs=7), output=tmp_path / "sweep")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    run = tmp_path / "sweep" / "runs" / "ordering=original,seed=0"
    run.mkdir(parents=True)
    (run / "experiment.json").write_text('{"model": "resnet29"}')
    (tmp_path / "sweep" / "ordering=original,seed=0.json").unlink()
    with pytest.raises(ValueError, match="model is 'resnet29' there and 'resnet20' here"):
        sweep("ordering", data=data, seeds=1, output=tmp_path / "sweep")
    with pytest.raises(ValueError, match="a sweep's"):
        sweep("ordering", data=data, output=tmp_path / "other")


@pytest.mark.parametrize("name", ["sweep.json", "ordering=original,seed=0.json"])
def test_a_damaged_file_of_a_sweep_is_named(name, tmp_path, data, trained):
    arguments = dict(data=data, seeds=1, output=tmp_path / "sweep")
    sweep("ordering=original", **arguments)
    (tmp_path / "sweep" / name).write_text('{"cut')
    with pytest.raises(ValueError, match=f"`output` must be a folder whose {name} is whole"):
        sweep("ordering=original", **arguments)


@pytest.mark.parametrize(
    ("asked", "recipes", "over", "expected"),
    [
        (None, 0, "ordering=original", [6]),  # a tenth of 64
        (None, 9, "ordering=original", [9]),
        (5, 9, "ordering=original", [5]),
        (0, 9, "ordering=original", [0]),
        (None, 0, "validation_images=0:7", [0, 7]),
    ],
)
def test_a_sweep_holds_training_images_out(asked, recipes, over, expected, tmp_path, data, trained):
    recipe, folder = TINY.replace(validation_images=recipes), tmp_path / "sweep"
    sweep(over, data=data, recipe=recipe, seeds=1, validation_images=asked, output=folder)
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*seed=0.json"))]
    assert [result["recipe"]["validation_images"] for result in results] == expected


def test_a_sweep_trains_and_chooses_by_the_images_held_out(tmp_path, data):
    over = {"learning_rate": [0.05, 1e30]}
    rows = sweep(over, model="resnet8", data=data, recipe=TINY, seeds=1, output=tmp_path / "sweep")
    assert rows[1]["result"] == "fail"
    assert rows[1]["reason"].startswith("diverged: The loss is ")
    result = json.loads((tmp_path / "sweep" / "learning_rate=0.05,seed=0.json").read_text())
    assert result["curve"][-1]["iteration"] == 3
    assert result["curve"][-1]["val_error_percent"] == pytest.approx(rows[0]["validation_percent"])
    assert {"command", "device", "versions", "recipe", "options", "date"} <= set(result)
    if result["failed"] is None:
        best = json.loads((tmp_path / "sweep" / "best.json").read_text())
        assert best["chosen_by"] == "median validation_percent"
        assert (tmp_path / "sweep" / best["run"] / "model.keras").is_file()


def test_the_command_has_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    assert "--over" in capsys.readouterr().out


def test_the_command_refuses_an_unknown_axis(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--over", "shortcat", "--output", str(tmp_path / "sweep")])
    assert stop.value.code == 2
    assert 'Nearest: "shortcut"' in capsys.readouterr().err


@pytest.mark.long
def test_a_sweep_that_is_killed_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-c", "from keras_preact.cli import main; main()", "sweep", "--model", "ResNet11"]
    command += ["--over", "ordering=original:preactivation", "--seeds", "1", "--epochs", "3", "--output", str(folder)]
    for pattern in ("runs/*original*/checkpoints/0*", "runs/*preactivation*/checkpoints/0*"):
        process = subprocess.Popen(command, env=os.environ)
        while not list(folder.glob(pattern)):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(command, check=True)
    rows = rows_of(folder)
    assert [row["ordering"] for row in rows] == ["original", "preactivation"]
    whole = train("ResNet11", recipe=RECIPES["digits"].replace(epochs=3), output=tmp_path / "whole")
    assert float(rows[1]["error_percent"]) == whole["error_percent"]


# keras-tuner


def search(tuner, hypermodel, folder, **arguments):
    found = tuner(hypermodel, hypermodel.objective, directory=folder, project_name="search", seed=0, **arguments)
    found.search(verbose=0)
    return found


def test_the_parameters_of_a_shortcut_depend_on_it(data):
    space = {"shortcut": ("identity", "shortcut_only_gating"), "gate_bias": Range(-6.0, 0.0, step=1.0), "depth": (8,)}
    hypermodel = PreActHyperModel(data, space, TINY)
    assert hypermodel.point(keras_tuner.HyperParameters()) == {"shortcut": "identity", "depth": 8}
    hp = keras_tuner.HyperParameters()
    hp.values["shortcut"] = "shortcut_only_gating"
    assert hypermodel.point(hp) == {"shortcut": "shortcut_only_gating", "depth": 8, "gate_bias": -6.0}
    model = hypermodel.build(hp)
    assert model.network.spec.shortcut.gate_bias == -6.0
    assert len(hypermodel.validation.test) == 6


SPACE = {"shortcut": ("dropout", "identity"), "rate": Range(0.1, 0.5), "depth": (8,), "learning_rate": (0.05, 0.1)}


@pytest.mark.parametrize(
    ("tuner", "arguments"),
    [
        (keras_tuner.RandomSearch, {"max_trials": 2}),
        (keras_tuner.BayesianOptimization, {"max_trials": 2}),
        (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
    ],
)
def test_a_search_ends_with_a_best_trial(tuner, arguments, tmp_path, data):
    hypermodel = PreActHyperModel(data, SPACE, TINY)
    found = search(tuner, hypermodel, tmp_path, **arguments)
    done = list(found.oracle.trials.values())
    assert len(done) >= 2
    assert {trial.status for trial in done} == {"COMPLETED"}
    best = found.oracle.get_best_trials(1)[0]
    assert best.score == min(trial.score for trial in done)
    network = found.get_best_models(1)[0].network
    assert network.spec.shortcut.name == best.hyperparameters.get("shortcut")


def test_a_grid_search_fails_a_trial_that_diverges(tmp_path, data):
    hypermodel = PreActHyperModel(data, {"learning_rate": (1e30, 0.05), "depth": (8,)}, TINY)
    found = search(keras_tuner.GridSearch, hypermodel, tmp_path)
    done = {trial.hyperparameters.get("learning_rate"): trial for trial in found.oracle.trials.values()}
    assert {rate: trial.status for rate, trial in done.items()} == {1e30: "FAILED", 0.05: "COMPLETED"}
    assert "The loss is nan at step" in done[1e30].message
    best = found.oracle.get_best_trials(2)[0]
    assert best.hyperparameters.get("learning_rate") == 0.05


def test_a_trial_whose_last_step_diverges_fails(data):
    model = SimpleNamespace(fit=lambda *_, **__: SimpleNamespace(history={"loss": [1.0], "val_loss": [math.nan]}))
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="held out is nan"):
        PreActHyperModel(data, {"depth": (8,)}, TINY).fit(keras_tuner.HyperParameters(), model)


def test_a_recipe_that_a_search_cannot_follow_is_refused(data):
    with pytest.raises(ValueError, match="steps=0"):
        PreActHyperModel(data, recipe="paper_cifar")
    with pytest.raises(ValueError, match="a sequence of values"):
        PreActHyperModel(data, {"depth": Range(8, 20)})
    with pytest.raises(ValueError, match="Nearest: 8, 11"):
        PreActHyperModel(data, {"depth": (8, 9)})
    with pytest.raises(ValueError, match='Nearest: "resnet50"'):
        PreActHyperModel(data, {"width": (8, 16)}, model="vgg")
    for space in ({"rate": (0.5,)}, {"rate": (0.5,), "shortcut": ("identity", "conv1x1")}):
        with pytest.raises(ValueError, match="`space` must be with a shortcut that takes rate: dropout"):
            PreActHyperModel(data, space)
    PreActHyperModel(data, {"rate": (0.5,)}, model_options={"shortcut": "dropout"})
    for name in ("steps", "ema", "validation_images"):
        with pytest.raises(ValueError, match=f"`space` must be without {name}"):
            PreActHyperModel(data, {name: (0, 0.5) if name == "ema" else (8, 16)})


def test_a_missing_keras_tuner_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_preact.laboratory.sweep.hypermodel")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"keras_preact\[tune\]"):
        importlib.import_module("keras_preact.laboratory.sweep.hypermodel")


CHIEF_AND_WORKERS = """
import os, signal, sys, time
assert os.environ["KERASTUNER_ORACLE_IP"] == "127.0.0.1" and int(os.environ["KERASTUNER_ORACLE_PORT"])
name = os.environ["KERASTUNER_TUNER_ID"]
open(os.path.join(sys.argv[1], name), "w").close()
if name == "tuner1" and sys.argv[2] == "dies":
    while len(os.listdir(sys.argv[1])) < 3:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600 if sys.argv[2] == "dies" else 0)
"""


@pytest.mark.parametrize(("end", "status"), [("lives", 0), ("dies", 128 + signal.SIGKILL)])
def test_a_search_of_several_processes_ends_when_a_worker_dies(end, status, tmp_path):
    began = time.monotonic()
    assert launch_search([sys.executable, "-c", CHIEF_AND_WORKERS, str(tmp_path), end]) == status
    assert time.monotonic() - began < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chief", "tuner0", "tuner1"]
