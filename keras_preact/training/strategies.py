"""On which devices a run computes. With `network/replicas.py`, the one file that names `tf.distribute`."""

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_preact.errors import argument_error, check_choice, check_number
from keras_preact.keras_hooks import value_of_replica
from keras_preact.training.strategy_table import BACKENDS, STRATEGIES

START_DEADLINE = 60.0
DEADLINE = "KERAS_PREACT_START_DEADLINE"


@dataclass(frozen=True)
class Devices:
    """Says where a run computes.

    Attributes:
        name: The strategy, without `"auto"`.
        replicas: Copies of the network that share a global batch.
        kind: `"CPU"`, `"GPU"` or `"TPU"`.
        workers: Processes that run the same command, each with `replicas / workers` copies.
        worker: This one's number; number 0 writes the files.
        strategy: A `tf.distribute.Strategy` or a `keras.distribution.Distribution`, or None.
        functions: TensorFlow functions made so far.
        failures: What the batches that `dataset` reads have raised.
    """

    name: str
    replicas: int
    kind: str
    workers: int = 1
    worker: int = 0
    strategy: Any = None
    functions: dict = field(default_factory=dict, repr=False)
    failures: list[Exception] = field(default_factory=list, repr=False)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.worker == 0

    @property
    def on_tensorflow(self) -> bool:
        """Whether `strategy` is one of TensorFlow's."""
        return self.strategy is not None and self.name != "jax_data_parallel"

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which variables are made and training runs."""
        return self.strategy.scope() if self.strategy is not None else contextlib.nullcontext()

    def check_batch(self, name: str, size: int, each: int = 1) -> None:
        """Raises a `ValueError` if `size` images, the argument `name`, are no equal multiples of `each` per replica."""
        unit = self.replicas * each
        if size % unit:
            near = max(unit, size - size % unit)
            what = f"{each} for each of the {self.replicas} replicas" if each > 1 else f"the {self.replicas} replicas"
            hint = f"A batch of {size} leaves a replica with fewer images, or none. Nearest: {near}."
            raise argument_error(name, f"a multiple of {what}", size, hint)

    def dataset(self, generate: Callable[[], Iterator[Any]], spec: Any) -> Any:
        """Returns what `fit` reads.

        Args:
            generate: A function without arguments that returns an endless generator of this worker's share of each
                batch, as nested tuples and dicts of arrays.
            spec: The same structure of (shape, dtype), shapes with the share's size first.
        """
        if keras.backend.backend() != "tensorflow":
            return generate()
        import tensorflow as tf

        local = self.replicas // self.workers

        def signature(leaf):
            (size, *rest), dtype = leaf
            return tf.TensorSpec((size // local, *rest), dtype)

        def parts():
            try:
                for batch in generate():
                    for part in range(local):
                        yield _map(lambda array: np.split(array, local)[part], batch) if local > 1 else batch  # noqa: B023
            except Exception as error:  # TensorFlow raises one of its own in place of it
                self.failures.append(error)
                raise

        def make(_context=None):
            made = tf.data.Dataset.from_generator(parts, output_signature=_map(signature, spec)).prefetch(2)
            options = tf.data.Options()
            options.autotune.enabled = False  # an iterator's end waits for its thread, up to a minute
            return made.with_options(options)

        return self.strategy.distribute_datasets_from_function(make) if self.strategy is not None else make()

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raises what the batches of `dataset` raised in the body, where the backend raises an error of its own."""
        self.failures.clear()
        try:
            yield
        except Exception as error:
            if self.failures and error is not self.failures[0]:
                raise self.failures[0] from error
            raise

    def gather(self, values: Sequence[keras.Variable]) -> np.ndarray:
        """Returns one row per replica of all workers, (replicas, n), of a list of n variables' scalars."""
        if self.replicas == 1 or not self.on_tensorflow:
            return np.array([[read(variable) for variable in values]], "float64")
        import tensorflow as tf

        def rows():
            row = self.strategy.run(
                lambda: tf.stack([tf.cast(value_of_replica(value), tf.float64) for value in values])[None]
            )
            return self.strategy.gather(row, axis=0)

        return self._traced("gather", rows)().numpy()

    def barrier(self) -> None:
        """Waits until every worker is here."""
        self.agree("nothing", 0)

    def agree(self, what: str, number: int, hint: str = "") -> None:
        """Raises a `RuntimeError` if `number` is not the same in every worker; `hint` is what to do then."""
        numbers = self._of_all(number)
        if len(set(numbers)) > 1:
            raise RuntimeError(f"The workers differ in {what}: {numbers}. {hint}".strip())

    def total(self, number: int) -> int:
        """Returns the sum of each worker's whole `number`."""
        return sum(self._of_all(number))

    def _of_all(self, number):
        """Returns the whole `number` of each worker, a list."""
        if self.workers == 1:
            return [number]
        if self.on_tensorflow:
            import tensorflow as tf

            def gather(number):
                return self.strategy.gather(self.strategy.run(lambda: number), axis=0)

            numbers = self._traced("of_all", gather)(tf.constant([number], tf.int64)).numpy()
            return numbers[:: self.replicas // self.workers].tolist()
        from jax.experimental import multihost_utils

        return np.ravel(multihost_utils.process_allgather(np.array([number]))).tolist()

    def scatter(self, variables: Sequence[keras.Variable], rows: np.ndarray) -> None:
        """Sets each replica's copy of the n scalar `variables` to its row of `rows` (replicas, n).

        Rows of another number of replicas are added up: the variables are totals and counts.
        """
        if rows.shape[1] != len(variables):
            expected = "a run of this version, whose checkpoint holds its metrics"
            raise argument_error("output", expected, f"{rows.shape[1]} numbers in place of {len(variables)}")
        if len(rows) != (self.replicas if self.on_tensorflow else 1):
            rows = np.concatenate([rows.sum(0, keepdims=True), np.zeros((self.replicas - 1, rows.shape[1]))])
        if self.replicas == 1 or not self.on_tensorflow:
            for variable, value in zip(variables, rows[0], strict=True):
                variable.assign(value)
            return
        import tensorflow as tf

        local = self.replicas // self.workers
        mine = rows[self.worker * local :][:local]

        def assign():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group % local
            row = tf.gather(tf.constant(mine), replica)
            for index, variable in enumerate(variables):
                value_of_replica(variable).assign(tf.cast(row[index], variable.dtype))

        self._traced("scatter", lambda: self.strategy.run(assign))()

    def _traced(self, name, function):
        """Returns `function` as one of TensorFlow's, the same at each call."""
        import tensorflow as tf

        return self.functions.setdefault(name, tf.function(function))


def _map(function, structure):
    """Applies `function` to the leaves of nested tuples and dicts; a (shape, dtype) pair is a leaf."""
    if isinstance(structure, dict):
        return {name: _map(function, part) for name, part in structure.items()}
    if isinstance(structure, tuple) and not (len(structure) == 2 and isinstance(structure[1], str)):
        return tuple(_map(function, part) for part in structure)
    return function(structure)


def read(variable: keras.Variable) -> np.ndarray:
    """Returns a Keras variable's value as an array: under a strategy, the first local replica's."""
    value = variable.value
    if hasattr(value, "addressable_data"):  # JAX, where other processes may hold copies too
        return np.asarray(value.addressable_data(0))
    if hasattr(value, "values"):  # a copy per replica
        return value.values[0].numpy()
    return np.asarray(keras.ops.convert_to_numpy(value))


def make_devices(name: str) -> Devices:
    """Returns the `Devices` of a strategy.

    Args:
        name: `"none"`: one device. On TensorFlow, `"mirrored"`: all local GPUs, or CPUs if there are none;
            `"multi_worker"`: the processes that the variable TF_CONFIG lists; `"tpu"`: the TPU that TPU_NAME names, or
            this machine's. On JAX, `"jax_data_parallel"`: all local devices, or those of all processes if the
            KERAS_DISTRIBUTION variables are set. `"auto"`: what these variables ask for, else all local devices, of
            which a CPU alone is `"none"`.

    Raises:
        ValueError: If the strategy is unknown, is another backend's, or there are no such devices.
    """
    check_choice("strategy", name, STRATEGIES)
    backend = keras.backend.backend()
    if name == "auto":
        name = _automatic(backend)
    if backend not in BACKENDS[name]:
        fitting = ", ".join(f'"{known}"' for known, backends in BACKENDS.items() if backend in backends)
        raise argument_error("strategy", f'"auto" or one of {fitting} on the {backend} backend', name)
    return {
        "none": _one_device,
        "mirrored": _mirrored,
        "multi_worker": _multi_worker,
        "tpu": _tpu,
        "jax_data_parallel": _jax_data_parallel,
    }[name]()


def _automatic(backend):
    if backend == "tensorflow":
        if "cluster" in _tf_config():
            return "multi_worker"
        if os.environ.get("TPU_NAME"):
            return "tpu"
        import tensorflow as tf

        return "mirrored" if len(tf.config.list_logical_devices()) > 1 else "none"  # for one CPU, slower to trace
    if backend == "jax":
        import jax

        several = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1")) > 1
        return "jax_data_parallel" if several or len(jax.devices()) > 1 else "none"
    return "none"


def _one_device():
    return Devices("none", 1, _kind())


def _kind():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return keras.distribution.list_devices()[0].split(":")[0].upper()


def _mirrored():
    import tensorflow as tf

    kind = _kind()
    strategy = _strategy("MirroredStrategy", tuple(device.name for device in tf.config.list_logical_devices(kind)))
    return Devices("mirrored", strategy.num_replicas_in_sync, kind, strategy=strategy)


@functools.cache
def _strategy(name, *arguments):
    """Returns the process's one strategy of a kind: a second would collide with its collective operations."""
    import tensorflow as tf

    return getattr(tf.distribute, name)(*arguments)


def _tf_config():
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        return json.loads(text)
    except ValueError as error:
        raise argument_error("TF_CONFIG", "JSON", text, str(error)) from error


def _multi_worker():
    config = _tf_config()
    workers, task = config.get("cluster", {}).get("worker", []), config.get("task", {})
    if not workers or task.get("type") != "worker" or task.get("index") not in range(len(workers)):
        expected = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        hint = "Under `keras-preact launch --workers N -- train ...` it is set for you."
        raise argument_error("TF_CONFIG", expected, os.environ.get("TF_CONFIG"), hint)
    with _before_computing("multi_worker"), _deadline(f"the {len(workers)} workers {', '.join(workers)}"):
        strategy = _strategy("MultiWorkerMirroredStrategy")
    replicas = strategy.num_replicas_in_sync
    return Devices("multi_worker", replicas, _kind(), len(workers), task["index"], strategy)


@contextlib.contextmanager
def _before_computing(name):
    """Refuses the strategy `name` where the backend says that it has computed before: it looks for no peers then."""
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("at program startup", "must be called before")):
            raise
        expected = "of one process where a network has been built, or anything else computed, before"
        hint = "Pass trained weights as a file's path or a name, not as a network, so that the peers are found first."
        raise argument_error("strategy", expected, name, hint) from error


# A process of its own, since TensorFlow holds Python's lock while it waits. Its input ends when it is not needed.
_WATCHDOG = """
import os, select, signal, sys
seconds, parent, what = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if not select.select([sys.stdin], [], [], seconds)[0]:
    print(f"keras-preact: not all of {what} came within {seconds:g} s.", file=sys.stderr, flush=True)
    os.kill(parent, signal.SIGKILL)
"""


@contextlib.contextmanager
def _deadline(what):
    """Kills this process if the body takes longer than the deadline: it would wait for an absent peer without end."""
    command = [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(_start_deadline()), str(os.getpid()), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE):  # at the end its input is closed, and it is waited for
        yield


def _start_deadline():
    """Returns the seconds in which all workers of a job must have come."""
    text = os.environ.get(DEADLINE, str(START_DEADLINE))
    try:
        return check_number(DEADLINE, float(text), 0.0, threading.TIMEOUT_MAX)
    except ValueError as error:
        raise argument_error(DEADLINE, "a number of seconds", text) from error


def _tpu():
    import tensorflow as tf

    name = os.environ.get("TPU_NAME", "")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise argument_error("strategy", '"auto" or "none" where there is no TPU', "tpu", str(error)) from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Devices("tpu", strategy.num_replicas_in_sync, "TPU", strategy=strategy)


def _jax_data_parallel():
    import jax

    processes = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1"))
    if processes > 1 and not jax.distributed.is_initialized():
        peers = f"the {processes} processes of {os.environ.get('KERAS_DISTRIBUTION_JOB_ADDRESSES')}"
        with _before_computing("jax_data_parallel"), _deadline(peers):
            keras.distribution.initialize()
    strategy = keras.distribution.DataParallel(devices=keras.distribution.list_devices(), auto_shard_dataset=False)
    replicas = len(keras.distribution.list_devices())
    return Devices("jax_data_parallel", replicas, _kind(), processes, jax.process_index(), strategy)
