"""What is done to an image before the network sees it."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.errors import argument_error, check_integers, check_number
from keras_preact.weights import cuts


@dataclass(frozen=True)
class Preprocessing:
    """Says what is done to an image of 0 to 255 before the network sees it.

    Attributes:
        image_shape: (height, width, channels) that the network was trained on.
        mean: Per channel, 0 to 255, subtracted.
        std: Per channel, 0 to 255, divided by.
        crop: Share of the shorter side of a resized image that the crop from its centre keeps: 0.875 for 224 of 256.
        interpolation: One of `cuts.INTERPOLATIONS`.
        transform: One of `cuts.TRANSFORMS`: whose code resizes and cuts.

    Raises:
        ValueError: If a number is missing, not finite, or not in its range.
    """

    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bicubic"
    transform: str = "ours"

    @classmethod
    def of(cls, how, image_shape=None):
        """Returns what a card's `weights.preprocessing.Preprocessing` says, for another size if one is given."""
        return cls(image_shape or how.input_shape, how.mean, how.std, how.crop, how.interpolation, how.transform)

    def __post_init__(self):
        shape = check_integers("image_shape", self.image_shape)
        if len(shape) != 3:
            raise argument_error("image_shape", "(height, width, channels)", self.image_shape)
        object.__setattr__(self, "image_shape", shape)
        for name in ("mean", "std"):
            values = tuple(check_number(name, value) for value in getattr(self, name))
            if len(values) != shape[-1]:
                raise argument_error(name, f"one number per channel, {shape[-1]}", values)
            object.__setattr__(self, name, values)
        if min(self.std) <= 0.0:
            raise argument_error("std", "positive", self.std)
        if not 0.0 < check_number("crop", self.crop) <= 1.0:
            raise argument_error("crop", "above 0 and at most 1", self.crop)
        cuts.check_transform(self.transform, self.interpolation)

    def __call__(self, images):
        """Returns images (batch, any height, any width, channels) of 0 to 255 resized and normalised, float32."""
        return self.normalized(self.resized(images))

    def resized(self, images):
        """Returns images (batch, any height, any width, channels) as the network's were, but for images of its size.

        Those stay as they are. float32 of 0 to 255.
        """
        height, width = keras.ops.shape(images)[1:3]
        if isinstance(height, int) and isinstance(width, int):
            is_fitted = (height, width) == self.image_shape[:2]
            return keras.ops.cast(images, "float32") if is_fitted else self.cut(images)
        is_fitted = keras.ops.logical_and(height == self.image_shape[0], width == self.image_shape[1])
        images = keras.ops.cond(is_fitted, lambda: keras.ops.cast(images, "float32"), lambda: self.cut(images))
        # Not -1: one image of three channels would become three of one.
        return keras.ops.reshape(images, (keras.ops.shape(images)[0], *self.image_shape))

    def cut(self, images):
        """Returns images (batch, any height, any width, channels), resized and cut, as float32 of 0 to 255.

        Whole numbers are rounded where Pillow rounds them: after the width, and after the height.
        """
        height, width = keras.ops.shape(images)[1:3]
        if isinstance(height, int):
            numbers = cuts.plan(self, self.image_shape[:2], np.array([height, width], "float64"))
            start, part, resized, corner = (tuple(map(int, pair)) for pair in numbers)
        else:
            sides = keras.ops.cast(keras.ops.stack([height, width]), "float64")
            numbers = cuts.plan(self, self.image_shape[:2], sides, keras.ops)
            start, part, resized, corner = (keras.ops.unstack(keras.ops.cast(pair, "int32")) for pair in numbers)
        is_whole = "int" in keras.backend.standardize_dtype(images.dtype)
        images = images[:, start[0] : start[0] + part[0], start[1] : start[1] + part[1]]
        if self.transform in ("osmr", "slim"):
            images = cuts.bilinear(images, resized, self.transform, is_whole, keras.ops)
        else:
            for size in ((part[0], resized[1]), resized):
                images = self._by_pillow(images, size, is_whole)
        images = images[:, corner[0] : corner[0] + self.image_shape[0], corner[1] : corner[1] + self.image_shape[1]]
        return keras.ops.cast(images, "float32")

    def _by_pillow(self, images, size, is_whole):
        """Returns images resized as Pillow does it: with antialiasing, rounded halves up if they are whole numbers."""
        images = keras.ops.cast(images, "float32")
        if isinstance(size[0], int):
            options = dict(interpolation=self.interpolation, antialias=True, data_format="channels_last")
            images = keras.ops.image.resize(images, size, **options)
        else:  # Keras takes no size that is known only when it runs
            import tensorflow as tf

            images = tf.image.resize(images, size, self.interpolation, antialias=True)
        return keras.ops.clip(keras.ops.floor(images + 0.5), 0.0, 255.0) if is_whole else images

    def normalized(self, images):
        """Returns (images - mean) / std per channel, float32."""
        mean, std = (np.asarray(values, "float32") for values in (self.mean, self.std))
        return (keras.ops.cast(images, "float32") - mean) / std

    def fitted(self, images):
        """Returns uint8 images as a caller resizes them for the formats that do not resize: uint8 again."""
        if tuple(images.shape[1:]) == self.image_shape:
            return images
        return np.rint(keras.ops.convert_to_numpy(self.resized(images))).astype("uint8")
