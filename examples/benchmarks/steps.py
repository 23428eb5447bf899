"""Measures training steps or inference on a CPU, in cells of depth, precision and batch, beside what else there is.

    python examples/benchmarks/steps.py                                   # all eight cells: hours on two cores
    python examples/benchmarks/steps.py --cells 164:float32:16 --rounds 1 --output runs/steps
    python examples/benchmarks/steps.py --what inference --output runs/inference

The network is that of `depth.py`, and so are the processes: one for each measurement, the contestants in turn. The
table has a line per cell: seconds of our step and of torch's (eager in training, compiled in inference); then medians
over the rounds of one round's ratio, in wall seconds, CPU-seconds and peak memory. "share" is the arithmetic of a step
(in training three times that of the network's answer) over what a product of matrices reaches on this machine in that
time and precision. FOLDER gets every raw number and the table.
"""

import argparse
import json
import os
import pathlib
import statistics

import depth_report
from worker import run_worker

CONTESTANTS = {  # what is measured: {name in the table: (backend, contestant of `worker.py`)}
    "train": {
        "ours": ("tensorflow", "stacked"),
        "torch": ("torch", "torch"),
        "torch.compile": ("torch", "torch compiled"),
        "plain Keras": ("tensorflow", "plain"),
        "ours on JAX": ("jax", "stacked"),
        "ours, remat": ("tensorflow", "stacked remat"),
    },
    "inference": {
        "ours": ("tensorflow", "stacked"),
        "torch.compile": ("torch", "torch compiled"),
        "torch": ("torch", "torch"),
        "plain Keras": ("tensorflow", "plain"),
    },
}
PEERS = {"train": "torch", "inference": "torch.compile"}  # whose seconds the table has beside ours
BATCHES = {"train": {164: (16, 128), 1001: (16, 64)}, "inference": {164: (1, 64), 1001: (1, 64)}}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
MULTIPLY_ADDS = {164: 244_500_992, 1001: 1_487_849_984}  # for one image, as `keras-preact inspect` prints them


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="train", choices=CONTESTANTS)
    parser.add_argument("--cells", nargs="+", metavar="DEPTH:PRECISION:BATCH", help="(all)")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="(all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="per round, after two; of one image 16 times as many")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=900.0, help="seconds for one measurement")
    parser.add_argument("--output", default="runs/steps", metavar="FOLDER")
    arguments = parser.parse_args()
    contestants = CONTESTANTS[arguments.what]
    names = arguments.contestants or list(contestants)
    if unknown := set(names) - set(contestants):
        parser.error(f"--contestants must be of {', '.join(contestants)}. Received: {', '.join(sorted(unknown))}.")
    cells = arguments.cells or [
        f"{layers}:{precision}:{batch}"
        for layers, batches in BATCHES[arguments.what].items()
        for precision in PRECISIONS
        for batch in batches
    ]
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    how = dict(warm_ups=2, cores=arguments.cores)
    limits = run_worker({"kind": "limits", "backend": "torch", "steps": arguments.steps, **how}, arguments.time_limit)
    environment = depth_report.environment(arguments)
    measured = {}
    for turn in range(arguments.rounds):
        for cell in cells:
            for name in names:
                task = {**how, **task_of(arguments.what, cell, name, arguments.steps)}
                found = run_worker(task, arguments.time_limit)
                print(f"round {turn + 1}, {cell}, {name}: {summary(found)}", flush=True)
                measured.setdefault(cell, {}).setdefault(name, []).append(found)
            everything = {"environment": environment, "limits": limits, "cells": measured}
            aside = folder / "steps.json.new"
            aside.write_text(json.dumps(everything, indent=1), encoding="utf-8")
            os.replace(aside, folder / "steps.json")
    lines = table(arguments.what, measured, limits)
    (folder / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def task_of(what, cell, name, steps):
    """Returns the measurement of a contestant in a cell, as `worker.work` takes it."""
    layers, precision, batch = cell.split(":")
    backend, contestant = CONTESTANTS[what][name]
    task = {"kind": what, "backend": backend, "contestant": contestant, "steps": 16 * steps if batch == "1" else steps}
    return {**task, "depth": int(layers), "precision": PRECISIONS[precision], "batch": int(batch)}


def summary(found):
    """Returns one measurement as text."""
    if "error" in found:
        return found["error"]
    wall, cpu = (statistics.median(found[name]) for name in ("step_wall_s", "step_cpu_s"))
    return f"{wall:.4f} s, {cpu:.4f} CPU-s, {found['peak_mb']:,.0f} MB, the first {found['first_call_s']:.1f} s"


def table(what, measured, limits):
    """Returns the lines of the table, and under it what the machine can do."""
    names = [name for name in CONTESTANTS[what] if any(name in of for of in measured.values())]
    lines = [
        f"{'cell':20}  {'ours s':>8}  {PEERS[what] + ' s':>15}  share" + "".join(f"  {name:>17}" for name in names)
    ]
    lines[0] += "   (ours / NAME: wall, CPU-s, memory)"
    for cell, of in measured.items():
        ours, peer = (median(of.get(name, []), "step_wall_s") for name in ("ours", PEERS[what]))
        line = f"{cell:20}  {number(ours):>8}  {number(peer):>15}  {share(what, cell, ours, limits)}"
        lines.append(line + "".join(f"  {ratios(of, name):>17}" for name in names))
    shown = {name: value for name, value in limits.items() if name not in ("busy_with_others", "error")}
    known = ", ".join(f"{name} {value:,.1f}" for name, value in shown.items())
    return [*lines, f"this machine: {known or limits['error']}"]


def ratios(of, name):
    """Returns the medians over the rounds of ours over NAME: wall, CPU-seconds, memory; of ours, its CPU-seconds."""
    pairs = [pair for pair in zip(of.get("ours", []), of.get(name, [])) if not any("error" in one for one in pair)]
    if not pairs:
        return "-"
    if name == "ours":
        return f"{median(of['ours'], 'step_cpu_s'):.3f} CPU-s"
    values = []
    for measure in ("step_wall_s", "step_cpu_s", "peak_mb"):
        values.append(statistics.median(middle(a[measure]) / middle(b[measure]) for a, b in pairs))
    return " ".join(f"{value:.2f}" for value in values)


def median(rounds, measure):
    """Returns the median over rounds of the median over steps; None where none succeeded."""
    found = [middle(one[measure]) for one in rounds if "error" not in one]
    return statistics.median(found) if found else None


def middle(value):
    return statistics.median(value) if isinstance(value, list) else value


def number(value):
    return "-" if value is None else f"{value:.4f}"


def share(what, cell, seconds, limits):
    """Returns the share of the machine's peak that a step's arithmetic reaches, in percent."""
    layers, precision, batch = cell.split(":")
    limit = limits.get(f"{precision}_gflop_s")
    if seconds is None or limit is None or int(layers) not in MULTIPLY_ADDS:
        return "    -"
    operations = 2 * MULTIPLY_ADDS[int(layers)] * int(batch) * {"train": 3, "inference": 1}[what]
    return f"{operations / seconds / 1e9 / limit:5.0%}"


if __name__ == "__main__":
    main()
