"""timm's `resnetv2_50` and `resnetv2_101`: safetensors with torch's names and layout."""

import contextlib
import re
from collections.abc import Iterator

import numpy as np

from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.spec import NetworkSpec
from keras_preact.types import PathLike

__all__ = ["our_array", "our_name", "read"]

UNIT = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(?:(conv|norm)(\d)|(downsample\.conv))\.(\w+)")
OTHERS = {"stem.conv": "stem_conv", "norm": "final_bn", "head.fc": CLASSIFIER}
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CONV = {"weight": "kernel", "bias": "bias"}


class _Stored:
    """An array of an open safetensors file, not read yet."""

    def __init__(self, file, name):
        self._file, self._name, self.shape = file, name, tuple(file.get_slice(name).get_shape())

    def __getitem__(self, index):
        return self._file.get_tensor(self._name)[index]  # before safetensors 0.8 a slice is not known by `...`


@contextlib.contextmanager
def read(path: PathLike) -> Iterator[dict[str, _Stored]]:
    """Yields {name: array, not read yet} of a safetensors file."""
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        yield {name: _Stored(file, name) for name in file.keys()}  # noqa: SIM118


def our_name(theirs: str, spec: NetworkSpec) -> str | None:
    """Returns what we call the array `theirs`; None for torch's counts of batches, unknown names unchanged."""
    if theirs.endswith(".num_batches_tracked"):
        return None
    if found := UNIT.fullmatch(theirs):
        stage, unit, kind, number, downsample, variable = found.groups()
        try:
            unit_name = spec.stages[int(stage)][int(unit)].name
        except IndexError:
            return theirs
        part = "shortcut_conv" if downsample else f"{'bn' if kind == 'norm' else 'conv'}{number}"
        return f"{unit_name}_{part}/{(NORM if kind == 'norm' else CONV).get(variable, variable)}"
    layer, _, variable = theirs.rpartition(".")
    names = NORM if layer == "norm" else CONV
    return f"{OTHERS[layer]}/{names.get(variable, variable)}" if layer in OTHERS else theirs


def our_array(array: np.ndarray, rank: int) -> np.ndarray:
    """Returns torch's (out, in, height, width) as (height, width, in, out), for our Dense classifier as (in, out)."""
    if array.ndim != 4:
        return array
    array = array.transpose(2, 3, 1, 0)
    return array[0, 0] if rank == 2 and array.shape[:2] == (1, 1) else array
