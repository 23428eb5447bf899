"""Data sets by name."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from keras_preact.data.augment import Augmentation
from keras_preact.data.cifar import CIFAR10, CIFAR100, load_cifar
from keras_preact.data.dataset import DataSet, from_arrays
from keras_preact.data.digits import load_digits
from keras_preact.data.folders import IMAGENET, IMAGENET_OF_TFDS, load_folder, load_imagenet
from keras_preact.errors import argument_error, check_choice, check_flag, nearest
from keras_preact.names import add_row
from keras_preact.types import PathLike

__all__ = ["ALIASES", "DATA_SETS", "Augmentation", "from_arrays", "has_own_size", "load", "register_data"]


@dataclass(frozen=True)
class _Row:
    """A data set: calls its function with those of the arguments of `load` that it takes."""

    name: str
    function: Callable[..., DataSet] = field(compare=False)
    place: tuple[str, str]

    @property
    def takes(self):
        return inspect.signature(self.function).parameters.keys()

    def __call__(self, data_dir, image_size, skip_corrupt):
        given = {"data_dir": data_dir, "image_size": image_size, "skip_corrupt": skip_corrupt}
        for argument, value in given.items():
            if value not in (None, False) and argument not in self.takes:
                received = os.fspath(value) if isinstance(value, os.PathLike) else value
                raise argument_error(argument, f"left out for {self.name}, whose function does not take it", received)
        data = self.function(**{argument: value for argument, value in given.items() if argument in self.takes})
        if not isinstance(data, DataSet):
            raise argument_error("data", "the name of a function that returns a DataSet", type(data).__name__)
        # By name and data_dir cards find it again.
        return replace(data, name=self.name, folder=None, data_dir=None if data_dir is None else os.fspath(data_dir))


def _row(name, function):
    place = getattr(function, "__module__", ""), getattr(function, "__qualname__", repr(function))
    return _Row(name, function, place)


_FUNCTIONS: dict[str, Callable[..., DataSet]] = {
    "digits": load_digits,
    "cifar10": functools.partial(load_cifar, CIFAR10),
    "cifar100": functools.partial(load_cifar, CIFAR100),
    "cifar10_16": functools.partial(load_cifar, CIFAR10, side=16),  # a quarter of the cost: for CPUs
    IMAGENET: load_imagenet,
}
DATA_SETS = {name: _row(name, function) for name, function in _FUNCTIONS.items()}
ALIASES = {IMAGENET_OF_TFDS: IMAGENET}  # what TFDS calls it


def register_data(name: str, function: Callable[..., DataSet]) -> None:
    """Adds a data set, so that `train`, `evaluate`, sweeps and the command line take its name.

    Args:
        name: What `data=` takes: small letters, digits and underscores, a letter first.
        function: Returns a `DataSet`, the same one each time, as `from_arrays` and `load` make it. It may take
            `data_dir` (None or what a person passed), `image_size` and `skip_corrupt`, by these names. It is called
            when the data is asked for.

    Raises:
        ValueError: If the name is not allowed or taken by another data set, or the function has other arguments.
    """
    if not callable(function):
        raise argument_error("function", "a function that returns a DataSet", function)
    needed = [one.name for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    if others := [argument for argument in needed if argument not in ("data_dir", "image_size", "skip_corrupt")]:
        raise argument_error("function", "one of no other arguments than data_dir, image_size, skip_corrupt", others[0])
    add_row("data set", name, _row(name, function), DATA_SETS)


def has_own_size(name: PathLike) -> bool:
    """Returns whether the images of a data set have a size that nobody chooses; `name` may be a folder's path."""
    row = DATA_SETS.get(name) if isinstance(name, str) else None
    return row is not None and "image_size" not in row.takes


def load(
    data: PathLike,
    data_dir: PathLike | None = None,
    *,
    image_size: int | tuple[int, int] | None = None,
    skip_corrupt: bool = False,
) -> DataSet:
    """Returns the `DataSet` of a name or a folder.

    Args:
        data: One of `DATA_SETS`, or the path of a folder of images: `DIR/train/class/name.png` and `DIR/test/...`, or
            `DIR/class/name.png`.
        data_dir: The folder in which to look for a named data set; its usual places if None.
        image_size: Height and width, in pixels, or both as a tuple, to give images that are read from files.
        skip_corrupt: Whether to leave files out that are no images, and say how many, instead of stopping.

    Raises:
        ValueError: If there is no such data set, or its files are not there and cannot be downloaded, or are broken.
    """
    check_flag("skip_corrupt", skip_corrupt)
    name = ALIASES.get(data, data) if isinstance(data, str) else data
    if name not in DATA_SETS and isinstance(name, (str, os.PathLike)):
        if os.path.isdir(name):
            if data_dir is not None:
                raise argument_error("data_dir", "left out for a folder of images", str(data_dir))
            return load_folder(name, image_size, skip_corrupt)
        expected = "an existing folder of images, or one of " + ", ".join(DATA_SETS)
        raise argument_error("data", expected, str(name), f'Nearest: "{nearest(name, DATA_SETS)}".')
    return DATA_SETS[check_choice("data", name, DATA_SETS)](data_dir, image_size, skip_corrupt)
