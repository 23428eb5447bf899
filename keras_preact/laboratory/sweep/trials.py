"""One trial of many: a run through `train` whose result, an error or why there is none, is a file."""

import contextlib
import csv
import dataclasses
import json
import logging
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact import locks
from keras_preact.data.dataset import DataSet, held_out
from keras_preact.errors import argument_error
from keras_preact.files import write_text
from keras_preact.training import run_folder, trainer
from keras_preact.training.evaluation import evaluate
from keras_preact.training.experiment import Experiment, check_backend, check_batch, check_precision
from keras_preact.training.provenance import provenance
from keras_preact.training.strategies import make_devices
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike

log = logging.getLogger(__name__)

RUNS = "runs"


@dataclass(frozen=True)
class Trial(Experiment):
    """Holds one run of a sweep or a table, and the name of its files; the recipe has the trial's seed."""

    name: str = dataclasses.field(kw_only=True)

    def plain(self) -> dict[str, Any]:
        recipe = dataclasses.asdict(self.recipe)  # a changed recipe gets its name, and its source, where it is run
        return json.loads(json.dumps({**super().plain(), "recipe": recipe}))


def run_trial(
    trial: Trial, data: DataSet, folder: PathLike, strategy: Strategy = "auto", verbose: int = 0
) -> dict[str, Any] | None:
    """Runs a trial, or resumes it where a killed process stopped; one that has a result is not run again.

    A trial that raised an error is one without a result: it is run again.

    Args:
        trial: A `Trial`.
        data: Its `DataSet`.
        folder: `<name>.json` is written into it, and `runs/<name>/`, the run folder.
        strategy: As in `train`.
        verbose: As in `train`.

    Returns:
        The result as a dict with the trial, `error_percent` (None if there is none), `failed` (why there is none, or
        None), `diverged`, `curve` (a dict per epoch), command, device, versions, date. None if another process is on
        this trial.

    Raises:
        ValueError: If `folder` holds a result or a run of another trial of this name; the differences are named.
        OSError: If a file cannot be written (disk full, no permission).
    """
    folder = pathlib.Path(folder)
    if (found := finished_result(trial, folder)) is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(folder / trial.name))
        except locks.HeldError:
            return None
        if (found := finished_result(trial, folder)) is not None:
            return found
        outcome = _outcome(trial, data, folder / RUNS / trial.name, strategy, verbose)
        result = {**trial.plain(), **outcome, **provenance()}
        write_text(folder / f"{trial.name}.json", json.dumps(result, indent=1) + "\n")
    return result


def read_result(trial: Trial, folder: PathLike) -> dict[str, Any] | None:
    """Returns the result of a trial that is in `folder`, or None; a `ValueError` if it is of another trial."""
    path = pathlib.Path(folder) / f"{trial.name}.json"
    if not path.is_file():
        return None
    result = read_json(path, "Remove that file, and its trial goes on.")
    now = trial.plain()
    differ = list(run_folder.differences(*run_folder.comparable({name: result.get(name) for name in now}, now)))
    if differ:
        hint = f"{path.name} is of another trial: {'; '.join(differ)}. Take another folder, or remove that file."
        raise argument_error("output", "a new folder, or one with results of the same trials", str(folder), hint)
    return result


def finished_result(trial: Trial, folder: PathLike) -> dict[str, Any] | None:
    """Returns the result of a trial as `read_result` does, but None if it `raised` an error: it is to be run again."""
    result = read_result(trial, folder)
    return None if result is None or raised(result) else result


def raised(result: Mapping[str, Any]) -> bool:
    """Returns whether a result is an error that ended the run, such as a lack of memory: no property of the trial."""
    return result["error_percent"] is None and not result.get("diverged", True)  # results of before do not say


def unfinished(name: str, results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence for each result of what is called `name` that `raised` an error."""
    return [
        f"{name}, seed {result['recipe']['seed']}: not run to its end, {result['failed']}"
        for result in results
        if raised(result)
    ]


def failure(result: Mapping[str, Any], fail_percent: float = math.inf) -> str | None:
    """Returns why a result is a "fail": there is no error, or it is above `fail_percent`; else None."""
    if result["failed"] or result["error_percent"] <= fail_percent:
        return result["failed"]
    return f"test error {result['error_percent']:.2f} %, above {fail_percent:g} %"


def read_json(path: pathlib.Path, hint: str) -> Any:
    """Returns what a JSON file of an output folder holds; a `ValueError` names the file if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise argument_error("output", f"a folder whose {path.name} is whole", str(path), f"{error}. {hint}") from error


def check_trials(trials: Iterable[Trial], strategy: Strategy) -> None:
    """Raises a `ValueError` if trials cannot be run: on the backend, on the devices of `strategy`, or by their recipes.

    Several processes share trials, not the steps of one: as workers of one job they would add up different networks.
    """
    check_backend()
    devices = make_devices(strategy)
    if devices.workers > 1:
        hint = "Start the command several times without `launch`: the processes share the runs."
        raise argument_error("strategy", "of one process, where there are many runs", devices.name, hint)
    for trial in trials:
        check_batch(trial.recipe, devices)
        check_precision(trial.recipe.precision)


def run_all(
    trials: Sequence[Trial],
    data: Mapping[str, DataSet],
    folder: PathLike,
    after: Callable[[dict[str, dict[str, Any]]], object] | None = None,
    fail_percent: float = math.inf,
    **keywords: Any,
) -> dict[str, dict[str, Any]]:
    """Runs all trials, one after the other; returns {name: result} of those that have one.

    Several processes may do this on one folder at once: each takes trials that no other is on. If one dies, another
    that still runs resumes its trial, from its last checkpoint. What others are on at the end is said.

    Args:
        trials: `Trial`s.
        data: {name: `DataSet`} of their data sets.
        folder: As in `run_trial`.
        after: A function of the results so far, called after each trial.
        fail_percent: The test error in %, above which a trial is said to fail.
        **keywords: Those of `run_trial`.
    """
    left, before = list(enumerate(trials, start=1)), None
    while left and left != before:  # once more, as long as others end, or die
        before, left = left, []
        for number, trial in before:
            place = f"[{number}/{len(trials)}] {trial.name}"
            result = run_trial(trial, data[trial.data], folder, **keywords)
            if result is None:
                log.info(f"{place}: {locks.holder(pathlib.Path(folder) / trial.name)} is on it")
                left.append((number, trial))
                continue
            log.info(f"{place}: {_told(result, fail_percent)}")
            if after is not None:
                after(_results(trials, folder))
    if left:
        log.info(f"{len(left)} of {len(trials)} runs have no result yet: other processes are on them.")
    return _results(trials, folder)


def _results(trials, folder):
    """Returns {name: result} of all that is in `folder` by now, whichever process wrote it."""
    found = {trial.name: read_result(trial, folder) for trial in trials}
    return {name: result for name, result in found.items() if result is not None}


def median_error(results: Iterable[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Returns (median, lowest, highest) of the test errors in %, infinite where there is none; NaN without results."""
    errors = [math.inf if result["error_percent"] is None else result["error_percent"] for result in results]
    if not errors:
        return math.nan, math.nan, math.nan
    return statistics.median(errors), min(errors), max(errors)


def shown(error_percent: float | None, fail_percent: float = math.inf) -> str:
    """Returns an error in % as the paper's tables write it: "fail" above `fail_percent` or where a run diverged.

    The text is empty where there is no error.
    """
    if error_percent is None or math.isnan(error_percent):
        return ""
    is_fail = math.isinf(error_percent) or error_percent > fail_percent
    return "fail" if is_fail else f"{error_percent:.2f}"


def _told(result, fail_percent):
    if reason := failure(result, fail_percent):
        return f"fail ({reason})"
    return f"{result['error_percent']:.2f} % test error, {result['seconds']:.0f} s"


def _outcome(trial, data, folder, strategy, verbose):
    """Trains, and returns what came of it; only a file that cannot be written, another run, or a signal, ends all."""
    policy = keras.config.dtype_policy()
    keras.utils.clear_session()  # which forgets the caller's policy, too
    keras.config.set_dtype_policy(policy)
    card, failed, diverged = {}, None, False
    try:
        card = trainer.train(
            trial.model,
            data=data,
            recipe=trial.recipe,
            output=folder,
            strategy=strategy,
            model_options=trial.options,
            verbose=verbose,
        )
    except run_folder.AnotherRunError as error:
        raise run_folder.AnotherRunError(f"{error} Here: remove {folder}, or take another output.") from error
    except (OSError, locks.HeldError):
        raise
    except FloatingPointError as error:
        failed, diverged = f"diverged: {_first_line(error)}", True
    except Exception as error:
        failed = f"{type(error).__name__}: {_first_line(error)}"
    curve = _curve(folder / run_folder.HISTORY, trial.recipe, data)
    return {
        "error_percent": card.get("error_percent"),
        "failed": failed,
        "diverged": diverged,
        "seconds": card.get("seconds"),
        "curve": curve,
        "validation_percent": _validation_percent(trial.recipe, data, folder, curve) if card else None,
    }


def _validation_percent(recipe, data, folder, curve):
    """Returns the error on the held-out images of a run's network, which no epoch measured if it is an average."""
    if not recipe.validation_images:
        return None
    if not recipe.ema:
        return curve[-1]["val_error_percent"] if curve else None
    validation = held_out(data, recipe.validation_images, recipe.seed)[1]
    return evaluate(folder, validation)["error_percent"]


def _first_line(error):
    return (str(error).splitlines() or [""])[0][:300]


def _curve(path, recipe, data):
    """Returns the run's `history.csv` as dicts, with the training steps done at the end of each epoch."""
    if not path.is_file():
        return []
    per_epoch = (len(data.train) - recipe.validation_images) // recipe.global_batch_size
    total = recipe.total_steps(per_epoch)
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [
        {"iteration": min(int(row.pop("epoch")) * per_epoch, total), **{name: round(row[name], 5) for name in row}}
        for row in rows
    ]
