"""Draws `docs/images/cost_against_depth.png`, the picture of the README, from the stored rows of `depth.py`.

python examples/benchmarks/cost_picture.py
"""

import pathlib
import statistics

from depth_report import by_round, read_rows
from matplotlib.figure import Figure

ROOT = pathlib.Path(__file__).parents[2]
ROWS = ROOT / "examples" / "results" / "depth" / "measurements.csv"
PICTURE = ROOT / "docs" / "images" / "cost_against_depth.png"
DEPTHS = (11, 56, 164, 326, 1001)
PANELS = {
    "first_step_s": ("import to first step, s", (2, 5, 10, 20, 50, 100)),
    "peak_mb": ("peak memory in training, MB", (500, 1000, 2000, 4000, 8000)),
    "export_s": ("export of a SavedModel, s", (1, 2, 5, 10, 20, 50)),
}
LINES = {
    "plain": ("plain Keras layers", "#9e9e9e", "o"),
    "torch": ("eager PyTorch", "#d98b43", "^"),
    "stacked": ("keras_preact", "#3949ab", "s"),
    "stacked remat": ("keras_preact, remat=True", "#26a69a", "D"),
}


def medians(rows, contestant, measure):
    """Returns {depth: median over the rounds} of one line."""
    numbers, _ = by_round([row for row in rows if row["backend"] in ("tensorflow", "torch")])
    found = {key[2]: turns for key, turns in numbers.items() if key[1] == contestant and key[3] == measure}
    return {depth: statistics.median(found[depth].values()) for depth in sorted(found)}


def main():
    """Writes the picture."""
    rows = read_rows(ROWS)
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    for axes, (measure, (title, ticks)) in zip(figure.subplots(1, 3), PANELS.items(), strict=True):
        for contestant, (label, colour, marker) in LINES.items():
            if points := medians(rows, contestant, measure):
                axes.plot(
                    points.keys(), points.values(), label=label, color=colour, marker=marker, markersize=5, linewidth=2
                )
        axes.set(xscale="log", yscale="log", xlabel="layers")
        axes.set_title(title, fontsize=12)
        axes.set_xticks(DEPTHS, DEPTHS)
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    figure.savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()
