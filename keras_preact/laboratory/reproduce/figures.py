"""Figures 1 and 6 of the paper: training loss and test error against iterations."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_preact.errors import argument_error, check_choice, check_integer
from keras_preact.files import check_local, check_writable, written_aside
from keras_preact.laboratory.reproduce.experiments import SCALES, PaperExperiment, Scale
from keras_preact.laboratory.reproduce.report import run_trials, scales_of
from keras_preact.laboratory.sweep.trials import raised, read_result, unfinished
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike

log = logging.getLogger(__name__)

# {panel: {line: experiment}}, all on CIFAR-10.
FIGURES = {
    "figure1": {
        "ResNet-1001": {"original": PaperExperiment(1001), "pre-activation": PaperExperiment(1001, "preactivation")},
    },
    "figure6": {
        "ResNet-110": {
            "original": PaperExperiment(110),
            "BN after addition": PaperExperiment(110, "bn_after_addition"),
        },
        "ResNet-164": {"original": PaperExperiment(164), "pre-activation": PaperExperiment(164, "preactivation")},
    },
}
COLOURS = ("tab:red", "tab:blue")


def reproduce_figure(
    name: str,
    scale: str = "smoke",
    seeds: int = 1,
    output: PathLike | None = None,
    data_dir: PathLike | None = None,
    strategy: Strategy = "auto",
    run: bool = True,
) -> pathlib.Path:
    """Draws a figure of the paper from runs as they are stored, after running what has no result.

    Args:
        name: A key of `FIGURES`: 1 is original against pre-activation with 1001 layers; 6 is Fig. 4(b) on ResNet-110
            and Fig. 4(e) on ResNet-164, each against the original.
        scale: As in `reproduce_table`, with which it shares results, as all that follow.
        seeds: Runs of each line.
        output: The folder of the results; the figure is `<name>.png` in it.
        data_dir: Where CIFAR's files are.
        strategy: As in `train`.
        run: Whether to run what has no result.

    Returns:
        The path of the picture.

    Raises:
        ValueError: If there is no such figure or scale, or no result with `run=False`.
    """
    panels, seeds = FIGURES[check_choice("figure", name, FIGURES)], check_integer("seeds", seeds)
    kind = SCALES[check_choice("scale", scale, SCALES)]
    folder = check_local("output", output or pathlib.Path("runs") / "reproduce" / scale)
    trials = {
        (panel, line): [trial for seed in range(seeds) if (trial := experiment.trial(kind, seed))]
        for panel, lines in panels.items()
        for line, experiment in lines.items()
    }
    if not any(trials.values()):
        hint = f"Take {scales_of(each for lines in panels.values() for each in lines.values())}."
        raise argument_error("scale", f"one that has the networks of {name}", scale, hint)
    if run:
        check_writable("output", folder)
        run_trials([trial for found in trials.values() for trial in found], folder, data_dir, strategy)
    results = {place: [read_result(trial, folder) for trial in found] for place, found in trials.items()}
    results = {place: [result for result in found if result] for place, found in results.items()}
    for (panel, line), found in results.items():
        for told in unfinished(f"{panel}, {line}", found):
            log.warning(told)
    results = {place: [result for result in found if not raised(result)] for place, found in results.items()}
    if not any(results.values()):
        raise argument_error("output", f"a folder with results of {name}", str(folder), "Leave --no-run out.")
    return draw(name, panels, results, kind, folder / f"{name}.png")


def draw(
    name: str,
    panels: Mapping[str, Mapping[str, PaperExperiment]],
    results: Mapping[tuple[str, str], Sequence[dict[str, Any]]],
    kind: Scale,
    path: pathlib.Path,
) -> pathlib.Path:
    """Draws test errors, solid, and training losses, dashed, of {(panel, line): results}; returns the path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, (panel, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        losses = axes.twinx()
        for colour, line in zip(COLOURS, lines):
            for number, result in enumerate(results[panel, line]):
                steps = [epoch["iteration"] for epoch in result["curve"]]
                label = line if number == 0 else None
                axes.plot(steps, [row["val_error_percent"] for row in result["curve"]], color=colour, label=label)
                losses.plot(steps, [row["loss"] for row in result["curve"]], "--", color=colour, alpha=0.7)
        models = {result["model"] for line in lines for result in results[panel, line]}
        axes.set(title=_title(panel, models), xlabel="iterations", ylabel="test error, % (solid)", ylim=(0, None))
        losses.set(ylabel="training loss (dashed)", yscale="log")
        axes.legend()
    figure.suptitle(f"Figure {name.removeprefix('figure')}: {kind.about}", fontsize="small", wrap=True)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=120)
    return path


def _title(panel, models):
    ours = ", ".join(sorted(models))
    return panel if ours in ("", panel.lower().replace("-", "")) else f"{panel}, here {ours}"
