"""Sweeps that go on, and trials that fail, on networks of eight layers."""

import contextlib
import csv
import fcntl
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import MappingProxyType

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_data import TINY, tiny

import keras_preact
from keras_preact.cli import main
from keras_preact.data.dataset import held_out
from keras_preact.laboratory.sweep import axes, grid, hypermodel, sweep, trials
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.training import strategies
from keras_preact.training.recipes import RECIPES
from keras_preact.training.trainer import train

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def data():
    return tiny()


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


def test_values_of_numpy_are_pythons():
    found = axes.parse_axes({"depth": np.arange(20, 40, 6), "learning_rate": [np.float64(0.5)], "width": np.int64(8)})
    assert json.loads(json.dumps(found)) == {"depth": [20, 26, 32, 38], "learning_rate": [0.5], "width": [8]}


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
    _, options = axes.network_of({"width": 8}, options={"stem": {"kernel": 5}})
    assert options["stem"] == {"kernel": 5, "width": 8}


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
        ("depth=[20]", "`depth` must be numbers or names, with colons between them"),
    ],
)
def test_a_wrong_axis_is_refused_before_anything_is_written(over, message, tmp_path, data):
    with pytest.raises(ValueError, match=message):
        sweep(over, data=data, output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ResNet50"}, "`data` must be of images of at least 32 pixels a side for resnet50.*tiny: 8"),
        ({"image_size": 64}, "`image_size` must be at most 8"),
        (
            {"recipe": TINY.replace(levels=((8, 8, 1),), epochs=1), "model": "ResNet14"},
            "`levels` must be levels that end",
        ),
        ({"model_options": {"layout": "layers", "unroll": 4}}, "`unroll` must be left out"),
        ({"model_options": {"unroll": 0}}, "`unroll` must be a whole number of at least 1"),
        (
            {
                "over": "ordering=relu_only_preactivation,shortcut=shortcut_only_gating,gate_bias=-6,unit=bottleneck,"
                "widening=projection,stride_on=3x3,depth=164,width=16,learning_rate=0.1,weight_decay=0.0001,"
                "weight_decay_kind=l2_kernels,momentum_rule=caffe"
            },
            "`over` must be of names of at most 200 bytes.*model_options=",
        ),
        ({"strategy": "tpu"}, "strategy.*where there is no TPU"),
        ({"model_options": {"ordring": "original"}}, '`model_options` must be one of .*Nearest: "ordering"'),
        ({"model_options": {"dtype": "mixed_bfloat16"}}, "`model_options` must be one of .*dtype"),
        (
            {"recipe": TINY.replace(global_batch_size=60)},
            "global_batch_size.*at most 58, the training .* but 6 held out",
        ),
        ({"validation_images": 64}, "`validation_images` must be below the 64 images to train on"),
        ({"recipe": TINY.replace(cutout=99)}, "`cutout` must be at most"),
        (
            {"recipe": TINY.replace(schedule="steps", drops=(1,), epochs=2, warmup_steps=99)},
            "`warmup_steps` must be below",
        ),
        ({"recipe": TINY.replace(global_batch_size=15, mixup=1.0)}, "global_batch_size.*multiple of 2.*15"),
    ],
)
def test_a_sweep_that_no_run_of_which_could_start_is_refused(arguments, message, tmp_path, data):
    with pytest.raises(ValueError, match=message):
        sweep(**{"over": "ordering", **arguments}, data=data, output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_fields_that_need_one_another_are_axes_beside_it(tmp_path, data, trained):
    with pytest.raises(ValueError, match=r"`over` must be of different axes, and depth once.*depth=VALUE:VALUE"):
        axes.parse_axes("depth=8,depth=14")
    assert "plateau" not in axes.parse_axes("schedule")["schedule"]
    assert axes.parse_axes({"patience": range(2, 4), "schedule": ("plateau",)})["patience"] == (2, 3)
    assert axes.parse_axes(MappingProxyType({"depth": (8, 14)})) == {"depth": (8, 14)}
    sweep("depth=8", data=data, seeds=1, early_stopping=2, validation_images=5, output=tmp_path / "sweep")
    recipe = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["recipe"]
    assert (recipe["early_stopping"], recipe["validation_images"]) == (2, 5)
    sweep("early_stopping=2:3", data=data, seeds=1, output=tmp_path / "tenth")
    assert json.loads((tmp_path / "tenth" / "sweep.json").read_text())["recipe"]["validation_images"] == 6


def test_depths_of_one_kind_of_unit_are_axes(registries):
    keras_preact.register_unit("five", kernels=(3,) * 5)
    assert axes.network_of({"depth": 5}, "resnet8", {"unit": "single"})[0] == "resnet5"
    assert keras_preact.get_model("resnet17", unit="five", input_shape=(8, 8, 3)).spec.units == (1, 1, 1)
    with pytest.raises(ValueError, match=r"`depth` must be 6n \+ 2"):
        keras_preact.get_model("resnet5")


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
    sweep("ordering", data=data, seeds=1, fail_percent=20, output=tmp_path / "sweep")
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


def test_a_point_of_which_a_seed_diverged_is_best_only_by_the_median_of_all(tmp_path, data, trained):
    _, errors = trained
    errors |= {f"ordering=original,seed={seed}": error for seed, error in enumerate((4.0, 10.0))}
    errors["ordering=original,seed=2"] = FloatingPointError("The loss is nan at step 3.")
    errors |= {f"ordering=preactivation,seed={seed}": 7.5 for seed in range(3)}
    sweep("ordering=original:preactivation", data=data, seeds=3, output=tmp_path / "sweep")
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert (best["point"], best["median"]) == ("ordering=preactivation", 7.5)


def test_an_average_of_the_weights_is_chosen_by_its_own_error(tmp_path, data):
    recipe = TINY.replace(ema=0.99, learning_rate=0.05, validation_images=7)
    (row,) = sweep("width=8", data=data, seeds=1, recipe=recipe, output=tmp_path / "sweep", model="ResNet8")
    held = held_out(data, 7, row["seed"])[1]
    (run,) = (tmp_path / "sweep").glob("**/card.json")
    assert row["validation_percent"] == keras_preact.evaluate(run.parent, held)["error_percent"]
    assert json.loads(run.read_text())["network"]["spec"]["widths"] == [8, 16, 32]  # what was asked for is trained


def test_the_seeds_of_a_sweep_follow_the_recipes(tmp_path, data, trained):
    rows = sweep("width=8", data=data, recipe=TINY.replace(seed=5), seeds=2, output=tmp_path / "sweep")
    assert [row["seed"] for row in rows] == [5, 6]


def test_a_sweep_goes_on_with_its_axes_as_they_were_written(tmp_path, data, trained):
    arguments = dict(data=data, seeds=1, output=tmp_path / "sweep")
    first = "ordering=original,shortcut=exclusive_gating,gate_bias=-6"
    sweep(first, **arguments)
    for other in ("shortcut=exclusive_gating,ordering=original,gate_bias=-6", first + ".0"):
        with pytest.raises(ValueError, match=r"`output` must be .*another sweep: over is written"):
            sweep(other, **arguments)
    assert len(trained[0]) == 1


def test_a_sweep_leaves_the_callers_precision(tmp_path, data, trained):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        sweep("ordering=original", data=data, seeds=1, output=tmp_path / "sweep")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_without_a_limit_a_high_error_is_no_fail(tmp_path, data, trained):
    trained[1]["ordering=original,seed=0"] = 69.0
    (row,) = sweep("ordering=original", data=data, seeds=1, output=tmp_path / "sweep")
    assert (row["result"], row["reason"]) == ("69.00", "")
    assert json.loads((tmp_path / "sweep" / "best.json").read_text())["median"] == 69.0


def test_what_raised_is_run_again_and_what_diverged_is_not(tmp_path, data, trained):
    calls, errors = trained
    errors["ordering=original,seed=0"] = RuntimeError("out of memory")
    errors["ordering=preactivation,seed=0"] = FloatingPointError("The loss is nan at step 3.")
    arguments = dict(data=data, seeds=1, output=tmp_path / "sweep")
    sweep("ordering=original:preactivation", **arguments)
    assert (tmp_path / "sweep" / "sweep.md").read_text().count("| fail |") == 2
    errors.clear()
    rows = sweep("ordering=original:preactivation", **arguments)
    assert [row["result"] for row in rows] == ["5.00", "fail"]
    assert calls == [f"ordering={name},seed=0" for name in ("original", "preactivation", "original")]


def test_where_some_held_nothing_out_the_test_images_choose(tmp_path, data, trained, monkeypatch):
    curve = [{"iteration": 1, "val_error_percent": 1.0}]
    monkeypatch.setattr(trials, "_curve", lambda path, recipe, data: curve)
    sweep("validation_images=0:7", data=data, seeds=2, output=tmp_path / "sweep")
    assert json.loads((tmp_path / "sweep" / "best.json").read_text())["chosen_by"] == "median error_percent"


@pytest.mark.parametrize("arguments", [{"epochs": 3}, {"over": "epochs=3:4"}])
def test_epochs_are_refused_beside_steps(arguments, tmp_path, data):
    with pytest.raises(ValueError, match="`epochs` must be left out with 3 steps, which are counted instead"):
        sweep(
            data=data, output=tmp_path / "sweep", **{"over": "ordering", "recipe": TINY.replace(steps=3), **arguments}
        )
    assert not (tmp_path / "sweep").exists()


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
    with pytest.raises(ValueError, match="a sweep's"):
        sweep("ordering", data=data, output=tmp_path / "other")


def test_a_run_of_something_else_is_no_failure_of_a_trial(tmp_path, data):
    trial = trials.Trial("resnet8", data.name, TINY, {}, name="mine")
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "experiment.json").write_text('{"model": "resnet29"}')
    with pytest.raises(ValueError, match="model is 'resnet29' there and 'resnet8' here"):
        trials.run_trial(trial, data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_sweep_goes_on_though_recipes_have_a_new_field(tmp_path, data, trained):
    path = tmp_path / "sweep" / "sweep.json"
    sweep("ordering=original", data=data, seeds=1, output=path.parent)
    about = json.loads(path.read_text())
    del about["recipe"]["levels"]
    path.write_text(json.dumps(about))
    assert len(sweep("ordering=original", data=data, seeds=2, output=path.parent)) == 2


def test_a_sweep_that_another_begins_at_the_same_moment_is_compared_with(tmp_path, data, trained, monkeypatch):
    path = tmp_path / "sweep" / "sweep.json"

    @contextlib.contextmanager
    def late(*_, **__):
        path.write_text('{"model": "resnet29"}')
        yield False

    path.parent.mkdir()
    monkeypatch.setattr(grid, "held", late)
    with pytest.raises(ValueError, match="model is 'resnet29' there and 'resnet20' here"):
        sweep("ordering=original", data=data, seeds=1, output=path.parent)
    assert path.read_text() == '{"model": "resnet29"}'


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


def test_the_command_refuses_an_unknown_axis(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--over", "shortcat", "--output", str(tmp_path / "sweep")])
    assert stop.value.code == 2
    assert 'Nearest: "shortcut"' in capsys.readouterr().err


@pytest.mark.long
def test_a_sweep_that_is_killed_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    command = [sys.executable, "-c", "from keras_preact.cli import main; main()", "sweep", "--model", "ResNet11"]
    command += ["--over", "ordering=original:preactivation", "--seeds", "1", "--epochs", "3"]
    command += ["--validation-images", "0", "--output", str(folder)]
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
    tf.config.run_functions_eagerly(False)  # as in the processes
    whole = train("ResNet11", recipe=RECIPES["digits"].replace(epochs=3), output=tmp_path / "whole")
    assert float(rows[1]["error_percent"]) == whole["error_percent"]


def test_held_out_images_choose_also_where_a_limit_fails_points(tmp_path, data, trained, monkeypatch):
    trained[1].update({"ordering=original,seed=0": 5.1, "ordering=preactivation,seed=0": 4.9})
    held = iter((4.0, 9.0))
    monkeypatch.setattr(trials, "_validation_percent", lambda *_: next(held))
    sweep("ordering=original:preactivation", data=data, seeds=1, fail_percent=5, output=tmp_path / "sweep")
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert (best["point"], best["chosen_by"], best["median"]) == ("ordering=original", "median validation_percent", 4.0)


def test_what_a_process_leaves_that_dies_is_taken_over(tmp_path, data, trained, monkeypatch, caplog):
    calls, _ = trained
    caplog.set_level("INFO", "keras_preact")
    run, theirs = trials.run_trial, ["ordering=original,seed=0", "ordering=preactivation,seed=0"]

    def others(trial, *given, **options):
        if trial.name in theirs:
            return theirs.remove(trial.name)  # once it is held by another process
        return run(trial, *given, **options)

    monkeypatch.setattr(trials, "run_trial", others)
    over = "ordering=original:bn_after_addition:preactivation"
    assert len(sweep(over, data=data, seeds=1, output=tmp_path / "sweep")) == 3
    assert [call.partition(",")[0] for call in calls] == [
        f"ordering={name}" for name in ("bn_after_addition", "original", "preactivation")
    ]
    theirs.extend(["ordering=original,seed=1"] * 9)
    assert len(sweep(over, data=data, seeds=2, output=tmp_path / "more")) == 5
    assert "1 of 6 runs have no result yet: other processes are on them." in caplog.messages


def test_workers_of_one_job_share_no_sweep(tmp_path, data, monkeypatch):
    devices = strategies.Devices("multi_worker", 2, "CPU", workers=2)
    monkeypatch.setattr(trials, "make_devices", lambda strategy: devices)
    with pytest.raises(ValueError, match="`strategy` must be of one process, where there are many runs"):
        sweep("depth=8", data=data, output=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_has_no_url():
    for output in ("gs://bucket/sweep", pathlib.Path("gs://bucket/sweep")):
        with pytest.raises(ValueError, match=r"`output` must be a local path.*gs:/.*A URL is for the runs of"):
            sweep("depth=8", output=output)


@pytest.mark.parametrize(("sampling", "step"), [("linear", 0), ("linear", -1.0), ("log", 1.0), ("log", math.nan)])
def test_the_step_of_a_range_leads_somewhere(sampling, step):
    with pytest.raises(ValueError, match="`step` must be"):
        hypermodel.Range(0.1, 1.0, step, sampling)
