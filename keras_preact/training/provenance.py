"""Where a published number comes from: command, device, versions, commit, date."""

import datetime
import importlib
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import keras

from keras_preact.names import command_line
from keras_preact.version import __version__


def provenance() -> dict[str, Any]:
    """Returns what a published number carries, as JSON holds it."""
    return {
        "command": command_line(sys.argv),
        "device": device_name(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def device_name() -> str:
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
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {name}"


def suited_precision(cpu_flags: str | None = None, backend: str | None = None) -> str | None:
    """Returns a sentence on the precision that suits this machine's processor; None where it cannot be told.

    Args:
        cpu_flags: What the processor can do, in Linux' words; by default those of `/proc/cpuinfo`.
        backend: Keras' backend; by default the present one.
    """
    if cpu_flags is None:
        cpu_flags = _cpu_info("flags") or _cpu_info("Features")  # of x86, of ARM
    if not cpu_flags:
        return None
    if (backend or keras.backend.backend()) == "jax":  # docs/benchmarks.md
        return "On a CPU JAX trains faster in float32 than in bfloat16."
    if {"avx512_bf16", "amx_bf16", "bf16"} & set(cpu_flags.split()):
        return "This CPU computes bfloat16 natively: train with --precision mixed_bfloat16."
    return "This CPU does not compute bfloat16 natively: float32 trains faster on it."


def _cpu_info(field):
    """Returns a field of the first processor in `/proc/cpuinfo`; empty if there is none."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def commit(folder: pathlib.Path = pathlib.Path(__file__).parents[2]) -> str | None:
    """Returns the commit that a folder, this package's, is a checkout of, with `-dirty` if files differ; else None."""
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Returns the versions of this package, Python, Keras, its backend and NumPy, by name."""
    names = ("keras", keras.backend.backend(), "numpy")
    return {
        "keras_preact": __version__,
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in names},
    }
