"""A `Preprocessing` in the graph of an exported model: `cuts.cut` and `cuts.normalize` on tensors of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_preact.types import Tensor
from keras_preact.weights import cuts

if TYPE_CHECKING:
    from keras_preact.weights.preprocessing import Preprocessing


def prepared(images: Tensor, how: Preprocessing) -> Tensor:
    """Returns images (batch, any height, any width, channels) of 0 to 255 resized and normalised, float32.

    Args:
        images: A tensor or an array.
        how: A `Preprocessing`.
    """
    return normalized(resized(images, how), how)


def normalized(images: Tensor, how: Preprocessing) -> Tensor:
    """Returns (images - mean) / std per channel, float32."""
    return cuts.normalize(images, how.mean, how.std, keras.ops)


def resized(images: Tensor, how: Preprocessing) -> Tensor:
    """Returns images (batch, any height, any width, channels) as the network's were, but for images of its size.

    Those stay as they are. float32 of 0 to 255.
    """
    height, width = keras.ops.shape(images)[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return keras.ops.cast(images, "float32") if (height, width) == how.size else cut(images, how)
    is_fitted = keras.ops.logical_and(height == how.size[0], width == how.size[1])
    images = keras.ops.cond(is_fitted, lambda: keras.ops.cast(images, "float32"), lambda: cut(images, how))
    # Not -1: one image of three channels would become three of one.
    return keras.ops.reshape(images, (keras.ops.shape(images)[0], *how.input_shape))


def cut(images: Tensor, how: Preprocessing) -> Tensor:
    """Returns images (batch, any height, any width, channels), resized and cut, as float32 of 0 to 255.

    Whole numbers are rounded where Pillow rounds them: after the width, and after the height.
    """
    height, width = keras.ops.shape(images)[1:3]
    if isinstance(height, int):
        numbers = cuts.plan(how, np.array([height, width], "float64"))
        start, part, new, corner = (tuple(map(int, pair)) for pair in numbers)
    else:
        numbers = cuts.plan(how, keras.ops.cast(keras.ops.stack([height, width]), "float64"), keras.ops)
        start, part, new, corner = (keras.ops.unstack(keras.ops.cast(pair, "int32")) for pair in numbers)
    is_whole = "int" in keras.backend.standardize_dtype(images.dtype)
    images = images[:, start[0] : start[0] + part[0], start[1] : start[1] + part[1]]
    if how.transform in ("osmr", "slim"):
        images = cuts.bilinear(images, new, how.transform, is_whole, keras.ops)
    else:
        for size in ((part[0], new[1]), new):
            images = _as_pillow(images, size, how.interpolation, is_whole)
    images = images[:, corner[0] : corner[0] + how.size[0], corner[1] : corner[1] + how.size[1]]
    return keras.ops.cast(images, "float32")


def _as_pillow(images, size, interpolation, is_whole):
    """Returns images resized as Pillow does it: with antialiasing, rounded halves up if they are whole numbers."""
    images = keras.ops.cast(images, "float32")
    if isinstance(size[0], int):
        options = dict(interpolation=interpolation, antialias=True, data_format="channels_last")
        images = keras.ops.image.resize(images, size, **options)
    else:  # Keras takes no size that is known only when it runs
        import tensorflow as tf

        images = tf.image.resize(images, size, interpolation, antialias=True)
    return keras.ops.clip(keras.ops.floor(images + 0.5), 0.0, 255.0) if is_whole else images


def fitted(images: np.ndarray, how: Preprocessing) -> np.ndarray:
    """Returns uint8 images as a caller resizes them for the formats that do not resize: uint8 again."""
    if tuple(images.shape[1:]) == how.input_shape:
        return images
    return np.rint(keras.ops.convert_to_numpy(resized(images, how))).astype("uint8")
