"""Data sets by name, and their batches."""

import functools
import os

from keras_preact.data.augment import Augmentation
from keras_preact.data.cifar import CIFAR10, CIFAR100, load_cifar
from keras_preact.data.dataset import from_arrays
from keras_preact.data.digits import load_digits
from keras_preact.data.folders import load_folder, load_imagenet
from keras_preact.errors import argument_error, check_choice, nearest

__all__ = ["ALIASES", "DATA_SETS", "Augmentation", "from_arrays", "load"]

DATA_SETS = {
    "digits": load_digits,
    "cifar10": functools.partial(load_cifar, CIFAR10),
    "cifar100": functools.partial(load_cifar, CIFAR100),
    "cifar10_16": functools.partial(load_cifar, CIFAR10, side=16),  # a quarter of the cost: for CPUs
    "imagenet": load_imagenet,
}
ALIASES = {"imagenet2012": "imagenet"}  # what TFDS calls it

ARRAYS = ("digits", "cifar10", "cifar100", "cifar10_16")  # those whose images have one size, and are held in memory


def load(name, data_dir=None, *, image_size=None, skip_corrupt=False):
    """Returns the `DataSet` called `name`.

    Args:
        name: One of `DATA_SETS`, or the path of a folder of images: `DIR/train/class/name.png` and `DIR/test/...`, or
            `DIR/class/name.png`.
        data_dir: The folder in which to look for a named data set; its usual places if None.
        image_size: Height and width, in pixels, or both as a tuple, to give images that are read from files.
        skip_corrupt: Whether to leave files out that are no images, and say how many, instead of stopping.

    Raises:
        ValueError: If there is no such data set, or its files are not there and cannot be downloaded, or are broken.
    """
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    if name not in DATA_SETS and isinstance(name, (str, os.PathLike)):
        if os.path.isdir(name):
            if data_dir is not None:
                raise argument_error("data_dir", "left out for a folder of images", str(data_dir))
            return load_folder(name, image_size, skip_corrupt)
        expected = "an existing folder of images, or one of " + ", ".join(DATA_SETS)
        raise argument_error("data", expected, str(name), f'Nearest: "{nearest(name, DATA_SETS)}".')
    return DATA_SETS[check_choice("data", name, DATA_SETS)](data_dir, image_size, skip_corrupt)
