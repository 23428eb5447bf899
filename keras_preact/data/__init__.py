"""Data sets by name, and their batches."""

from keras_preact.data.augment import Augmentation
from keras_preact.data.dataset import from_arrays
from keras_preact.data.digits import load_digits
from keras_preact.errors import check_choice

__all__ = ["DATA_SETS", "Augmentation", "from_arrays", "load"]

DATA_SETS = {"digits": load_digits}


def load(name, data_dir=None, *, image_size=None, skip_corrupt=False):
    """Returns the `DataSet` called `name`.

    Args:
        name: One of `DATA_SETS`, or the path of a folder of images.
        data_dir: The folder in which to look for a named data set.
        image_size: Height and width in pixels to give images that are read from files, or None.
        skip_corrupt: Whether to leave files out that are no images, and say how many, instead of stopping.

    Raises:
        ValueError: If there is no such data set, or its files are not there; in at most a few seconds.
    """
    options = dict(data_dir=data_dir, image_size=image_size, skip_corrupt=skip_corrupt)
    return DATA_SETS[check_choice("data", name, DATA_SETS)](**options)
