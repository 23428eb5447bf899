"""Runs the rows of a table, and prints paper, ours and the difference side by side."""

import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from keras_preact.data import load
from keras_preact.errors import argument_error, check_choice, check_integer
from keras_preact.files import check_local, check_writable
from keras_preact.laboratory.reproduce.experiments import SCALES, PaperExperiment
from keras_preact.laboratory.reproduce.tables import FAIL, TABLES
from keras_preact.laboratory.sweep.trials import (
    Trial,
    check_trials,
    finished_result,
    median_error,
    raised,
    read_result,
    run_all,
    shown,
    unfinished,
)
from keras_preact.network.costs import table
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike


def reproduce_table(
    name: str,
    row: str | None = None,
    scale: str = "smoke",
    seeds: int = 1,
    output: PathLike | None = None,
    data_dir: PathLike | None = None,
    strategy: Strategy = "auto",
    run: bool = True,
    verbose: int = 1,
) -> dict[str, list[dict[str, Any]]]:
    """Runs a table of the paper and prints it: the paper's error, ours (median of the seeds), the difference.

    What has a result is not run again, and what was killed resumes. Several processes may share the work.

    Args:
        name: A key of `TABLES`.
        row: The name of one row, which alone is run and printed; all that the scale has if None.
        scale: A key of `SCALES`.
        seeds: Runs of a row, with seeds 0, 1, ...
        output: The folder of the results, one JSON a run; `runs/reproduce/<scale>` if None.
        data_dir: Where CIFAR's files are, if not where its loader looks.
        strategy: As in `train`.
        run: Whether to run what has no result; otherwise it stays blank.
        verbose: 0 to print nothing.

    Returns:
        {row: [results]}, each a dict as `run_trial` returns it.

    Raises:
        ValueError: If there is no such table, row or scale, or the data are not to be had.
    """
    rows = TABLES[check_choice("table", name, TABLES)]
    kind, seeds = SCALES[check_choice("scale", scale, SCALES)], check_integer("seeds", seeds)
    experiments = {entry.name: entry.experiment for entry in rows}
    if row is not None:
        check_choice("row", row, experiments)
        _check_runnable(row, experiments[row], kind, scale)
        rows = [entry for entry in rows if entry.name == row]
        experiments = {row: experiments[row]}
    if output is not None and not run and not pathlib.Path(output).is_dir():
        raise argument_error("output", "a folder with results, if none are to be made", str(output))
    trials = {
        entry: [trial for seed in range(seeds) if experiment and (trial := experiment.trial(kind, seed))]
        for entry, experiment in experiments.items()
    }
    folder = check_local("output", output or pathlib.Path("runs") / "reproduce" / scale)
    if run:
        check_writable("output", folder)
        run_trials(itertools.chain(*trials.values()), folder, data_dir, strategy)
    results = {entry: _results(found, folder) for entry, found in trials.items()}
    if verbose:
        print("\n".join(_lines(name, kind, rows, results)))
    return results


def run_trials(
    trials: Iterable[Trial], folder: PathLike, data_dir: PathLike | None = None, strategy: Strategy = "auto"
) -> dict[str, dict[str, Any]]:
    """Runs trials that have no result in `folder` yet; data sets are loaded once, and only for those."""
    left = [trial for trial in trials if finished_result(trial, folder) is None]
    check_trials(left, strategy)
    data = {name: load(name, data_dir) for name in dict.fromkeys(trial.data for trial in left)}
    return run_all(left, data, folder, strategy=strategy)


def _check_runnable(row, experiment, kind, scale):
    if experiment is None:
        raise argument_error("row", "one of our networks", row, "The paper quotes this number of another network.")
    if experiment.trial(kind) is None:
        raise argument_error("row", f"one that the scale {scale} has", row, f"Take {scales_of([experiment])}.")


def scales_of(experiments: Iterable[PaperExperiment]) -> str:
    """Returns a text that names the scales at which one of `experiments` is run."""
    names = [name for name, kind in SCALES.items() if any(each.trial(kind) for each in experiments)]
    return f"the scale {' or '.join(names)}"


def _results(trials, folder):
    found = [read_result(trial, folder) for trial in trials]
    return [result for result in found if result is not None]


def _lines(name, kind, rows, results):
    """Yields what is printed of a table."""
    yield f"{name}, test error in %: {kind.about}"
    lines, pairs = [("row", "paper", "ours", "difference", "lowest", "highest", "seeds")], []
    for row in rows:
        finished = [result for result in results[row.name] if not raised(result)]
        median, low, high = median_error(finished)
        paper = row.paper if row.paper == FAIL else f"{row.paper:.2f}"
        ours = shown(median, kind.fail_percent if row.experiment and row.experiment.data == "cifar10" else math.inf)
        difference = f"{median - row.paper:+.2f}" if finished and FAIL not in (row.paper, ours) else ""
        spread = [_number(low), _number(high)] if finished else ["", ""]
        lines.append((row.name, paper, ours, difference, *spread, str(len(finished) or "")))
        if finished:
            pairs.append((math.inf if row.paper == FAIL else row.paper, median))
    yield from table(lines)
    correlation = rank_correlation(pairs)
    if correlation is not None:
        yield f"rank correlation of {len(pairs)} rows with the paper's (Spearman): {correlation:+.2f}"
    for row in rows:
        yield from unfinished(row.name, results[row.name])
    yield from _provenance([result for found in results.values() for result in found])


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Returns Spearman's correlation of (paper, ours); None for under three pairs, or where a side has no order.

    The paper's fails are infinite, and tie; of ours, what diverged.
    """
    from scipy.stats import spearmanr

    if len(pairs) < 3 or any(len(set(side)) < 2 for side in zip(*pairs)):
        return None
    return float(spearmanr(*zip(*pairs)).statistic)


def _number(error):
    return "diverged" if math.isinf(error) else f"{error:.2f}"


def _provenance(results):
    """Yields a line for each device and set of versions that the results are of."""
    seen: dict[str, object] = {}
    for result in results:
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        seen.setdefault(f"{result['device']}; {versions}; commit {result['commit']}, {result['date']}", result)
    yield from seen
