"""Pictures of measurements, as wide as a phone, each a `matplotlib.figure.Figure`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from keras_preact.errors import argument_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_preact.laboratory.analysis.result import Propagation
    from keras_preact.laboratory.analysis.studies import DepthRun
    from keras_preact.laboratory.table1 import ShortcutRow

WIDTH = 4.4  # inches; text of 9 points stays readable on a phone
DARK, BLUE, ORANGE, GREY = "#222222", "#0072b2", "#d55e00", "#8a8a8a"
COLORS = {"plain": GREY, "original": ORANGE, "preactivation": BLUE}
NAMES = {"plain": "plain (no shortcut)", "original": "original unit", "preactivation": "pre-activation"}
FLOOR, CEILING = 1e-20, 1e6  # of the products of Table 1's shortcuts
LOSS_CEILING = 5.0
STYLE: dict[Any, object] = {  # Any: matplotlib has a type of its own for the keys
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

Values = TypeVar("Values")
Plot = TypeVar("Plot", bound=Callable[..., Any])


def _styled(plot: Plot) -> Plot:
    """Returns `plot` so that it draws in this file's style, whatever the user's is, and leaves the user's alone."""

    @functools.wraps(plot)
    def styled(*arguments):
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return plot(*arguments)

    return cast("Plot", styled)


@_styled
def plot_signals(result: Propagation) -> Figure:
    """Draws the size of h(x_l) and F(x_l) at every unit of a `Propagation` (eq. 1)."""
    figure, (axes,) = _figure(1)
    if np.any(result.shortcut_rms):
        _line(axes, result, result.shortcut_rms, BLUE, "shortcut h(x)")
    _line(axes, result, result.branch_rms, ORANGE, "branch F(x)")
    _finish(axes, "size (root mean square)", result)
    return figure


@_styled
def plot_gradients(result: Propagation) -> Figure:
    """Draws |dE/dx_l| with its direct and its branch term at every unit (eq. 5)."""
    figure, (axes,) = _figure(1)
    _line(axes, result, result.gradient_norm, DARK, "whole gradient", linewidth=2)
    _line(axes, result, result.direct_norm, BLUE, "direct term")
    _line(axes, result, result.branch_norm, ORANGE, "branch term", linestyle="--")
    _finish(axes, "norm of ∂E/∂x", result)
    return figure


@_styled
def plot_factors(result: Propagation) -> Figure:
    """Draws what h and f multiply the direct term by, and the product of h's factors to the end (eqs. 7 and 8)."""
    figure, (above, below) = _figure(2)
    _line(above, result, result.shortcut_factor, BLUE, "shortcut h")
    _line(above, result, result.after_addition_factor, ORANGE, "after the addition, f", linestyle="--")
    _finish(above, "factor of one unit", result, scale="linear")
    _line(below, result, result.network_product, BLUE, "product to the end")
    _finish(below, "product of h's factors", result)
    if below.get_ylim()[0] < 1e-30:
        below.set_ylim(bottom=1e-30)
    return figure


@_styled
def plot_openness(result: Propagation) -> Figure:
    """Draws the share of the signal that the ReLU after the addition cuts, and how open the gates are."""
    figure, (axes,) = _figure(1)
    _line(axes, result, result.cut_share, ORANGE, "cut by the ReLU after the addition")
    if not np.all(np.isnan(result.gate_openness)):
        _line(axes, result, result.gate_openness, BLUE, "gate's factor on the shortcut, 1 - g")
    _finish(axes, "share", result, scale="linear")
    axes.set_ylim(-0.02, 1.02)
    return figure


@_styled
def plot_deletions(result: Propagation) -> Figure:
    """Draws the loss of the network without one unit, over that with all of them."""
    figure, (axes,) = _figure(1)
    losses = _measured(result.loss_without)
    measured = np.isfinite(losses)
    place = np.flatnonzero(measured) + 1
    change = losses[measured] - _measured(result.loss)
    axes.vlines(place, 0, change, color=BLUE, linewidth=1.2)
    axes.plot(place, change, "o", color=BLUE, markersize=3.5)
    axes.axhline(0, color=DARK, linewidth=0.8)
    _finish(axes, "change of the loss", result, scale="linear")
    return figure


@_styled
def plot_depths(runs: Sequence[DepthRun]) -> Figure:
    """Draws |dE/dx_l| against depth for each kind and depth of a study, before and after training (eq. 5)."""
    from matplotlib import colormaps

    kinds = [kind for kind in COLORS if any(run.kind == kind for run in runs)]
    depths = sorted({run.depth for run in runs})
    colors = dict(zip(depths, colormaps["viridis"](np.linspace(0.0, 0.88, len(depths)))))
    figure, rows = _figure(len(kinds), 2, height=1.75, sharey="row")
    for row, kind in zip(rows, kinds):
        for axes, when in zip(row, ("start", "after")):
            lost = []
            for run in (run for run in runs if run.kind == kind):
                size = _relative_gradient(getattr(run, when))
                axes.plot(np.linspace(0, 1, len(size)), size, color=colors[run.depth], label=str(run.depth))
                if not np.any(np.isfinite(size) & (size > 0)):
                    lost.append(str(run.depth))
            _log(axes)
            if lost:
                text = f"{', '.join(lost)} layers: no longer finite"
                axes.text(0.5, 0.95, text, transform=axes.transAxes, ha="center", va="top", fontsize=7)
            axes.set_title(f"{NAMES[kind]}, {'at the start' if when == 'start' else 'after training'}", fontsize=7.5)
            axes.set_xticks([0, 1], ["first unit", "last"])
        row[0].set_ylabel("gradient / that at end")
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(depths), title="layers")
    return figure


def _relative_gradient(result):
    """Returns |dE/dx_l| over that at the end; not a number if there is no measurement."""
    if result is None:
        return np.full(1, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(result.gradient_norm, result.gradient_at_end)


@_styled
def plot_shortcuts(found: Sequence[tuple[ShortcutRow, Propagation]]) -> Figure:
    """Draws a panel a row of Table 1: the gradient and the product of the shortcut factors against the unit."""
    count = -(-len(found) // 2)
    figure, rows = _figure(count, 2, height=1.15, sharex=True, sharey=True)
    panels = [axes for row in rows for axes in row]
    for axes, (row, result) in zip(panels, found):
        place = np.arange(1, len(result.units) + 1)
        axes.plot(
            place, np.maximum(_measured(result.network_product), FLOOR / 10), color=BLUE, label="product of factors"
        )
        relative = _measured(result.gradient_norm) / _measured(result.gradient_at_end)
        axes.plot(place, np.maximum(relative, FLOOR / 10), color=DARK, linewidth=1, label="gradient / that at end")
        error = "fail" if row.paper_error_percent is None else f"{row.paper_error_percent:.2f} %"
        axes.set_title(f"{row.label}: {error}", fontsize=8)
        axes.set(yscale="log", ylim=(FLOOR, CEILING), yticks=[1e-20, 1e-10, 1])
    handles, labels = panels[0].get_legend_handles_labels()
    for axes in panels[len(found) :]:
        axes.set_axis_off()
        axes.legend(handles, labels, loc="center")
    figure.supxlabel("unit", fontsize=9)
    return figure


@_styled
def plot_degradation(runs: Sequence[DepthRun], classes: int) -> Figure:
    """Draws the training loss after a study's steps against depth, and over the steps at the greatest depth."""
    figure, (above, below) = _figure(2, height=2.3)
    deepest = max(run.depth for run in runs)
    for kind in COLORS:
        of_kind = sorted((run for run in runs if run.kind == kind), key=lambda run: run.depth)
        if not of_kind:
            continue
        losses = np.nan_to_num([run.training_loss for run in of_kind], nan=np.inf)
        shown = np.minimum(losses, LOSS_CEILING)
        above.plot([run.depth for run in of_kind], shown, "o-", color=COLORS[kind], label=NAMES[kind], markersize=4)
        steps = np.arange(1, len(of_kind[-1].losses) + 1)
        below.plot(steps, np.minimum(of_kind[-1].losses, LOSS_CEILING), color=COLORS[kind], label=NAMES[kind])
    for axes in (above, below):
        axes.axhline(np.log(classes), color=DARK, linewidth=0.8, linestyle=":", label="guessing")
        axes.set(ylabel="training loss, nats", ylim=(0, LOSS_CEILING * 1.04))
    above.set(xscale="log", xlabel="layers")
    depths = sorted({run.depth for run in runs})
    above.set_xticks(depths, list(map(str, depths)))
    above.minorticks_off()
    above.legend()
    below.set(xlabel=f"training step, {deepest} layers")
    return figure


def _measured(values: Values | None) -> Values:
    """Returns what `analyze` measures with labels alone; a `ValueError` if it had none."""
    if values is None:
        raise argument_error("result", "measured with labels, so that it says of the loss", None)
    return values


def _figure(rows, columns=1, height=2.6, **sharing):
    """Returns a figure of phone width, and its axes as a list, a list of rows if there is more than one column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **sharing)
    return figure, [row[0] for row in axes] if columns == 1 else [list(row) for row in axes]


def _line(axes, result, values, color, label, **style):
    marker = "." if len(result.units) < 30 else ""
    axes.plot(np.arange(1, len(result.units) + 1), values, color=color, label=label, marker=marker, **style)


def _finish(axes, label, result, scale="log"):
    """Labels the axes, and marks where a stage begins."""
    for index in np.flatnonzero(np.diff(result.stage)) + 1.5:
        axes.axvline(index, color=GREY, linewidth=0.8, linestyle=":")
    margin = 0.5 + len(result.units) / 50
    axes.set(xlabel="unit", ylabel=label, xlim=(1 - margin, len(result.units) + margin))
    if scale == "log":
        _log(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _log(axes):
    """Makes the y-axis logarithmic, with as many numbers as fit."""
    from matplotlib import ticker

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 200:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high / low < 20 else (1, 3)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
