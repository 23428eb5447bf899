"""Checkpoints that a run resumes from: whole or not there, checked when read, the last two kept."""

import hashlib
import json
import os
import pathlib
import shutil
import warnings
import zipfile
from dataclasses import dataclass

import numpy as np

from keras_preact.errors import argument_error
from keras_preact.files import written_aside

KEPT = 2
SUMS = "SHA256SUMS"
ARRAYS, STATE = "arrays.npz", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Holds what a run needs to go on.

    Attributes:
        step: Training steps done.
        arrays: Weights, states of random generators, the optimizer's variables and metrics, by name.
        state: History and counters of callbacks: what JSON can hold.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict


def save(folder, checkpoint):
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
            np.savez(file, **checkpoint.arrays)
            _flush(file)
        with open(aside / STATE, "w", encoding="utf-8") as file:
            json.dump(checkpoint.state, file)
            _flush(file)
        with open(aside / SUMS, "w", encoding="utf-8") as file:
            file.writelines(f"{_digest(aside / name)}  {name}\n" for name in (ARRAYS, STATE))
            _flush(file)
    for old in _folders(folder)[:-KEPT]:
        shutil.rmtree(old)


def newest(folder):
    """Returns the last `Checkpoint` in `folder` that is whole, or None; a damaged one is passed over with a warning.

    Raises:
        ValueError: If there are checkpoints and none is whole.
    """
    folder = pathlib.Path(folder)
    found = _folders(folder)
    for path in reversed(found):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"The checkpoint {path} is damaged ({error}); trying the one before it.", stacklevel=2)
    if found:
        hint = "Pass --overwrite (overwrite=True) to start anew."
        raise argument_error("output", "a run of which one checkpoint at least is whole", str(folder), hint)
    return None


def clean(folder):
    """Removes what a killed process left half written."""
    for path in pathlib.Path(folder).glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def _folders(folder):
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _read(path):
    sums = (path / SUMS).read_text(encoding="utf-8").splitlines()
    expected = dict(reversed(line.split("  ", 1)) for line in sums)
    for name in (ARRAYS, STATE):
        if expected.get(name) != _digest(path / name):
            raise ValueError(f"{name} is not what {SUMS} says")
    with np.load(path / ARRAYS) as arrays:
        return Checkpoint(int(path.name), dict(arrays), json.loads((path / STATE).read_text(encoding="utf-8")))


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file):
    file.flush()
    os.fsync(file.fileno())
