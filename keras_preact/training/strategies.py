"""On which devices a run computes. The one file that names `tf.distribute`."""

import contextlib
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.errors import argument_error, check_choice

STRATEGIES = ("auto", "none", "mirrored")


@dataclass(frozen=True)
class Devices:
    """Says where a run computes: `scope()` is entered to build and compile, `replicas` share a batch."""

    name: str
    replicas: int
    kind: str
    strategy: Any = None

    def scope(self):
        """Returns the context in which variables are made."""
        return self.strategy.scope() if self.strategy is not None else contextlib.nullcontext()


def make_devices(name):
    """Returns the `Devices` of a strategy.

    Args:
        name: `"mirrored"`: `tf.distribute.MirroredStrategy` over the local GPUs, or CPUs if there are none; `"none"`:
            one device; `"auto"`: mirrored on TensorFlow, none elsewhere.

    Raises:
        ValueError: If the strategy is unknown, or is TensorFlow's on another backend.
    """
    check_choice("strategy", name, STRATEGIES)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        if name == "mirrored":
            raise argument_error("strategy", f'"none" or "auto" on the {backend} backend', name)
        return Devices("none", 1, backend)
    import tensorflow as tf

    gpus, cpus = tf.config.list_logical_devices("GPU"), tf.config.list_logical_devices("CPU")
    kind = "GPU" if gpus else "CPU"
    if name == "none":
        return Devices("none", 1, kind)
    strategy = tf.distribute.MirroredStrategy([device.name for device in gpus or cpus])
    return Devices("mirrored", strategy.num_replicas_in_sync, kind, strategy)


def check_batch(count, batch_size, replicas):
    """Raises a `ValueError` if `count` images in batches of `batch_size` leave a replica without an image.

    TensorFlow gives each replica ceil(n / replicas) images of a batch of n until none is left; an empty share is an
    error on CPUs, and silently NaN elsewhere.
    """
    last = count % batch_size or batch_size
    for size in {min(count, batch_size), last}:
        if (replicas - 1) * -(-size // replicas) >= size:
            hint = f"A batch of {size} leaves one of {replicas} replicas empty."
            raise argument_error("batch_size", f"one that fills {replicas} replicas", batch_size, hint)
