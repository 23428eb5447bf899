"""Measures what depth costs: ResNets of 11 to 1001 layers in this package, in plain Keras layers, and in eager torch.

    python examples/benchmarks/depth.py                         # everything on the CPU: over an hour on two cores
    python examples/benchmarks/depth.py --quick                 # a smoke test of some minutes, depths 29 and 56
    python examples/benchmarks/depth.py --what train --depths 164
    python examples/benchmarks/depth.py --gpu --what --keep     # the GPU section alone, added to what FOLDER holds

The network is the CIFAR pre-activation bottleneck ResNet, float32, batch 16, SGD with momentum. The contestants:

    plain       one stock Keras layer per operation (`plain.py`), compiled with jit_compile=False on TensorFlow
    stacked     `ResNet(depth, family="cifar", unit="bottleneck")`; also with remat=True; on a GPU at each unroll
    torch       eager PyTorch, channels_last (`torch_eager.py`), if torch is installed

`--what` chooses among

    train       TensorFlow and torch: seconds from the process's start to the end of the first training step, and its
                parts; steady steps in wall and CPU-seconds; the process's peak memory
    files       save_weights, load_weights, `model.export`, the size of saved_model.pb, `tf.saved_model.load`
    predict     CPU-seconds of a `tf.function` of the model; ours also as `keras_preact.network.frozen.frozen_function`
    jax         `train` on JAX
    curve       one round of `train` and `files` at those of the depths 11, 56, 164, 326, 1001 not in `--depths`

and `--gpu` adds training on one GPU (JAX, mixed_bfloat16, batch 128) at each `unroll`, with and without `remat`.

Every measurement has a process of its own, on `--cores` cores; the contestants take turns, A B A B, so that a machine
that drifts does so for all. A ratio is the median over the rounds of one round's ratio. FOLDER gets `measurements.csv`
(every raw number), `report.txt` (the ratios beside the bars the project sets itself), `environment.json` and
`depth.png`.

Other programs disturb the numbers, those of torch most (tenfold and more): its threads spin while they wait. So each
measurement says how many processors they kept busy meanwhile; the report leaves out the rounds in which that was more
than BUSY, if others are left, and marks the line if not.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import depth_report
from depth_report import CURVE_DEPTHS, OURS

TRAIN = ("train", "tensorflow", ("plain", "stacked", "stacked remat")), ("train", "torch", ("torch",))
FILES = (("files", "tensorflow", ("plain", "stacked")),)
SECTIONS = {  # section: rows of (kind of measurement, backend, contestants)
    "train": TRAIN,
    "files": FILES,
    "predict": (("predict", "tensorflow", ("plain", "stacked")),),
    "jax": (("train", "jax", ("plain", "stacked", "stacked remat")),),
    "curve": TRAIN + FILES,
    "gpu": (("gpu", "jax gpu", tuple(OURS)),),
}
PLAIN_ON_JAX = 326  # the deepest: plain ResNet-1001 has not compiled there after 400 s, at 22 GB of memory

ENVIRONMENTS = {
    "tensorflow": {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),  # as `keras-preact` has it
    },
    "torch": {"CUDA_VISIBLE_DEVICES": "-1"},
    "jax": {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    "jax gpu": {"KERAS_BACKEND": "jax"},
}


def main():
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    folder = pathlib.Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    rows = depth_report.read_rows(folder / "measurements.csv") if arguments.keep else []
    tasks = list_tasks(arguments, first_round=1 + max((row["round"] for row in rows), default=0))
    (folder / "environment.json").write_text(
        json.dumps(depth_report.environment(arguments), indent=2) + "\n", encoding="utf-8"
    )
    for number, task in enumerate(tasks, start=1):
        measured = run_worker(task, arguments.time_limit)
        rows += depth_report.to_rows(task, measured)
        depth_report.write_rows(folder / "measurements.csv", rows)
        print(f"[{number}/{len(tasks)}] {depth_report.describe(task, measured)}", flush=True)
    report = "\n".join(depth_report.report_lines(rows, arguments.depths))
    (folder / "report.txt").write_text(report + "\n", encoding="utf-8")
    print(report)
    depth_report.draw(rows, folder / "depth.png")


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
    columns = depth_report.read_text("/proc/stat").partition("\n")[0].split()[1:9]
    if not columns:
        return math.nan
    user, nice, system, _idle, _io_wait, *interrupts_and_stolen = map(int, columns)
    return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


# What follows, up to `seconds_of`, runs in the worker's process.


def work(task):
    """Makes one measurement and returns it."""
    if task["cores"] and task["backend"] != "jax gpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["cores"]])
    measure = {
        "train": measure_training,
        "files": measure_files,
        "predict": measure_predict,
        "gpu": measure_gpu,
        "limits": measure_limits,
    }
    return measure[task["kind"]](task)


def measure_training(task):
    """Returns the seconds of import, build, trace, first call and later steps, and the process's peak memory."""
    import resource

    prepare = prepare_torch if task["backend"] == "torch" else prepare_keras
    imported, built, step, traces = prepare(task, *batch(task.get("batch", 16)))
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
    keras.config.set_dtype_policy(task.get("precision", "float32"))
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
    import torch
    import torch_eager

    imported = time.time()
    network = torch_eager.torch_network(task["depth"])
    check_parameters(network.parameters(), task["depth"])
    is_compiled, precision = task["contestant"] == "torch compiled", task.get("precision", "float32")
    network = torch.compile(network) if is_compiled else network
    step = torch_eager.training_step(network, images, labels, precision)
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

    network = with_statistics(keras_network(task))
    images = tf.constant(batch(16)[0])
    signature = [tf.TensorSpec((None, 32, 32, 3), images.dtype)]
    function = tf.function(lambda images: network(images, training=False), input_signature=signature)
    expected = function(images)
    assert math.isfinite(float(tf.reduce_sum(expected)))
    seconds = {"predict_cpu_s": steady(lambda: function(images).numpy(), task)[1]}
    if task["contestant"] in OURS:
        from keras_preact.network.frozen import frozen_function

        frozen = frozen_function(network)
        difference = float(tf.reduce_max(tf.abs(frozen(images) - expected)))
        assert difference < 1e-4, difference
        seconds["frozen_cpu_s"] = steady(lambda: frozen(images).numpy(), task)[1]
    return seconds


def with_statistics(network):
    """Gives every BN what a trained one has, and returns the network.

    An untrained network of 1001 layers overflows in inference, and TensorFlow leaves out an offset of zero.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    ranges = {"gamma": (0.3, 0.7), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "moving_variance": (0.8, 1.2)}
    for variable in network.weights:
        for name, (low, high) in ranges.items():
            if variable.name.endswith(name):
                variable.assign(generator.uniform(low, high, variable.shape))
    return network


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


def measure_limits(task):
    """Returns what the machine can do in torch."""
    from torch_eager import limits

    return limits(lambda function: min(steady(function, task)[0]))


def keras_network(task, **arguments):
    """Returns the contestant's `keras.Model`."""
    if task["contestant"] == "plain":
        from plain import plain_network

        network = plain_network(task["depth"])
    else:
        import keras_preact

        options = {"family": "cifar", "unit": "bottleneck", "layout": "stacked", **OURS[task["contestant"]]}
        network = keras_preact.ResNet(task["depth"], **options, **arguments)
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


if __name__ == "__main__":
    main()
