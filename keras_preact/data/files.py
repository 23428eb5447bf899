"""Images in files: decoded by Pillow in threads, as they are needed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import functools
import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from keras_preact.data import geometry
from keras_preact.data.dataset import check_labels, measure
from keras_preact.errors import argument_error
from keras_preact.types import PathLike

if TYPE_CHECKING:
    import numpy.typing as npt

    from keras_preact.data.tfds import Records

log = logging.getLogger(__name__)

SAMPLE = 1000  # files that are looked at to learn what all are like
REPAIR = (
    "Repair or remove such files; train, finetune, evaluate and verify leave them out with skip_corrupt "
    "(--skip-corrupt)."
)
HEIC = {b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")}

ORIENTATION = ExifTags.Base.Orientation
TURNS = {  # what makes an image upright, by its EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = (5, 6, 7, 8)


class FileSplit:
    """Reads the images of a split from files of any size, resized and cropped to one.

    Args:
        paths: The files' paths, or `tfds.Records`, which gives files in memory.
        labels: Whole numbers (images,), from 0.
        image_shape: (height, width, 1 or 3) of what `read` returns. Colour files are made grey for 1 channel, and grey
            ones RGB for 3; what is transparent lies on white.
        shorter_side: Pixels to which the shorter side is resized before the centre crop; that of the crop if None.
        skip_corrupt: Whether another image of its class takes the place of a file that cannot be read, instead of an
            error. Such files' indices are in `skipped`.
    """

    def __init__(
        self,
        paths: Sequence[PathLike] | Records,
        labels: npt.ArrayLike,
        image_shape: Sequence[int],
        shorter_side: int | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        self.paths, self.labels = paths, check_labels(labels)
        self.image_shape = tuple(image_shape)
        self.shorter_side = shorter_side or min(self.image_shape[:2])
        self.skip_corrupt = skip_corrupt
        self.skipped: set[int] = set()
        self._cut: Callable[[np.ndarray], np.ndarray] | None = None

    def with_cut(self, cut: Callable[[np.ndarray], np.ndarray]) -> FileSplit:
        """Returns the split with another crop where none is drawn: a function of whole images, uint8 (h, w, c)."""
        other = copy.copy(self)
        other._cut = cut
        return other

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: np.ndarray | Sequence[int], draws: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
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

    def measured(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Returns mean and std per channel, 0 to 255, of the centre crops of a sample spread over the split."""
        return measure(self.read(spread(len(self), SAMPLE // 2)))

    def _read(self, index, drawn):
        image = self._open(index)
        size = self.image_shape[:2]
        if drawn:
            return geometry.pixels(geometry.crop(image, size, drawn))
        if self._cut is not None:
            return self._cut(geometry.pixels(image))
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


def open_image(path: PathLike | IO[bytes], channels: int) -> Image.Image:
    """Returns an image as a Pillow image, grey for 1 channel and RGB for 3, as a viewer shows it.

    It is turned as its EXIF orientation says, what is transparent lies on white, and of 16 bits a channel the upper 8
    are taken.

    Args:
        path: The path of a file, or an open one.
        channels: 1 or 3.

    Raises:
        ValueError: If the file is no image, or broken; it is named, with the reason.
    """
    try:
        return decode(path, channels)
    except ValueError as error:
        raise argument_error("data", "files of whole images", str(path), f"{error} {REPAIR}") from error


def decode(path: PathLike | IO[bytes], channels: int) -> Image.Image:
    """Returns what `open_image` does; the text of its `ValueError` is nothing but the reason, a sentence."""
    try:
        with _opened(path) as image:
            _check_bits(image)
            image.load()  # by which Pillow turns a TIFF itself
            turn = TURNS.get(_orientation(image))
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if channels == 1 else "RGB")
            return image if turn is None else image.transpose(turn)
    except Exception as error:  # Pillow's formats raise errors of many kinds
        raise ValueError(_reason(path, error)) from error


@dataclass(frozen=True)
class Look:
    """Holds what is known of an image file before it is read.

    Attributes:
        size: (height, width) as a viewer shows it; None if it cannot be read.
        is_grey: Whether it has no colours.
        problem: Why it cannot be read, a sentence; None if it can.
    """

    size: tuple[int, int] | None = None
    is_grey: bool = True
    problem: str | None = None


def look(paths: Sequence[PathLike]) -> list[Look]:
    """Returns a `Look` of each image file.

    A file is whole if all of its pixels are there: PNGs are held to their checksums, JPEGs are decoded at an eighth of
    their size, others as they are.
    """
    return list(threads().map(_look, paths))


def _look(path):
    try:
        with _opened(path) as image:
            _check_bits(image)
            size, grey = (image.height, image.width), image.mode in ("1", "L", "LA") or image.mode.startswith("I")
            if _orientation(image) in ON_ITS_SIDE and image.format != "TIFF":  # whose size Pillow has turned already
                size = size[::-1]
            if image.format == "PNG":
                image.verify()
            else:
                image.draft(None, (1, 1))
                image.load()
        return Look(size, grey)
    except Exception as error:
        return Look(problem=_reason(path, error))


def _opened(path):
    """Returns `Image.open(path)`, which knows HEIC where the package pillow-heif is installed."""
    _register_heif()
    return Image.open(path)


@functools.cache
def _register_heif():
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _check_bits(image):
    """Raises a `ValueError` for pixels of 32 bits, of which nothing says what is white; 16 bits have a white."""
    if image.mode.startswith("F") or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        raise ValueError("Its pixels are numbers of 32 bits, and nothing says which one is white.")


def _orientation(image):
    """Returns the EXIF orientation of a Pillow image, from 1 to 8; 1, upright, where there is none to be read."""
    with contextlib.suppress(Exception):  # EXIF may be damaged in many ways; the image is shown all the same
        return Image.Image.getexif(image).get(ORIENTATION, 1)  # PNG's own would decode the whole image
    return 1


def _reason(path, error):
    """Returns why an image file cannot be read, as a sentence."""
    if isinstance(error, UnidentifiedImageError):
        if _head(path)[4:12] in HEIC:
            return "It is a HEIC photo, which Pillow does not read: convert it to JPEG, or pip install pillow-heif."
        return "It is of no kind that Pillow reads, or damaged at its beginning." if _head(path) else "It is empty."
    text = str(error) or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _head(path):
    """Returns the first bytes of a file, given by its path or open."""
    with contextlib.suppress(OSError):
        if hasattr(path, "seek"):
            path.seek(0)
            return path.read(12)
        with open(path, "rb") as file:
            return file.read(12)
    return b""


def spread(count: int, most: int) -> np.ndarray:
    """Returns at most `most` indices of `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


@functools.cache
def threads() -> concurrent.futures.ThreadPoolExecutor:
    """Returns the pool in which files are read."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="images")
