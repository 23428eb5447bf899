"""Where a figure comes from: command, device, versions, commit, date."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import keras

from keras_preact.names import command_line
from keras_preact.version import __version__


def provenance():
    """Returns what a published figure carries, as JSON holds it."""
    return {
        "command": command_line(sys.argv),
        "device": device_name(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def device_name():
    """Returns the name of the first accelerator, or of the processor and how many there are."""
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        return _processor() if device.platform == "cpu" else device.device_kind
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    return _processor()


def _processor():
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in _lines(info) if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}"


def _lines(path):
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def commit():
    """Returns the commit that this package is a checkout of, or None."""
    folder = pathlib.Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "describe", "--always"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def versions():
    """Returns the versions of this package, Python, Keras, its backend and NumPy, by name."""
    names = ("keras", keras.backend.backend(), "numpy")
    return {
        "keras_preact": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
