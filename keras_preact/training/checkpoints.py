"""Checkpoints that a run resumes from: whole or not there, checked when read, the last two kept."""

import json
import math
import pathlib
import shutil
import warnings
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_preact import bounds
from keras_preact.errors import argument_error
from keras_preact.files import remove_asides, sha256, written_aside
from keras_preact.types import PathLike

KEPT = 2
SUMS = "SHA256SUMS"
ARRAYS, STATE, PROCESSES = "arrays.npz", "state.json", "processes.json"


@dataclass(frozen=True)
class Checkpoint:
    """Holds what a run needs to resume.

    Attributes:
        step: Training steps done.
        arrays: Weights, states of random generators, the optimizer's variables and metrics, by name.
        state: History, counters of callbacks, and whether something ended the training: what JSON can hold.
        processes: What `Processes.plain` says of each process up to now; two runs of one result differ in it.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]
    processes: list[dict[str, Any]] = field(default_factory=list)


def save(folder: PathLike, checkpoint: Checkpoint) -> None:
    """Writes a `Checkpoint` into `folder`, and removes all but the last two.

    Raises:
        FloatingPointError: If an array is not finite; nothing is written.
        OSError: If it cannot be written (disk full, no permission); those before it stay.
    """
    for name, array in checkpoint.arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError(f"{name} is not finite after step {checkpoint.step}; it is not saved.")
    folder = pathlib.Path(folder)
    with written_aside(folder / f"{checkpoint.step:09d}") as aside:
        aside.mkdir()
        with open(aside / ARRAYS, "wb") as file:
            arrays: dict[str, Any] = checkpoint.arrays
            np.savez(file, **arrays)
        for name, content in ((STATE, checkpoint.state), (PROCESSES, checkpoint.processes)):
            with open(aside / name, "w", encoding="utf-8") as file:
                json.dump(content, file)
        with open(aside / SUMS, "w", encoding="utf-8") as file:
            file.writelines(f"{sha256(aside / name)}  {name}\n" for name in (ARRAYS, STATE, PROCESSES))
    found = _folders(folder)
    here = found.index(folder / f"{checkpoint.step:09d}") + 1
    for other in (*found[: max(0, here - KEPT)], *found[here:]):  # a later one was damaged: this run began before it
        shutil.rmtree(other)


def newest(folder: PathLike) -> Checkpoint | None:
    """Returns the last `Checkpoint` in `folder` that is whole, or None; a damaged one is passed over with a warning.

    Raises:
        ValueError: If there are checkpoints and none is whole.
    """
    folder = pathlib.Path(folder)
    found = _folders(folder)
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            warnings.warn(f"The checkpoint {path} is damaged ({error}); trying the one before it.", stacklevel=2)
    if found:
        hint = "Pass --overwrite (overwrite=True) to start anew."
        raise argument_error("output", "a run of which one checkpoint at least is whole", str(folder), hint)
    return None


def clean(folder: PathLike) -> None:
    """Removes what killed processes left half written."""
    remove_asides(folder, is_ours=True)


def _folders(folder):
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _read(path):
    for name in (SUMS, STATE, PROCESSES):
        if (path / name).exists() and (size := (path / name).stat().st_size) > bounds.CONFIG_BYTES:
            raise ValueError(f"{name} has {size:,} bytes, above {bounds.CONFIG_BYTES:,}")
    sums = (path / SUMS).read_text(encoding="utf-8").splitlines()
    expected = dict(reversed(line.split("  ", 1)) for line in sums)
    has_processes = PROCESSES in expected or (path / PROCESSES).exists()  # older checkpoints have none
    names = (ARRAYS, STATE, *([PROCESSES] if has_processes else []))
    for name in names:
        if expected.get(name) != sha256(path / name):
            raise ValueError(f"{name} is not what {SUMS} says")
    check_arrays(path / ARRAYS)
    with np.load(path / ARRAYS) as arrays:
        plain = [json.loads((path / name).read_text(encoding="utf-8")) for name in names[1:]]
        return Checkpoint(int(path.name), dict(arrays), *plain)


def check_arrays(path: pathlib.Path) -> None:
    """Raises a `ValueError` if an `.npz` file says that it holds more than its bytes can, before it is unpacked."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(bounds.UNPACKED * size, bounds.UNPACKED_FREE):
            raise ValueError(f"{path.name} is said to unpack to {unpacked:,} bytes, being one of {size:,}")
        for member in archive.infolist():
            with archive.open(member) as file:
                claimed = _claimed(file)
            if claimed > member.file_size:
                raise ValueError(f"{member.filename} is said to hold {claimed:,} bytes in {member.file_size:,}")


def _claimed(file):
    """Returns the bytes that an open `.npy` file says it has."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
    return math.prod(shape) * dtype.itemsize
