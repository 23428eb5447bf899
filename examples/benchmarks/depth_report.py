"""The report of `depth.py`: rows of raw numbers to ratios beside the bars, and the plot of cost against depth."""

import csv
import importlib.metadata
import itertools
import math
import os
import pathlib
import platform
import statistics
import subprocess
from dataclasses import dataclass, field

OURS = {  # contestant: arguments of `keras_preact.ResNet`
    "stacked": {},
    "stacked remat": {"remat": True},
    "stacked looped": {"unroll": 1},
    "stacked looped remat": {"unroll": 1, "remat": True},
    "stacked unroll 4": {"unroll": 4},
    "stacked unroll 4 remat": {"unroll": 4, "remat": True},
    "stacked unrolled": {"unroll": "all"},
    "stacked unrolled remat": {"unroll": "all", "remat": True},
}
CURVE_DEPTHS = (11, 56, 164, 326, 1001)
BUSY = 0.2


@dataclass(frozen=True)
class Comparison:
    """Describes one line of the report: a measure of ours over the same of another contestant, and the bar for it.

    Attributes:
        label: What the line says.
        measure: A column of numbers, e.g. `step_cpu_s`.
        ours: Our contestant.
        against: The other one. If None, the bar is on the number itself.
        bars: The bar at each depth that has one.
        backend: Where both ran, but for torch.
        against_depth: The other's depth, if not our own.
        against_measure: The other's measure, if not our own.
        at_least: Whether the bar is a lower bound.
    """

    label: str
    measure: str
    ours: str
    against: str | None
    bars: dict[int, float] = field(default_factory=dict)
    backend: str = "tensorflow"
    against_depth: int | None = None
    against_measure: str | None = None
    at_least: bool = False

    def other(self, depth):
        """Returns the other's backend, contestant, depth and measure."""
        backend = "torch" if self.against == "torch" else self.backend
        return backend, self.against, self.against_depth or depth, self.against_measure or self.measure

    def verdict(self, number, depth):
        """Returns the bar and whether `number`, None if there is none, passes it; both empty where there is no bar."""
        if depth not in self.bars:
            return "", ""
        bar = self.bars[depth]
        text = f"{'>=' if self.at_least else '<='} {bar:,}"
        if number is None:
            return text, "not measured"
        passes = number >= bar if self.at_least else number <= bar
        return text, "pass" if passes else "under" if self.at_least else "over"


FROZEN = dict(measure="frozen_cpu_s", against="plain", against_measure="predict_cpu_s", bars={164: 0.67, 1001: 0.67})
GPU = dict(backend="jax gpu", bars={164: 13_000, 1001: 2_000}, at_least=True)
COMPARISONS = (
    Comparison("import to end of first step / plain", "first_step_s", "stacked", "plain", {1001: 0.12}),
    Comparison("the same / our own 164", "first_step_s", "stacked", "stacked", {1001: 1.8}, against_depth=164),
    Comparison("training step, CPU-s / plain", "step_cpu_s", "stacked", "plain", {164: 0.75, 1001: 0.77}),
    Comparison("training step, wall / torch", "step_wall_s", "stacked", "torch", {164: 1.1, 1001: 1.4}),
    Comparison("training step, CPU-s / torch", "step_cpu_s", "stacked", "torch", {164: 1.1, 1001: 1.4}),
    Comparison("remat, CPU-s / without", "step_cpu_s", "stacked remat", "stacked", {164: 1.3, 1001: 1.3}),
    Comparison("peak memory, MB / plain", "peak_mb", "stacked", "plain"),
    Comparison("peak memory with remat, MB", "peak_mb", "stacked remat", None, {1001: 2000}),
    Comparison("export / plain", "export_s", "stacked", "plain", {1001: 0.03}),
    Comparison("graph size, MB", "graph_mb", "stacked", None, {1001: 1}),
    Comparison("reload / plain", "reload_s", "stacked", "plain", {1001: 0.03}),
    Comparison("save weights / plain", "save_weights_s", "stacked", "plain", {1001: 0.05}),
    Comparison("load weights / plain", "load_weights_s", "stacked", "plain", {1001: 0.05}),
    Comparison("predict, CPU-s / plain", "predict_cpu_s", "stacked", "plain", {164: 0.85, 1001: 0.85}),
    Comparison("predict frozen, CPU-s / plain", ours="stacked", **FROZEN),
    Comparison("JAX: first step, s", "first_step_s", "stacked", None, {1001: 30}, "jax"),
    Comparison("JAX: first step with remat, s", "first_step_s", "stacked remat", None, {1001: 30}, "jax"),
    Comparison("JAX: peak memory, MB", "peak_mb", "stacked", None, {1001: 3000}, "jax"),
    Comparison("JAX: peak memory with remat, MB", "peak_mb", "stacked remat", None, {1001: 3000}, "jax"),
    Comparison("JAX: training step, CPU-s / plain", "step_cpu_s", "stacked", "plain", {164: 0.5}, "jax"),
    Comparison("JAX: the same with remat / plain", "step_cpu_s", "stacked remat", "plain", {164: 0.5}, "jax"),
    *(Comparison(f"GPU: images/s, {name}", "images_per_s", name, None, **GPU) for name in OURS),
    *(Comparison(f"GPU: first step, s, {name}", "first_step_s", name, None, backend="jax gpu") for name in OURS),
)


COLUMNS = ("kind", "backend", "contestant", "depth", "round", "measure", "step", "value", "error")


def to_rows(task, measured):
    """Returns one row for each number of a measurement, or one with its error."""
    row = {name: task[name] for name in COLUMNS[:5]}
    if "error" in measured:
        return [{**row, "measure": "", "step": 0, "value": math.nan, "error": measured["error"]}]
    return [
        {**row, "measure": name, "step": step, "value": value, "error": ""}
        for name, values in measured.items()
        for step, value in enumerate(values if isinstance(values, list) else [values])
    ]


def write_rows(path, rows):
    aside = path.with_name(f".{path.name}")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    aside.replace(path)


def read_rows(path):
    if not path.is_file():
        return []
    types = {"depth": int, "round": int, "step": int, "value": float}
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: types.get(name, str)(text) for name, text in row.items()} for row in csv.DictReader(file)]


def describe(task, measured):
    """Returns a line on one measurement; of many steps, the median."""
    label = f"{task['kind']} {task['backend']}, {task['contestant']} {task['depth']}, round {task['round']}: "
    if "error" in measured:
        return label + measured["error"]
    medians = {name: statistics.median(v if isinstance(v, list) else [v]) for name, v in measured.items()}
    return label + ", ".join(f"{name} {value:.3g}" for name, value in medians.items())


def by_round(rows):
    """Returns {(backend, contestant, depth, measure): {round: median over its steps}}, and the disturbed keys.

    Disturbed rounds are left out of a key that has others.
    """
    busy = {identity(row): row["value"] for row in rows if row["measure"] == "busy_with_others"}
    quiet, disturbed = {}, {}
    for row in rows:
        kept = disturbed if busy.get(identity(row), 0.0) > BUSY else quiet
        key = tuple(row[name] for name in ("backend", "contestant", "depth", "measure"))
        kept.setdefault(key, {}).setdefault(row["round"], []).append(row["value"])
    chosen = {**disturbed, **quiet}
    medians = {key: {turn: statistics.median(steps) for turn, steps in turns.items()} for key, turns in chosen.items()}
    return medians, disturbed.keys() - quiet.keys()


def identity(row):
    """Returns what tells a row's measurement from others."""
    return tuple(row[name] for name in COLUMNS[:5])


def report_lines(rows, depths):
    """Returns the report: a line for every comparison at every depth that was measured, and the errors."""
    numbers, disturbed = by_round(rows)
    lines = [f"{'':43}{'depth':>5}{'ours':>10}{'other':>10}{'ratio':>8}{'bar':>11}"]
    for comparison, depth in itertools.product(COMPARISONS, depths):
        key, other = (comparison.backend, comparison.ours, depth, comparison.measure), comparison.other(depth)
        if key in numbers and (comparison.against_depth is None or depth in comparison.bars):
            line = comparison_line(comparison, depth, numbers[key], numbers.get(other, {}))
            noisy = key[-1].endswith("_s") and disturbed & {key, other}
            lines.append(line + ("  (machine was busy)" if noisy else ""))
    if busy := [row["value"] for row in rows if row["measure"] == "busy_with_others"]:
        lines.append(f"Processors busy with other programs: median {statistics.median(busy):.1f}, most {max(busy):.1f}")
    failed = [row for row in rows if row["error"]]
    return lines + [" ".join(str(row[name]) for name in (*COLUMNS[:5], "error")) for row in failed]


def comparison_line(comparison, depth, ours, other):
    """Returns one line of the report, of two dicts from round to number; a number is the median over rounds."""
    ratios = [ours[turn] / other[turn] for turn in ours if turn in other]
    median = lambda values: statistics.median(values) if values else None  # noqa: E731
    text = lambda number: "" if number is None else f"{number:,.3f}" if number < 100 else f"{number:,.0f}"  # noqa: E731
    if other and not ratios:  # none of the rounds left is one that both have
        ratios = [median(ours.values()) / median(other.values())]
    number, ratio = median(ours.values()), median(ratios)
    bar, verdict = comparison.verdict(number if comparison.against is None else ratio, depth)
    cells = f"{text(number):>10}{text(median(other.values())):>10}{text(ratio):>8}{bar:>11}"
    return f"{comparison.label:43}{depth:5}{cells}  {verdict}".rstrip()


PANELS = {
    "build_s": "build, s",
    "trace_s": "trace of the training step, s",
    "first_call_s": "first step: trace, compile, run, s",
    "first_step_s": "import to end of first step, s",
    "step_cpu_s": "training step, CPU-seconds",
    "peak_mb": "peak memory in training, MB",
    "export_s": "export of a SavedModel, s",
    "graph_mb": "saved_model.pb, MB",
}


def draw(rows, path):
    """Draws cost against depth, a panel for each measure and a line for each contestant on TensorFlow, and torch."""
    if importlib.util.find_spec("matplotlib") is None:
        print("No plot: matplotlib is not installed.")
        return
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    numbers, _ = by_round([row for row in rows if row["backend"] in ("tensorflow", "torch")])
    figure = Figure(figsize=(14, 6.5), layout="constrained")
    panels = figure.subplots(2, 4).flat
    for axes, (measure, title) in zip(panels, PANELS.items()):
        for contestant in ("plain", "stacked", "stacked remat", "torch"):
            found = {key[2]: turns for key, turns in numbers.items() if key[1] == contestant and key[3] == measure}
            points = [(depth, statistics.median(found[depth].values())) for depth in sorted(found)]
            if any(value > 0 for _, value in points):
                axes.plot(*zip(*points), marker=".", label=contestant)
        axes.set(title=title, xscale="log", yscale="log", xlabel="depth")
        axes.set_xticks(CURVE_DEPTHS, CURVE_DEPTHS, minor=False)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[3].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)


def environment(arguments):
    """Returns what the numbers depend on: processor, versions, commit and arguments."""
    packages = ("keras_preact", "keras", "tensorflow", "jax", "numpy", "torch")
    model_names = [line for line in read_text("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    commit = ["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "processor": model_names[0].split(":")[1].strip() if model_names else platform.processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages if importlib.util.find_spec(name)},
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "arguments": {name: value for name, value in vars(arguments).items() if name != "worker"},
    }


def read_text(path):
    """Returns the text of a file, empty if there is none."""
    return pathlib.Path(path).read_text(encoding="utf-8") if pathlib.Path(path).is_file() else ""
