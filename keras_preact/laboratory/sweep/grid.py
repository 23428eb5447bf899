"""A sweep: every point of a grid with several seeds, one row each, which resumes after a kill."""

import contextlib
import csv
import inspect
import io
import json
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_preact.data.dataset import DataLike
from keras_preact.data.folders import check_outside
from keras_preact.errors import argument_error, check_arguments, check_integer, check_number
from keras_preact.files import check_local, is_aside, remove_asides, write_text, written_aside
from keras_preact.laboratory.sweep import axes as axes_and_points
from keras_preact.laboratory.sweep.trials import (
    RUNS,
    Trial,
    check_trials,
    failure,
    median_error,
    read_json,
    run_all,
    shown,
)
from keras_preact.locks import held
from keras_preact.names import safe_name
from keras_preact.network.checks import check_execution, check_layout
from keras_preact.network.families import model_key
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.training import run_folder
from keras_preact.training.evaluation import loaded
from keras_preact.training.experiment import FOREIGN, RECIPE_FIELDS, check_backend, check_epochs, spec_of
from keras_preact.training.levels import check_levels, levels_of
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import as_recipe
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike

SWEEP, BEST = "sweep.json", "best.json"
LONGEST_NAME = 200  # bytes of a run's name: file systems take 255, and a file in the making has a longer one
CSV, MARKDOWN, PLOT = "sweep.csv", "sweep.md", "sweep.png"


def sweep(
    over: str | Iterable[str] | Mapping[str, Sequence[Any]],
    *,
    model: str = "resnet20",
    data: DataLike = "digits",
    data_dir: PathLike | None = None,
    recipe: str | Recipe = "digits",
    seeds: int = 3,
    validation_images: int | None = None,
    output: PathLike | None = None,
    strategy: Strategy = "auto",
    model_options: Mapping[str, Any] | None = None,
    fail_percent: float | None = None,
    verbose: int = 0,
    **fields: Any,
) -> list[dict[str, Any]]:
    """Trains every point of a grid with several seeds; the same call resumes a sweep that was killed.

    Each trial is a run of `train` in `runs/` of the folder, and its result a file; what has a result is not run again,
    and what was half done resumes from its checkpoint. Several processes may run the same sweep: they share the trials.
    A trial that diverges or cannot be trained is a "fail" with its reason, as is a test error above `fail_percent`.

    Args:
        over: What is varied, as `axes.parse_axes` takes it: `"shortcut,ordering,depth=20:32"`, or a dict.
        model: The network, where the depth is not varied.
        data: As in `train`.
        data_dir: As in `train`.
        recipe: A name of `RECIPES`, or a `Recipe`.
        seeds: Runs of each point, with seeds that follow the recipe's. More may be asked for later.
        validation_images: Training images held out, whose error chooses the best point; the recipe's, or a tenth where
            it has none, if None. With 0 all are trained on, and the test images choose, which flatters the best.
        output: The folder, with one row per seed in `sweep.csv`, medians in `sweep.md` and `sweep.png`, the best run in
            `best.json`. `runs/sweep.<data>` if None.
        strategy: As in `train`.
        model_options: Keywords for the network's function, common to all points.
        fail_percent: The test error in %, above which a trial is a "fail" as well: 20 in the paper's Table 1. None for
            no limit.
        verbose: As in `train`.
        **fields: Fields of `Recipe` that differ from the recipe's in all points, e.g. `epochs=3`.

    Returns:
        The rows as dicts with the point, `seed`, `error_percent`, `result`, `reason`, `run`, ...

    Raises:
        ValueError: If an argument is not allowed, or `output` holds another sweep, whose differences are named; nothing
            is written then.
        OSError: If a file cannot be written (disk full, no permission).
    """
    axes, seeds = axes_and_points.parse_axes(over), check_integer("seeds", seeds)
    own = [name for name in inspect.signature(sweep).parameters if name != "fields"]
    check_arguments("sweep", fields, [*own, *RECIPE_FIELDS], FOREIGN)
    recipe = as_recipe(recipe)
    check_epochs(recipe, fields)
    held_out = recipe.validation_images if validation_images is None else validation_images
    # What a tenth of the images is shows when they are loaded; until then one stands for them.
    recipe = recipe.replace(validation_images=held_out or int(validation_images is None), **fields)
    limit = math.inf if fail_percent is None else check_number("fail_percent", fail_percent, 0.0, 100.0)
    options = run_folder.plain_options(model_options)
    check_backend()
    points = axes_and_points.grid(axes, ShortcutSpec.of(options.get("shortcut", "identity")).name)
    for point in points:
        check_epochs(recipe, point)
    networks = [axes_and_points.network_of(point, model, options) for point in points]
    data = loaded(data, data_dir, recipe.image_size)
    if validation_images is None and "validation_images" not in axes:
        recipe = recipe.replace(validation_images=held_out or max(1, len(data.train) // 10))
    recipes = [_filled(axes_and_points.recipe_of(point, recipe), data) for point in points]
    folder = check_local("output", output or pathlib.Path("runs") / f"sweep.{safe_name(data.name)}")
    check_outside(data.folder, folder)
    name = data.folder or data.name
    trials = [
        (point, Trial(key, name, point_recipe.replace(seed=seed), point_options, name=_name(point, seed)))
        for point, (key, point_options), point_recipe in zip(points, networks, recipes)
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]
    check_trials([trial for _, trial in trials], strategy)
    for _, trial in trials[::seeds]:
        _check_network(trial, data)
    about = {
        "over": axes,
        "model": model_key(model, options.get("unit")),
        "data": name,
        "recipe": vars(recipe),
        "options": options,
    }
    _check_folder(folder, {**about, "identity": run_folder.identity(data)})
    report = _Report(folder, tuple(axes), trials, limit)
    wanted, common = [trial for _, trial in trials], {"strategy": strategy, "verbose": verbose}
    results = run_all(wanted, {name: data}, folder, report.write, limit, **common)
    rows = report.write(results)
    report.draw(rows)
    return rows


def _filled(recipe, data):
    """Returns a recipe, once it can train on the images that it does not hold out."""
    held_out = recipe.validation_images
    if held_out >= len(data.train):
        raise argument_error("validation_images", f"below the {len(data.train)} images to train on", held_out)
    recipe.augmentation().check(data.image_shape)
    if recipe.global_batch_size > (left := len(data.train) - held_out):
        expected = f"at most {left}, the training images of {data.name} but {held_out} held out"
        raise argument_error("global_batch_size", expected, recipe.global_batch_size)
    recipe.check_warmup(left // recipe.global_batch_size)
    return recipe


def _name(point, seed):
    name = f"{axes_and_points.describe(point)},seed={seed}"
    if len(name.encode()) > LONGEST_NAME:
        hint = "What is the same in all runs goes into model=, model_options= or fields of the recipe."
        expected = f"of names of at most {LONGEST_NAME} bytes, which are those of files"
        raise argument_error("over", expected, name, hint)
    return name


def _check_network(trial, data):
    """Raises a `ValueError` if the network of a trial, which is not built for it, cannot train on the images."""
    options, side = trial.options, min(data.image_shape[:2])
    spec = spec_of(trial.model, options)
    check_layout(options.get("layout", "stacked"), options.get("unroll"), options.get("remat"))
    check_execution(options.get("unroll", "auto"), options.get("remat", 0))
    if len(data.class_names) < 2:
        raise argument_error("data", "of two classes at least", f"{data.name}, of {len(data.class_names)}")
    if side < spec.minimum_size:
        expected = f"of images of at least {spec.minimum_size} pixels a side for {trial.model}"
        raise argument_error("data", expected, f"{data.name}: {side}")
    check_levels(levels_of(trial.recipe, 1), spec, side)


def _check_folder(folder, configuration):
    """Writes what the sweep is of, or raises a `ValueError` naming the differences to the one in `folder`."""
    now = json.loads(json.dumps(configuration))
    path = folder / SWEEP
    remove_asides(folder)
    is_new = not path.is_file()
    is_empty = not folder.exists() or (folder.is_dir() and all(map(_is_nothing, folder.iterdir())))
    if is_new and not is_empty and not path.is_file():  # which another process may have written just now
        raise argument_error("output", "a new or empty folder, or a sweep's", str(folder))
    with held(path, wait=True) if is_new else contextlib.nullcontext():
        if not path.is_file():
            write_text(path, json.dumps(now, indent=1) + "\n")
    before = read_json(path, "Take another folder.")
    differ = list(run_folder.differences(*run_folder.comparable(before, now)))
    over = [json.dumps(each.get("over")) for each in (before, now)]
    if not differ and over[0] != over[1]:  # names of runs have the axes' order, and the numbers as they were written
        differ = [f"over is written {over[0]} there and {over[1]} here"]
    if differ:
        hint = f"It holds another sweep: {'; '.join(differ)}. Take another folder."
        raise argument_error("output", "a new folder, or one of the same sweep, which goes on", str(folder), hint)


def _is_nothing(path):
    """Returns whether a file of a folder is one of those that another process is making a sweep's of just now."""
    return path.name == f".{SWEEP}.lock" or is_aside(path)


class _Report:
    """Writes a sweep's tables and picture of the results so far.

    Args:
        folder: The sweep's.
        axes: Their names.
        trials: (point, `Trial`) of every row.
        fail_percent: The test error in %, above which a trial is a "fail".
    """

    def __init__(self, folder, axes, trials, fail_percent):
        self.folder, self.axes, self.trials, self.fail_percent = folder, axes, trials, fail_percent

    def write(self, results):
        """Writes the tables of {name: result}, and names the best; returns the rows."""
        rows = [self._row(point, trial, results[trial.name]) for point, trial in self.trials if trial.name in results]
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys() if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / CSV, text.getvalue())
        groups = self._groups(rows)
        write_text(self.folder / MARKDOWN, self._markdown(groups))
        self._write_best(groups)
        return rows

    def draw(self, rows):
        """Draws the picture of the rows, if there are any."""
        if rows:
            draw(self._groups(rows), self.folder / PLOT)

    def _row(self, point, trial, result):
        reason = failure(result, self.fail_percent)
        return {
            **{name: point.get(name, "") for name in self.axes},
            "seed": trial.recipe.seed,
            "result": "fail" if reason else f"{result['error_percent']:.2f}",
            "error_percent": result["error_percent"],
            "validation_percent": result["validation_percent"],
            "seconds": result["seconds"],
            "reason": reason or "",
            "run": f"{RUNS}/{trial.name}",
        }

    def _groups(self, rows):
        """Returns {point's name: its rows}, in order."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            point = {name: row[name] for name in self.axes if row[name] != ""}
            groups.setdefault(axes_and_points.describe(point), []).append(row)
        return groups

    def _markdown(self, groups):
        header = [*self.axes, "median error, %", "lowest", "highest", "seeds", "failed"]
        lines = [header, ["---"] * len(header)]
        for rows in groups.values():
            median, low, high = median_error(rows)
            cells = [rows[0][name] for name in self.axes]
            spread = ["" if math.isinf(error) else f"{error:.2f}" for error in (low, high)]
            failed = sum(bool(row["reason"]) for row in rows)
            lines.append([*cells, shown(median, self.fail_percent), *spread, len(rows), failed or ""])
        return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)

    def _write_best(self, groups):
        """Names the run with the lowest median error of its point: on held-out images, if there are."""
        every = [row for rows in groups.values() for row in rows if row["error_percent"] is not None]
        held_out = all(row["validation_percent"] is not None for row in every)
        judge = "validation_percent" if held_out else "error_percent"
        ranked = []
        for name, rows in groups.items():
            # What diverged has no end of error. One above `fail_percent` has its own: that limit is of test images.
            errors = [math.inf if row["error_percent"] is None else row[judge] for row in rows]
            if math.isfinite(median := statistics.median(errors)):
                ranked.append((median, name, rows[errors.index(min(errors))]))
        if not ranked:
            (self.folder / BEST).unlink(missing_ok=True)
            return
        median, name, row = min(ranked, key=lambda entry: entry[0])
        best = {"point": name, "chosen_by": f"median {judge}", "median": median, **row}
        write_text(self.folder / BEST, json.dumps(best, indent=1) + "\n")


def draw(groups: Mapping[str, Sequence[Mapping[str, Any]]], path: PathLike) -> None:
    """Draws each point's test errors, a dot a seed, the spread and the median; what failed stands at the right edge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(groups)), layout="constrained")
    axes = figure.subplots()
    errors = [row["error_percent"] for rows in groups.values() for row in rows if not row["reason"]]
    edge = 1.15 * max(errors, default=20.0) or 1.0
    for height, rows in enumerate(groups.values()):
        found = [row["error_percent"] for row in rows if not row["reason"]]
        failed = len(rows) - len(found)
        if found:
            axes.plot(
                [min(found), max(found)],
                [height, height],
                color="tab:blue",
                alpha=0.4,
                linewidth=5,
                solid_capstyle="round",
            )
            axes.plot(found, [height] * len(found), "o", color="tab:blue", markersize=4)
        if 2 * failed < len(rows):
            axes.plot([median_error(rows)[0]], [height], "|", color="black", markersize=14)
        if failed:
            axes.plot([edge], [height], "x", color="tab:red")
            axes.annotate(f"{failed} fail", (edge, height), (6, -4), textcoords="offset points", color="tab:red")
    axes.set_yticks(range(len(groups)), list(groups))
    axes.invert_yaxis()
    axes.set(xlabel="test error, %: runs, spread, median", xlim=(0, 1.12 * edge))
    axes.grid(axis="x", alpha=0.3)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=120)
