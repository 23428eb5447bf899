"""Other authors' weights files as arrays with our names: one module per source, everything of the file used, once.

A source says how its files are read (`read`), what we call an array of theirs (`our_name`: None for what we have no
use of), and how an array is laid out for us (`our_array`, where that differs).
"""

import contextlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_preact.errors import argument_error, check_choice
from keras_preact.names import add_row
from keras_preact.network.spec import NetworkSpec
from keras_preact.types import PathLike
from keras_preact.weights.converters import keras_applications, osmr, timm

CONVERTERS: dict[str, Any] = {  # modules, and what stands for one: `_Registered`
    "osmr": osmr,
    "keras_applications": keras_applications,
    "timm": timm,
}


@dataclass(frozen=True)
class _Registered:
    """A source of one's own, with what a module of this folder has."""

    place: tuple
    functions: tuple = field(compare=False)

    def read(self, path):
        stored = self.functions[0](path)
        return stored if hasattr(stored, "__exit__") else contextlib.nullcontext(stored)

    def our_name(self, theirs, spec):
        return self.functions[1](theirs, spec)

    def our_array(self, values, rank):
        return self.functions[2](values, rank) if self.functions[2] else values


def register_converter(
    name: str,
    read: Callable[[pathlib.Path], Any],
    our_name: Callable[[str, NetworkSpec], str | None],
    our_array: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> None:
    """Adds a source of weights files, which `register_weights` then names.

    Args:
        name: What `converter=` takes: small letters, digits and underscores, a letter first.
        read: Maps the path of a file to a dict {their name: array}, or to a context manager that yields one, such as
            `np.load` or `h5py.File`. It must run no code of the file.
        our_name: Maps (their name, the `NetworkSpec`) to the name of the array in `layout="layers"`, such as
            `stage2_unit07_conv1/kernel`; to None for what the network has no use of.
        our_array: Maps (array, its rank here) to the array in our order of axes: kernels are (height, width, in, out),
            matrices (in, out). As it is if None.

    Raises:
        ValueError: If an argument is not allowed, or the name is taken by another source.
    """
    for argument, function in (("read", read), ("our_name", our_name), ("our_array", our_array)):
        if not callable(function) and not (function is None and argument == "our_array"):
            raise argument_error(argument, "a function", function)
    functions = read, our_name, our_array
    place = tuple((getattr(each, "__module__", ""), getattr(each, "__qualname__", "")) for each in functions)
    add_row("converter", name, _Registered(place, functions), CONVERTERS)


def convert(
    source: str, path: PathLike, spec: NetworkSpec, shapes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Returns the arrays of a weights file by our names.

    Args:
        source: A key of `CONVERTERS`.
        path: The file.
        spec: The `NetworkSpec` of the network.
        shapes: The shape of every weight by the name that it has in the layout of layers.

    Returns:
        A dict of float32 arrays with the keys of `shapes`.

    Raises:
        ValueError: If the file is not whole, lacks an array, has one too many, or one of another shape or with values
            that are not finite; it is named.
    """
    module = CONVERTERS[check_choice("source", source, CONVERTERS)]
    try:
        with module.read(path) as stored:
            return rename(module, stored, spec, shapes)
    except Exception as error:  # h5py and safetensors have many kinds of their own
        raise argument_error("weights", f"a whole file of {source}'s of this network", str(path), str(error)) from error


def rename(
    module: Any, stored: Mapping[str, Any], spec: NetworkSpec, shapes: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Returns `stored` (their name: anything with `shape` that NumPy can read) as arrays by our names, as `convert`."""
    arrays = {}
    for theirs, array in stored.items():
        ours = module.our_name(theirs, spec)
        if ours is None:
            continue
        if ours not in shapes or ours in arrays:
            raise ValueError(f"The file has {theirs}, which the network has {'twice' if ours in arrays else 'not'}.")
        arrays[ours] = _converted(module, theirs, ours, array, tuple(shapes[ours]))
    missing = [name for name in shapes if name not in arrays]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"The file lacks {', '.join(missing[:3])}{more}.")
    return arrays


def _converted(module, theirs, ours, array, shape):
    if math.prod(array.shape) != math.prod(shape):  # before it is read: a file may claim any size
        raise ValueError(f"{theirs} has shape {tuple(array.shape)}, where {ours} has {shape}.")
    values = np.asarray(array[...])
    if values.dtype.kind != "f":
        raise ValueError(f"{theirs} is {values.dtype}, no floating point numbers.")
    if hasattr(module, "our_array"):
        values = module.our_array(values, len(shape))
    if values.shape != shape:
        raise ValueError(f"{theirs} has shape {tuple(array.shape)}, where {ours} has {shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{theirs} holds values that are not finite.")
    return values.astype("float32")
