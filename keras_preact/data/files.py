"""Images in files: decoded by Pillow in threads, as they are needed."""

import concurrent.futures
import contextlib
import functools
import logging
import os

import numpy as np
from PIL import Image

from keras_preact.data import geometry
from keras_preact.data.dataset import check_labels, measure
from keras_preact.errors import argument_error

log = logging.getLogger(__name__)

SAMPLE = 1000  # files that are looked at to learn what all are like


class FileSplit:
    """Reads the images of a split from files of any size, resized and cropped to one.

    Args:
        paths: The files' paths, or `prepared.Records`, which gives files in memory.
        labels: Whole numbers (images,), from 0.
        image_shape: (height, width, 1 or 3) of what `read` returns. Colour files are made grey for 1 channel, and grey
            ones RGB for 3; what is transparent lies on white.
        shorter_side: Pixels to which the shorter side is resized before the centre crop; that of the crop if None.
        skip_corrupt: Whether another image of its class takes the place of a file that cannot be read, instead of an
            error. Such files' indices are in `skipped`.
    """

    def __init__(self, paths, labels, image_shape, shorter_side=None, skip_corrupt=False):
        self.paths, self.labels = paths, check_labels(labels)
        self.image_shape = tuple(image_shape)
        self.shorter_side = shorter_side or min(self.image_shape[:2])
        self.skip_corrupt, self.skipped = skip_corrupt, set()

    def __len__(self):
        return len(self.labels)

    def read(self, indices, draws=None):
        """Returns the images at `indices`, uint8 (images, height, width, channels).

        Args:
            indices: Whole numbers.
            draws: With `shorter_side` or `attempts` and `place` of `Augmentation.draw`, the crops that these say;
                else the centre crop.

        Raises:
            ValueError: If a file is no image; it is named.
        """
        if not geometry.resizes(draws):
            draws = {}
        drawn = geometry.rows(draws, len(indices))
        return np.stack(list(threads().map(self._read, (int(index) for index in indices), drawn)))

    def measured(self):
        """Returns mean and std per channel, 0 to 255, of the centre crops of a sample spread over the split."""
        return measure(self.read(spread(len(self), SAMPLE // 2)))

    def _read(self, index, drawn):
        image = self._open(index)
        size = self.image_shape[:2]
        if drawn:
            return geometry.pixels(geometry.crop(image, size, drawn))
        return geometry.pixels(geometry.centre_crop(image, size, self.shorter_side))

    def _open(self, index):
        """Returns the image at `index`, or with `skip_corrupt` the next readable one of its class."""
        try:
            return open_image(self.paths[index], self.image_shape[-1])
        except ValueError:
            if not self.skip_corrupt:
                raise
        if index not in self.skipped:
            self.skipped.add(index)
            log.warning(f"Skipped {self.paths[index]}, which is no whole image ({len(self.skipped)} so far).")
        alike = np.flatnonzero(self.labels == self.labels[index])
        for other in np.roll(alike, -1 - np.searchsorted(alike, index))[:-1]:
            with contextlib.suppress(ValueError):
                return open_image(self.paths[other], self.image_shape[-1])
        raise argument_error("data", "one whole image a class at least", f"{len(alike)} broken ones of a class")


def open_image(path, channels):
    """Returns an image as a Pillow image, grey for 1 channel and RGB for 3; what is transparent lies on white.

    Args:
        path: The path of a file, or an open one.
        channels: 1 or 3.

    Raises:
        ValueError: If the file is no image, is broken, or has more than 8 bits a channel; it is named.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{image.mode} has more than 8 bits a channel")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's formats raise errors of many kinds
        hint = "Repair or remove it, or leave such files out with skip_corrupt (--skip-corrupt)."
        raise argument_error("data", "files of whole images", str(path), f"{error}. {hint}") from error


def corrupt_files(paths):
    """Returns those of `paths` that Pillow cannot open, or, as PNGs, whose checksums are wrong."""
    return [path for path, bad in zip(paths, threads().map(_is_corrupt, paths)) if bad]


def look(paths):
    """Returns the sizes {(height, width)} of a sample of image files, and whether all are grey."""
    sizes, grey = set(), True
    for index in spread(len(paths), SAMPLE):
        try:
            with Image.open(paths[index]) as image:
                sizes.add((image.height, image.width))
                grey = grey and image.mode in ("1", "L", "LA")
        except Exception:
            continue  # it is named when it is read
    return sizes, grey


def spread(count, most):
    """Returns at most `most` indices of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


@functools.cache
def threads():
    """Returns the pool in which files are read."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="images")


def _is_corrupt(path):
    try:
        with Image.open(path) as image:
            image.verify()
    except Exception:
        return True
    return False
