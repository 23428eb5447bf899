"""One measurement in a process of its own: a task, as a dict that JSON can hold, becomes numbers by name.

`depth.py` and `steps.py` call `run_worker`; the rest of this file is what the new process runs.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from depth_report import OURS, read_text

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

# What `with_statistics` draws: about what a trained BN has.
STATISTICS = {"gamma": (0.3, 0.7), "beta": (-0.2, 0.2), "moving_mean": (-0.2, 0.2), "moving_variance": (0.8, 1.2)}


def run_worker(task, time_limit):
    """Makes one measurement in a new process; returns numbers and lists of numbers by name, or {"error": text}."""
    # This process stays small: on Linux a child's peak memory starts at its parent's.
    command = [sys.executable, __file__, json.dumps({**task, "started": time.time()})]
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


# What follows runs in the worker's process.


def work(task):
    """Makes one measurement and returns it."""
    if task["cores"] and task["backend"] != "jax gpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task["cores"]])
    measure = {
        "train": measure_training,
        "files": measure_files,
        "predict": measure_predict,
        "inference": measure_inference,
        "gpu": measure_gpu,
        "limits": measure_limits,
    }
    return measure[task["kind"]](task)


def measure_training(task):
    """Returns the seconds of import, build, trace, first call and later steps, and the process's peak memory."""
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
        "peak_mb": peak_mb(),
    }


def peak_mb():
    """Returns the peak memory of this process."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts in KiB


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


def measure_inference(task):
    """Returns the seconds to the first answer, with imports and building, those of later ones, and the peak memory."""
    prepare = torch_inference if task["backend"] == "torch" else keras_inference
    start, answer = time.perf_counter(), prepare(task, batch(task["batch"])[0])
    probabilities = answer()
    first = time.perf_counter() - start
    assert abs(float(probabilities.sum()) - task["batch"]) < 0.02 * task["batch"], probabilities
    wall, cpu = steady(answer, task)
    return {"first_call_s": first, "step_wall_s": wall, "step_cpu_s": cpu, "peak_mb": peak_mb()}


def keras_inference(task, images):
    """Returns a function that computes the probabilities of the images: frozen, or as a `tf.function`."""
    import keras
    import tensorflow as tf

    keras.config.set_dtype_policy(task["precision"])
    network, images = with_statistics(keras_network(task)), tf.constant(images)
    if task["contestant"] in OURS:
        from keras_preact.network.frozen import frozen_function

        function = frozen_function(network)
    else:
        signature = [tf.TensorSpec((None, 32, 32, 3), images.dtype)]
        function = tf.function(lambda images: network(images, training=False), input_signature=signature)
    return lambda: tf.cast(function(images), tf.float32).numpy()


def torch_inference(task, images):
    """Returns a function that computes the probabilities of the images in torch, compiled or eager."""
    import torch_eager

    network = torch_eager.torch_network(task["depth"])
    check_parameters(network.parameters(), task["depth"])
    torch_eager.set_statistics(network, **STATISTICS)
    return torch_eager.inference(network, images, task["precision"], task["contestant"] == "torch compiled")


def with_statistics(network):
    """Gives every BN what a trained one has, and returns the network.

    An untrained network of 1001 layers overflows in inference, and TensorFlow leaves out an offset of zero.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    for variable in network.weights:
        for name, (low, high) in STATISTICS.items():
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
    print(json.dumps(work(json.loads(sys.argv[1]))))
