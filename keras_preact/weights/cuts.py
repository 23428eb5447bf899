"""How images are resized and cut to what a network reads, to the pixel as each author's evaluation code does it.

Sizes and places are computed alike in NumPy and in a TensorFlow graph that learns an image's size only when it runs:
`xp` is `NUMPY` or `keras.ops`.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_preact import bounds
from keras_preact.errors import argument_error, check_choice
from keras_preact.types import Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

    from keras_preact.weights.preprocessing import Preprocessing

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
# ours: of this package's data sets of files. The shorter side becomes the nearest to size / crop, by Pillow.
# timm: torchvision's Resize and CenterCrop: size / crop and the long side are cut to whole pixels, the margin rounded.
# osmr: likewise, but size / crop is rounded up, and OpenCV resizes, which on its way down leaves pixels out.
# slim: TF-slim's for Inception: the centre of the image as it is, then resized to the size, whatever its aspect.
TRANSFORMS = ("ours", "timm", "osmr", "slim")
_SHARED = ("arange", "clip", "floor", "max", "min", "round", "shape", "take")
NUMPY = types.SimpleNamespace(cast=np.asarray, **{name: getattr(np, name) for name in _SHARED})


def check_transform(transform: str, interpolation: str) -> None:
    """Raises a `ValueError` if there is no such transform, or it does not interpolate so."""
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if check_choice("transform", transform, TRANSFORMS) in ("osmr", "slim") and interpolation != "bilinear":
        raise argument_error("interpolation", f'"bilinear" with transform="{transform}"', interpolation)


def plan(how: Preprocessing, sides: Tensor, xp: Any = NUMPY) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns start and size of the part of an image that is resized, its new size, and where the crop begins in that.

    Args:
        how: A `Preprocessing`.
        sides: Height and width of the image, float64 (2,), as are the four answers.
        xp: `NUMPY` or `keras.ops`.
    """
    size, zero = np.asarray(how.size, "float64"), 0 * sides
    if how.transform == "slim":
        start = xp.floor((sides - sides * how.crop) / 2)
        return start, sides - 2 * start, zero + size, zero
    if how.transform == "ours":
        shorter = np.maximum(np.round(size.min() / how.crop), size)
        resized = xp.round(sides * xp.max(shorter / sides))
        return zero, sides, resized, xp.floor((resized - size) / 2)
    least = (np.floor if how.transform == "timm" else np.ceil)(size / how.crop)
    if least[0] == least[1]:
        resized = xp.floor(least * sides / xp.min(sides))
    else:
        resized = xp.round(sides / xp.min(sides / least))
    return zero, sides, resized, xp.round((resized - size) / 2)


def check_scale(images: np.ndarray) -> None:
    """Raises a `ValueError` if images are floats of 0 to 1, not of 0 to 255."""
    if images.dtype.kind == "f" and images.size and 0 < images.max() <= 1:
        received = f"{images.min()} to {images.max()} as {images.dtype}"
        raise argument_error("images", "numbers from 0 to 255", received, "Multiply by 255.")


def normalize(images: Tensor, mean: npt.ArrayLike, std: npt.ArrayLike, xp: Any = NUMPY) -> Tensor:
    """Returns (images - mean) / std per channel, float32, for images of 0 to 255; `xp` is `NUMPY` or `keras.ops`."""
    # Cast, too: torch takes no NumPy array beside a tensor on a GPU.
    mean, std = (xp.cast(np.asarray(each, "float32"), "float32") for each in (mean, std))
    return (xp.cast(images, "float32") - mean) / std


def cut(image: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Returns an image (height, width, channels) of 0 to 255 as the network reads it: of its size, of the same kind.

    Args:
        image: uint8, or float32, which is rounded nowhere.
        how: A `Preprocessing`.

    Raises:
        ValueError: If the image is so long and thin that it would take more memory than `bounds.SIDE` allows.
    """
    numbers = plan(how, np.array(image.shape[:2], "float64"))
    start, part, resized, corner = (tuple(map(int, pair)) for pair in numbers)
    if resized[0] * resized[1] > bounds.SIDE**2:
        expected = f"of at most {bounds.SIDE**2:,} pixels when its shorter side fits {how.size[0]}x{how.size[1]}"
        raise argument_error("image", expected, "{}x{}".format(*image.shape), "Cut it first.")
    image = image[start[0] : start[0] + part[0], start[1] : start[1] + part[1]]
    if how.transform in ("osmr", "slim"):
        image = bilinear(image, resized, how.transform, image.dtype == np.uint8)
    elif resized != image.shape[:2]:
        image = _by_pillow(image, resized, how.interpolation)
    return image[corner[0] : corner[0] + how.size[0], corner[1] : corner[1] + how.size[1]]


def _by_pillow(image, size, interpolation):
    from PIL import Image

    filter_ = Image.Resampling[interpolation.upper()]
    planes = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize((size[1], size[0]), filter_)) for plane in planes], axis=-1)


def bilinear(images: Tensor, size: Sequence[int], transform: str, is_whole: bool, xp: Any = NUMPY) -> Tensor:
    """Returns images (..., height, width, channels) resized without antialiasing, as OpenCV or TensorFlow 1 does it.

    Args:
        images: Of 0 to 255.
        size: (height, width).
        transform: `"osmr"` for OpenCV, `"slim"` for TensorFlow 1.
        is_whole: Whether the images are whole numbers, of which OpenCV makes whole numbers: uint8.
        xp: `NUMPY` or `keras.ops`.
    """
    from_centres = transform == "osmr"
    if from_centres and is_whole:
        left, right, *weights = _neighbours(xp.cast(images, "int32"), -2, size[1], from_centres, xp)
        images = sum(values * _eleven_bits(weight, xp) for values, weight in zip((left, right), weights))
        upper, lower, *weights = _neighbours(images, -3, size[0], from_centres, xp)
        # OpenCV cuts off what 16 bits do not hold, of each row for itself.
        parts = (_eleven_bits(weight, xp) * (row // 16) // 65536 for row, weight in zip((upper, lower), weights))
        return xp.cast((sum(parts) + 2) // 4, "uint8")
    images = xp.cast(images, "float32")
    for axis, count in ((-2, size[1]), (-3, size[0])):
        low, high, _, share = _neighbours(images, axis, count, from_centres, xp)
        images = low + (high - low) * share
    return images


def _eleven_bits(weight, xp):
    return xp.cast(xp.round(weight * 2048), "int32")


def _neighbours(images, axis, count, from_centres, xp):
    """Returns the pixels on either side of each of `count` new ones along an axis, and their weights."""
    axis += len(images.shape)
    before = xp.shape(images)[axis]
    images_xp, xp = xp, NUMPY if isinstance(before, int) else xp  # JAX may have no float64
    steps = xp.cast(xp.arange(count), "float64" if from_centres else "float32")
    if from_centres:  # divided as OpenCV does it
        positions = xp.cast((steps + 0.5) * (1.0 / (count / before)) - 0.5, "float32")
    else:
        positions = steps * xp.cast(before / count, "float32")
    low = xp.floor(positions)
    share = xp.cast(positions - low, "float32")[(..., *(None,) * (len(images.shape) - 1 - axis))]
    low = xp.cast(low, "int32")
    sides = (images_xp.take(images, xp.clip(index, 0, before - 1), axis=axis) for index in (low, low + 1))
    return *sides, 1 - share, share
