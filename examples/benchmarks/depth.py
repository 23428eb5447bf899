"""Measures what depth costs: ResNets of 11 to 1001 layers in this package, in plain Keras layers, and in eager torch.

    python examples/benchmarks/depth.py                         # everything on the CPU: over an hour on two cores
    python examples/benchmarks/depth.py --quick                 # a smoke test of some minutes, depths 29 and 56
    python examples/benchmarks/depth.py --what train --depths 164
    python examples/benchmarks/depth.py --gpu --what --keep     # the GPU section alone, added to what FOLDER holds

The network is the CIFAR pre-activation bottleneck ResNet, float32, batch 16, SGD with momentum. The contestants:

    plain       one stock Keras layer per operation (`plain.py`), compiled with jit_compile=False on TensorFlow
    stacked     `keras_preact.ResNet(depth, unit="bottleneck")`; also with remat=True, and with unroll="all" (unrolled)
    torch       eager PyTorch, channels_last (`torch_eager.py`), if torch is installed

`--what` chooses among

    train       TensorFlow and torch: seconds from the process's start to the end of the first training step, and its
                parts; steady steps in wall and CPU-seconds; the process's peak memory
    files       save_weights, load_weights, `model.export`, the size of saved_model.pb, `tf.saved_model.load`
    predict     CPU-seconds of a `tf.function` of the model; ours also frozen to constants
    jax         `train` on JAX
    curve       one round of `train` and `files` at those of the depths 11, 56, 164, 326, 1001 not in `--depths`

and `--gpu` adds training on one GPU (JAX, mixed_bfloat16, batch 128) at each `unroll`, with and without `remat`.

Every measurement has a process of its own, on `--cores` cores; the contestants take turns, A B A B, so that a machine
that drifts does so for all. A ratio is the median over the rounds of one round's ratio. FOLDER gets `measurements.csv`
(every raw number), `report.txt` (the ratios beside the bars of the issue "Depth at no price"), `environment.json` and
`depth.png`.

Other programs spoil the figures, those of torch most (tenfold and more): its threads spin while they wait. So each
measurement says how many processors they kept busy meanwhile; the report leaves out the rounds in which that was more
than BUSY, if others are left, and marks the line if not.
"""

import argparse
import csv
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

OURS = {  # contestant: arguments of `keras_preact.ResNet`
    "stacked": {},
    "stacked remat": {"remat": True},
    "stacked unroll 4": {"unroll": 4},
    "stacked unroll 4 remat": {"unroll": 4, "remat": True},
    "stacked unrolled": {"unroll": "all"},
    "stacked unrolled remat": {"unroll": "all", "remat": True},
}

TRAIN = ("train", "tensorflow", ("plain", "stacked", "stacked remat")), ("train", "torch", ("torch",))
FILES = (("files", "tensorflow", ("plain", "stacked")),)
SECTIONS = {  # section: rows of (kind of measurement, backend, contestants)
    "train": TRAIN,
    "files": FILES,
    "predict": (("predict", "tensorflow", ("plain", "stacked", "stacked unrolled")),),
    "jax": (("train", "jax", ("plain", "stacked", "stacked remat")),),
    "curve": TRAIN + FILES,
    "gpu": (("gpu", "jax gpu", tuple(OURS)),),
}
CURVE_DEPTHS = (11, 56, 164, 326, 1001)
BUSY = 0.2
PLAIN_ON_JAX = 326  # the deepest: plain ResNet-1001 has not compiled there after 400 s, at 22 GB of memory

ENVIRONMENTS = {
    "tensorflow": {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    "torch": {"CUDA_VISIBLE_DEVICES": "-1"},
    "jax": {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    "jax gpu": {"KERAS_BACKEND": "jax"},
}


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
    Comparison("predict unrolled, CPU-s / plain", "predict_cpu_s", "stacked unrolled", "plain"),
    Comparison("predict frozen, CPU-s / plain", ours="stacked", **FROZEN),
    Comparison("predict unrolled and frozen, CPU-s / plain", ours="stacked unrolled", **FROZEN),
    Comparison("JAX: first step, s", "first_step_s", "stacked", None, {1001: 30}, "jax"),
    Comparison("JAX: first step with remat, s", "first_step_s", "stacked remat", None, {1001: 30}, "jax"),
    Comparison("JAX: peak memory, MB", "peak_mb", "stacked", None, {1001: 3000}, "jax"),
    Comparison("JAX: peak memory with remat, MB", "peak_mb", "stacked remat", None, {1001: 3000}, "jax"),
    Comparison("JAX: training step, CPU-s / plain", "step_cpu_s", "stacked", "plain", {164: 0.5}, "jax"),
    Comparison("JAX: the same with remat / plain", "step_cpu_s", "stacked remat", "plain", {164: 0.5}, "jax"),
    *(Comparison(f"GPU: images/s, {name}", "images_per_s", name, None, **GPU) for name in OURS),
    *(Comparison(f"GPU: first step, s, {name}", "first_step_s", name, None, backend="jax gpu") for name in OURS),
)


def main():
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(folder / "measurements.csv") if arguments.keep else []
    tasks = list_tasks(arguments, first_round=1 + max((row["round"] for row in rows), default=0))
    (folder / "environment.json").write_text(json.dumps(environment(arguments), indent=2) + "\n", encoding="utf-8")
    for number, task in enumerate(tasks, start=1):
        measured = run_worker(task, arguments.time_limit)
        rows += to_rows(task, measured)
        write_rows(folder / "measurements.csv", rows)
        print(f"[{number}/{len(tasks)}] {describe(task, measured)}", flush=True)
    report = "\n".join(report_lines(rows, arguments.depths))
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    print(report)
    draw(rows, folder / "depth.png")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", help="9n + 2 each (164 and 1001; 29 and 56 if --quick)")
    parser.add_argument("--what", nargs="*", choices=[name for name in SECTIONS if name != "gpu"], help="(all)")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", choices=("plain", *OURS, "torch"), help="(all)")
    parser.add_argument("--rounds", type=int, help="turns of each contestant (3; 1 if --quick)")
    parser.add_argument("--steps", type=int, help="steady steps per turn (12; 3 if --quick)")
    parser.add_argument("--quick", action="store_true", help="small depths, few steps, no `curve`")
    parser.add_argument("--gpu", action="store_true", help="measure on a GPU as well")
    parser.add_argument("--cores", type=int, default=2, help="of the processor, for each CPU measurement")
    parser.add_argument("--time-limit", type=float, default=900.0, help="seconds for one measurement")
    parser.add_argument("--output", default="runs/depth", metavar="FOLDER")
    parser.add_argument("--keep", action="store_true", help="keep what FOLDER holds, and report on all of it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quick = arguments.quick
    arguments.depths = arguments.depths or ([29, 56] if quick else [164, 1001])
    if arguments.what is None:
        arguments.what = [name for name in SECTIONS if name != "gpu" and not (quick and name == "curve")]
    arguments.what += ["gpu"] if arguments.gpu else []
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.steps = arguments.steps or (3 if quick else 12)
    arguments.warm_ups = 1 if quick else 3
    for depth in arguments.depths:
        if depth < 11 or depth % 9 != 2:
            parser.error(f"--depths must be 9n + 2 each. Received: {depth}.")
    return arguments


def list_tasks(arguments, first_round):
    """Returns the measurements to make, in order, as dicts that JSON can hold."""
    tasks = []
    for section in arguments.what:
        is_curve, depths = section == "curve", arguments.depths
        if is_curve:
            depths = [depth for depth in CURVE_DEPTHS if depth not in depths]
        if section == "jax" and arguments.quick:
            depths = depths[:1]
        for turn, depth in itertools.product(range(1 if is_curve else arguments.rounds), depths):
            for kind, backend, contestants in SECTIONS[section]:
                for contestant in contestants:
                    is_asked = arguments.contestants is None or contestant in arguments.contestants
                    if is_asked and is_possible(backend, contestant, depth):
                        what = dict(kind=kind, backend=backend, contestant=contestant, depth=depth)
                        how = dict(steps=arguments.steps, warm_ups=arguments.warm_ups, cores=arguments.cores)
                        tasks.append({**what, "round": first_round + turn, **how})
    return tasks


def is_possible(backend, contestant, depth):
    """Returns False for torch where it is not installed, and for plain networks that JAX does not get done."""
    if backend == "torch":
        return importlib.util.find_spec("torch") is not None
    return not (backend == "jax" and contestant == "plain" and depth > PLAIN_ON_JAX)


def run_worker(task, time_limit):
    """Makes one measurement in a new process; returns numbers and lists of numbers by name, or {"error": text}."""
    # This process stays small: on Linux a child's peak memory starts at its parent's.
    command = [sys.executable, __file__, "--worker", json.dumps({**task, "started": time.time()})]
    variables = {**os.environ, **ENVIRONMENTS[task["backend"]]}
    others, start = seconds_of_others(), time.perf_counter()
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=time_limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {time_limit:g} s"}
    output, errors = done.stdout.strip().splitlines(), done.stderr.strip().splitlines()
    if done.returncode != 0 or not output:
        return {"error": errors[-1] if errors else f"exit status {done.returncode}"}
    busy = (seconds_of_others() - others) / (time.perf_counter() - start)
    return {**json.loads(output[-1]), "busy_with_others": busy}


def seconds_of_others():
    """Returns the CPU-seconds of all programs but this one and its finished workers, since boot; nan but on Linux."""
    columns = read_text("/proc/stat").partition("\n")[0].split()[1:9]
    if not columns:
        return math.nan
    user, nice, system, _idle, _io_wait, *interrupts_and_stolen = map(int, columns)
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


# What follows, up to `seconds_of`, runs in the worker's process.


def work(task):
    """Makes one measurement and returns it."""
    if task["cores"] and task["backend"] != "jax gpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["cores"]])
    measure = {"train": measure_training, "files": measure_files, "predict": measure_predict, "gpu": measure_gpu}
    return measure[task["kind"]](task)


def measure_training(task):
    """Returns the seconds of import, build, trace, first call and later steps, and the process's peak memory."""
    import resource

    prepare = prepare_torch if task["backend"] == "torch" else prepare_keras
    imported, built, step, traces = prepare(task, *batch(16))
    loss = float(step())
    done = time.time()
    wall, cpu = steady(step, task)
    return {
        "import_s": imported - task["started"],
        "build_s": built - imported,
        "trace_s": sum(traces),
        "first_call_s": done - built,
        "first_step_s": done - task["started"],
        "first_loss": loss,
        "step_wall_s": wall,
        "step_cpu_s": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,  # Linux counts in KiB
    }


def prepare_keras(task, images, labels):
    """Returns the times when imports and building ended, a function of one step, and a list of seconds of tracing."""
    import keras

    if task["contestant"] in OURS:
        import keras_preact  # noqa: F401
    imported = time.time()
    network = keras_network(task)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", **compiled(task))
    built, traces, train_step = time.time(), [], network.train_step

    def timed_train_step(*arguments):  # called to be traced, never once it is compiled
        start = time.perf_counter()
        result = train_step(*arguments)
        traces.append(time.perf_counter() - start)
        return result

    network.train_step = timed_train_step
    return imported, built, lambda: network.train_on_batch(images, labels), traces


def prepare_torch(task, images, labels):
    """Returns what `prepare_keras` returns; nothing is traced."""
    import torch_eager

    imported = time.time()
    network = torch_eager.torch_network(task["depth"])
    check_parameters(network.parameters(), task["depth"])
    step = torch_eager.training_step(network, images, labels)
    return imported, time.time(), step, []


def measure_files(task):
    """Returns the seconds to save and load weights, to export and reload a SavedModel, and its graph's size."""
    import tensorflow as tf

    network = keras_network(task)
    with tempfile.TemporaryDirectory() as folder:
        weights, exported = f"{folder}/network.weights.h5", f"{folder}/exported"
        seconds = {
            "save_weights_s": seconds_of(lambda: network.save_weights(weights)),
            "load_weights_s": seconds_of(lambda: network.load_weights(weights)),
            "export_s": seconds_of(lambda: network.export(exported, verbose=False)),
            "reload_s": seconds_of(lambda: tf.saved_model.load(exported)),
        }
        return {**seconds, "graph_mb": pathlib.Path(exported, "saved_model.pb").stat().st_size / 1e6}


def measure_predict(task):
    """Returns the CPU-seconds of a compiled inference on 16 images, and, for ours, of the one frozen to constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    network = keras_network(task)
    for variable in network.weights:  # an untrained network of 1001 layers overflows in inference
        if variable.name.endswith("gamma"):
            variable.assign(variable * 0.5)
    images = tf.constant(batch(16)[0])
    function = tf.function(lambda images: network(images, training=False)).get_concrete_function(images)
    assert math.isfinite(float(tf.reduce_sum(function(images))))
    seconds = {"predict_cpu_s": steady(lambda: function(images).numpy(), task)[1]}
    if task["contestant"] in OURS:
        frozen = convert_variables_to_constants_v2(function)
        difference = float(tf.reduce_max(tf.abs(frozen(images)[0] - function(images))))
        assert difference < 1e-4, difference
        seconds["frozen_cpu_s"] = steady(lambda: frozen(images)[0].numpy(), task)[1]
    return seconds


def measure_gpu(task):
    """Returns images per second of `fit` in bfloat16, seconds to the first step, and the GPU's peak memory."""
    import jax
    import keras
    import numpy as np

    network = keras_network(task, dtype="mixed_bfloat16")
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    images, labels = batch(128)
    network.train_on_batch(images, labels)
    first_step = time.time() - task["started"]
    steps = 10 * task["steps"]
    images, labels = np.tile(images, (steps, 1, 1, 1)), np.tile(labels, steps)
    network.fit(images, labels, 128, shuffle=False, verbose=0)
    seconds = [seconds_of(lambda: network.fit(images, labels, 128, shuffle=False, verbose=0)) for _ in range(3)]
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "first_step_s": first_step,
        "images_per_s": [len(images) / value for value in seconds],
        "peak_mb": memory.get("peak_bytes_in_use", math.nan) / 1e6,
    }


def keras_network(task, **arguments):
    """Returns the contestant's `keras.Model`."""
    if task["contestant"] == "plain":
        from plain import plain_network

        network = plain_network(task["depth"])
    else:
        import keras_preact

        network = keras_preact.ResNet(task["depth"], unit="bottleneck", **OURS[task["contestant"]], **arguments)
    check_parameters(network.trainable_weights, task["depth"])
    return network


def compiled(task):
    """Returns arguments of `compile`: TensorFlow's XLA takes several times as long on a CPU; ours knows that."""
    return {"jit_compile": False} if task["backend"] == "tensorflow" and task["contestant"] == "plain" else {}


def check_parameters(parameters, depth):
    """Checks that the contestants are the same network: 1,703,258 trainable parameters at depth 164."""
    count, units = sum(math.prod(parameter.shape) for parameter in parameters), (depth - 2) // 9
    assert count == 126_746 + 92_736 * (units - 1), (depth, count)


def batch(size):
    """Returns random images (size, 32, 32, 3), float32, and labels (size,), int32."""
    import numpy as np

    generator = np.random.default_rng(0)
    return generator.standard_normal((size, 32, 32, 3), "float32"), generator.integers(0, 10, size, "int32")


def steady(function, task):
    """Calls a function some times, then measures as many times as the task says; returns wall and CPU-seconds."""
    for _ in range(task["warm_ups"]):
        function()
    wall, cpu = [], []
    for _ in range(task["steps"]):
        start, cpu_start = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return wall, cpu


def seconds_of(function):
    """Returns the wall seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# The report.

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
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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


if __name__ == "__main__":
    main()
