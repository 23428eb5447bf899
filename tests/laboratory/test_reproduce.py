"""The paper's tables: their figures, the networks that stand for them, and how ours are set beside them."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.data.dataset import ArraySplit
from keras_preact.laboratory.reproduce import experiments, report
from keras_preact.laboratory.reproduce.figures import FIGURES, reproduce_figure
from keras_preact.laboratory.reproduce.report import rank_correlation, reproduce_table
from keras_preact.laboratory.reproduce.tables import TABLES
from keras_preact.laboratory.sweep import axes
from keras_preact.network import families

# The columns of the paper's tables, top to bottom.
PAPER = {
    "table1": [6.61, "fail", "fail", 12.35, "fail", 8.70, 9.81, 12.86, 6.91, 12.22, "fail"],
    "table2": [6.61, 8.17, 7.84, 6.71, 6.37, 5.93, 6.50, 6.14, 5.91, 5.46],
    "table3": [9.90, 8.91, 6.61, 6.37, 5.93, 5.46, 7.61, 4.92, 25.16, 24.33, 27.82, 22.71],
    "table4": [
        *(8.81, 8.22, 8.39, 7.72, 7.25, 6.55, 5.84, 6.61, 7.93, 5.46, 4.92, 4.62),
        *(35.68, 34.57, 35.04, 32.39, 33.71, 24.28, 27.66, 25.16, 27.82, 24.33, 22.71),
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_the_rows_are_the_papers(name):
    rows = TABLES[name]
    assert [row.paper for row in rows] == PAPER[name]
    assert len({row.name for row in rows}) == len(rows)


def test_one_experiment_has_one_figure_in_all_tables():
    figures = {}
    for row in (row for rows in TABLES.values() for row in rows if row.experiment):
        assert figures.setdefault(row.experiment, row.paper) == row.paper
    assert len(figures) == 11 + 9 + 2 + 2 + 4 + 2


def test_full_is_the_papers_network_data_and_recipe():
    full = experiments.SCALES["full"]
    rows = {(table, row.name): row for table, found in TABLES.items() for row in found if row.experiment}
    for row in rows.values():
        trial = row.experiment.trial(full, seed=3)
        spec = families.cifar_spec(int(trial.model.removeprefix("resnet")), **trial.options)
        assert (spec.depth, spec.ordering) == (row.experiment.depth, row.experiment.ordering)
        assert spec.widening == ("projection" if spec.depth in (164, 1001) else "zero_pad")
        assert (trial.data, trial.recipe.seed) == (row.experiment.data, 3)
    trial = rows["table1", "exclusive_gating_-7"].experiment.trial(full)
    assert trial.options["shortcut"] == {"name": "exclusive_gating", "gate_bias": -7.0}
    assert (trial.recipe.steps, trial.recipe.global_batch_size, trial.recipe.drops) == (64000, 128, (32000, 48000))
    trial = rows["table4", "cifar10.1001.preactivation_64"].experiment.trial(full)
    assert (trial.model, trial.recipe.epochs, trial.recipe.global_batch_size) == ("resnet1001", 200, 64)


def test_one_layer_per_shortcut_has_as_many_weights():
    """Table 3: 108 units of one convolution hold the weights of ResNet-110's 54 units of two."""
    model = keras_preact.get_model("resnet110", unit="single", ordering="original")
    assert sum(model.spec.units) == 108
    kernels = [math.prod(weight.shape) for weight in model.trainable_variables if "conv" in weight.path]
    assert sum(kernels) == 1_719_216


def test_every_row_of_tables_1_and_2_has_a_smoke():
    smoke = experiments.SCALES["smoke"]
    for row in (*TABLES["table1"], *TABLES["table2"]):
        trial = row.experiment.trial(smoke)
        axes.network_of({}, trial.model, trial.options)
        assert trial.data == "digits"
    names = {row.name: row.experiment for row in TABLES["table3"]}
    assert names["cifar100.164.original"].trial(smoke) is None


def store(folder, table, errors, scale="smoke", seed=0):
    """Writes results as `run_trial` does: {row: error in %, or None where it diverged}."""
    folder.mkdir(exist_ok=True)
    for row in TABLES[table]:
        if row.name in errors:
            trial, error = row.experiment.trial(experiments.SCALES[scale], seed), errors[row.name]
            curve = [{"iteration": 44 * n, "loss": 2 / n, "val_error_percent": 50 / n} for n in (1, 2, 3)]
            about = {"device": "a device", "versions": {"keras": "3"}, "commit": "abc", "date": "2026-01-01"}
            result = {**trial.plain(), "error_percent": error, "failed": None, "curve": curve, **about}
            (folder / f"{trial.name}.json").write_text(json.dumps(result))


def test_a_table_prints_paper_ours_and_difference_and_leaves_blank_what_was_not_run(tmp_path, capsys):
    errors = {"original": 7.0, "conv1x1": 12.5, "dropout_0.5": None, "exclusive_gating_-7": 20.5}
    for seed, change in ((0, 0.0), (1, 0.5), (2, 2.0)):
        store(tmp_path, "table1", {name: error and error + change for name, error in errors.items()}, seed=seed)
    results = reproduce_table("table1", seeds=3, output=tmp_path, run=False)
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines}
    assert cells["original"] == ["6.61", "7.50", "+0.89", "7.00", "9.00", "3"]
    assert cells["conv1x1"] == ["12.22", "13.00", "+0.78", "12.50", "14.50", "3"]
    assert cells["exclusive_gating_-7"] == ["9.81", "fail", "20.50", "22.50", "3"]
    assert cells["dropout_0.5"] == ["fail", "fail", "diverged", "diverged", "3"]
    assert cells["constant_scaling_0.5_1"] == ["fail"]
    assert "rank correlation of 4 rows with the paper's (Spearman): +0.80" in lines
    assert any("a device; keras 3; commit abc" in line for line in lines)
    assert [len(found) for found in results.values()].count(0) == 7


def test_no_error_is_a_fail_where_few_steps_are_trained_or_of_cifar100(tmp_path, capsys):
    store(tmp_path, "table1", {"original": 69.0, "conv1x1": 85.5}, scale="small")
    reproduce_table("table1", scale="small", output=tmp_path, run=False)
    store(tmp_path, "table3", {"cifar100.164.original": 25.16, "cifar10.164.original": 25.16}, scale="full")
    reproduce_table("table3", scale="full", output=tmp_path, run=False)
    cells = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert cells["original"][:3] == ["6.61", "69.00", "+62.39"]
    assert cells["constant_scaling_0.5_1"] == ["fail"]
    assert cells["cifar100.164.original"][:3] == ["25.16", "25.16", "+0.00"]
    assert cells["cifar10.164.original"][:2] == ["5.93", "fail"]


def test_a_row_that_raised_is_named_and_counts_for_nothing(tmp_path, capsys, monkeypatch):
    store(tmp_path, "table1", {"original": 7.0, "conv1x1": 12.5, "dropout_0.5": None, "exclusive_gating_-7": 9.0})
    trial = next(row for row in TABLES["table1"] if row.name == "conv1x1").experiment.trial(experiments.SCALES["smoke"])
    path = tmp_path / f"{trial.name}.json"
    raised = {"error_percent": None, "failed": "ResourceExhaustedError: OOM", "diverged": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **raised}))
    reproduce_table("table1", output=tmp_path, run=False)
    lines = capsys.readouterr().out.splitlines()
    assert "conv1x1, seed 0: not run to its end, ResourceExhaustedError: OOM" in lines
    assert next(line.split() for line in lines if line.startswith("conv1x1 ")) == ["conv1x1", "12.22"]
    assert any("rank correlation of 3 rows" in line for line in lines)
    again = []
    monkeypatch.setattr(report, "load", lambda name, _: None)
    monkeypatch.setattr(report, "check_trials", lambda *_: None)
    monkeypatch.setattr(report, "run_all", lambda trials, *_, **__: again.extend(trials))
    reproduce_table("table1", row="conv1x1", output=tmp_path, verbose=0)
    assert [each.name for each in again] == [trial.name]


def test_the_stored_results_are_read_whatever_fields_recipes_had_then(capsys):
    stored = pathlib.Path(__file__).parents[2] / "examples" / "results" / "smoke"
    results = reproduce_table("table1", output=stored, run=False)
    assert all(len(found) == 1 for found in results.values())
    assert "rank correlation of 11 rows" in capsys.readouterr().out


@pytest.mark.parametrize(("table", "rows"), [("table1", 11), ("table2", 10), ("table3", 6)])
def test_every_row_that_the_scale_small_has_is_stored_with_where_it_is_from(table, rows, capsys):
    stored = pathlib.Path(__file__).parents[2] / "examples" / "results" / "small"
    found = [
        result
        for results in reproduce_table(table, scale="small", output=stored, run=False).values()
        for result in results
    ]
    assert len(found) == rows
    assert f"rank correlation of {rows} rows" in capsys.readouterr().out
    for result in found:
        assert all(result[name] for name in ("command", "device", "versions", "commit", "date", "error_percent"))


def test_ranks_are_compared_with_fails_last():
    worst, paper = math.inf, [6.61, 8.17, 12.0, math.inf]
    assert rank_correlation(list(zip(paper, [1.0, 2.0, 3.0, worst]))) == pytest.approx(1.0)
    assert rank_correlation(list(zip(paper, [worst, 3.0, 2.0, 1.0]))) == pytest.approx(-1.0)
    # By hand: ranks 1 2 3 4 and 2 1 3 4 differ by 1 twice, so 1 - 6 * 2 / (4 * 15).
    assert rank_correlation(list(zip(paper, [2.0, 1.0, 3.0, worst]))) == pytest.approx(0.8)
    assert rank_correlation([(6.61, 1.0), (8.17, 2.0)]) is None
    assert rank_correlation([(6.61, 1.0), (8.17, 1.0), (9.0, 1.0)]) is None


def test_a_row_in_two_tables_is_run_once(tmp_path, monkeypatch, capsys):
    store(tmp_path, "table1", {"original": 7.0})
    monkeypatch.setattr(report, "run_all", lambda trials, *_, **__: trials and pytest.fail(f"ran {trials}"))
    results = reproduce_table("table2", row="110.original", output=tmp_path, verbose=0)
    assert capsys.readouterr().out == ""
    assert results["110.original"][0]["error_percent"] == 7.0


def test_a_row_alone_is_printed_and_none_from_nowhere(tmp_path, capsys):
    store(tmp_path, "table1", {"original": 7.0, "conv1x1": 9.0})
    results = reproduce_table("table1", row="conv1x1", output=tmp_path, run=False)
    assert {name: found[0]["error_percent"] for name, found in results.items()} == {"conv1x1": 9.0}
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:4]] == ["conv1x1"]
    with pytest.raises(ValueError, match="`output` must be a folder with results"):
        reproduce_table("table1", output=tmp_path / "nowhere", run=False)


def test_a_result_of_another_experiment_is_refused(tmp_path):
    store(tmp_path, "table1", {"original": 7.0})
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    result["recipe"]["source"] = "the same, in other words"
    path.write_text(json.dumps(result))
    assert reproduce_table("table1", output=tmp_path, run=False)["original"][0]["error_percent"] == 7.0
    result["recipe"]["epochs"] = 40
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"recipe\.epochs is 40 there and 4 here"):
        reproduce_table("table1", output=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table7",), '"table1", "table2", "table3", "table4"'),
        (("table1", "dropout"), 'Nearest: "dropout_0.5"'),
        (("table4", "cifar10.NIN"), "quotes"),
        (("table4", "cifar100.164.original"), "Take the scale full or short"),
    ],
)
def test_an_unknown_table_or_row_is_refused_with_those_that_exist(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reproduce_table(*arguments, output=tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("arguments", [["table9"], ["table1", "--row", "gates"], ["figure1", "--row", "original"]])
def test_the_command_refuses_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert {"table9": "table4", "table1": "dropout_0.5", "figure1": "left out"}[arguments[0]] in (
        captured.out + captured.err
    )


@pytest.mark.parametrize(
    ("table", "row", "name", "paper"),
    [
        ("table2", "110.preactivation", "resnet32.preactivation.identity", "6.37"),
        pytest.param(
            *("table1", "exclusive_gating_-6", "resnet32.original.exclusive_gating_gate_bias=-6", "8.70"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("table3", "cifar10.110_single.original", "resnet32.single.original.identity", "9.90"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_smoke_row_runs(table, row, name, paper, tmp_path, capsys, monkeypatch, eager):
    digits = load("digits")
    train, test = (ArraySplit(split.images[:64], split.labels[:64]) for split in (digits.train, digits.test))
    small = dataclasses.replace(digits, train=train, test=test)
    monkeypatch.setattr(report, "load", lambda name, _: {"digits": small}[name])
    main(["reproduce", table, "--row", row, "--output", str(tmp_path)])
    out = capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert path.stem == f"digits.{name}.seed0"
    assert [row["iteration"] for row in result["curve"]] == [2, 4, 6, 8]
    assert np.isfinite([row["loss"] for row in result["curve"]]).all()
    shown = next(line for line in out.splitlines() if line.startswith(row))
    assert shown.split()[1] == paper
    assert result["versions"]["keras"] in out
    with pytest.raises(ValueError, match="figure1"):
        reproduce_figure("figure1", output=tmp_path, run=False)


@pytest.mark.parametrize("run", [True, False])
def test_a_scale_without_the_networks_of_a_figure_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="`scale` must be one that has the networks of figure1"):
        reproduce_figure("figure1", "small", output=tmp_path, run=run)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_line_for_each_run(name, tmp_path, monkeypatch):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, *xy, **style: (drawn.append(xy[:2]), plot(axes, *xy, **style))[1])
    pairs = {"figure1": ("table3", ["cifar10.1001.original", "cifar10.1001.preactivation"])}
    pairs["figure6"] = ("table2", ["110.original", "110.bn_after_addition", "164.original", "164.preactivation"])
    table, rows = pairs[name]
    store(tmp_path, table, dict.fromkeys(rows, 5.0))
    path = reproduce_figure(name, output=tmp_path, run=False)
    assert drawn == [([44, 88, 132], y) for _ in rows for y in ([50.0, 25.0, 50 / 3], [2.0, 1.0, 2 / 3])]
    with Image.open(path) as picture:
        assert picture.size == (660 * len(FIGURES[name]), 480)


def test_a_figure_leaves_out_a_run_that_raised_and_names_it(tmp_path, monkeypatch, caplog):
    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda axes, *xy, **style: (drawn.append(xy[:2]), plot(axes, *xy, **style))[1])
    store(tmp_path, "table3", {"cifar10.1001.original": None, "cifar10.1001.preactivation": 5.0})
    row = next(row for row in TABLES["table3"] if row.name == "cifar10.1001.original")
    path = tmp_path / f"{row.experiment.trial(experiments.SCALES['smoke']).name}.json"
    raised = {"failed": "ResourceExhaustedError: OOM", "diverged": False}
    path.write_text(json.dumps({**json.loads(path.read_text()), **raised}))
    reproduce_figure("figure1", output=tmp_path, run=False)
    assert len(drawn) == 2
    assert "ResNet-1001, original, seed 0: not run to its end, ResourceExhaustedError: OOM" in caplog.text


def test_counting_parameters_takes_no_arguments_of_runs():
    with pytest.raises(ValueError, match="`seeds` must be left out for parameters"):
        keras_preact.reproduce("parameters", seeds=3)
