"""What is done to an image before the network sees it."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.errors import argument_error, check_choice, check_integers, check_number
from keras_preact.weights.preprocessing import INTERPOLATIONS


@dataclass(frozen=True)
class Preprocessing:
    """Says what is done to an image of 0 to 255 before the network sees it.

    Attributes:
        image_shape: (height, width, channels) that the network was trained on.
        mean: Per channel, 0 to 255, subtracted.
        deviation: Per channel, 0 to 255, divided by.
        crop: Share of the shorter side of a resized image that the crop from its centre keeps: 0.875 for 224 of 256.
        interpolation: One of `INTERPOLATIONS`.

    Raises:
        ValueError: If a number is missing, not finite, or not in its range.
    """

    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self):
        shape = check_integers("image_shape", self.image_shape)
        if len(shape) != 3:
            raise argument_error("image_shape", "(height, width, channels)", self.image_shape)
        object.__setattr__(self, "image_shape", shape)
        for name in ("mean", "deviation"):
            values = tuple(check_number(name, value) for value in getattr(self, name))
            if len(values) != shape[-1]:
                raise argument_error(name, f"one number per channel, {shape[-1]}", values)
            object.__setattr__(self, name, values)
        if min(self.deviation) <= 0.0:
            raise argument_error("deviation", "positive", self.deviation)
        if not 0.0 < check_number("crop", self.crop) <= 1.0:
            raise argument_error("crop", "above 0 and at most 1", self.crop)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)

    def __call__(self, images):
        """Returns images (batch, any height, any width, channels) of 0 to 255 resized and normalised, float32."""
        return self.normalized(self.resized(images))

    def resized(self, images):
        """Returns images (batch, any height, any width, channels) as data sets of files are read: float32 of 0 to 255.

        The shorter side is resized, with antialiasing, and the centre cut out. Images of the network's size stay.
        """
        images = keras.ops.cast(images, "float32")
        height, width = keras.ops.shape(images)[1:3]
        if isinstance(height, int) and isinstance(width, int):
            return images if (height, width) == self.image_shape[:2] else self._cut(images, height, width)
        is_fitted = keras.ops.logical_and(height == self.image_shape[0], width == self.image_shape[1])
        images = keras.ops.cond(is_fitted, lambda: images, lambda: self._cut(images, height, width))
        # Not -1: one image of three channels would become three of one.
        return keras.ops.reshape(images, (keras.ops.shape(images)[0], *self.image_shape))

    def _cut(self, images, height, width):
        """Returns the centre of resized images of `height` x `width`, which TensorFlow may know only when it runs."""
        own = np.array(self.image_shape[:2], "float64")
        sides = keras.ops.cast(keras.ops.stack([height, width]), "float64")
        shorter = round(own.min() / self.crop)
        factor = keras.ops.max(np.maximum(shorter, own) / sides)
        size = keras.ops.unstack(keras.ops.cast(keras.ops.round(sides * factor), "int32"))
        if isinstance(height, int):
            size = [int(side) for side in size]
            options = dict(interpolation=self.interpolation, antialias=True, data_format="channels_last")
            images = keras.ops.image.resize(images, size, **options)
        else:  # Keras takes no size that is known only then
            import tensorflow as tf

            images = tf.image.resize(images, size, self.interpolation, antialias=True)
        top, left = (size[0] - self.image_shape[0]) // 2, (size[1] - self.image_shape[1]) // 2
        images = images[:, top : top + self.image_shape[0], left : left + self.image_shape[1]]
        return keras.ops.clip(images, 0.0, 255.0)

    def normalized(self, images):
        """Returns (images - mean) / deviation per channel, float32."""
        mean, deviation = (np.asarray(values, "float32") for values in (self.mean, self.deviation))
        return (keras.ops.cast(images, "float32") - mean) / deviation

    def fitted(self, images):
        """Returns uint8 images as a caller resizes them for the formats that do not resize: uint8 again."""
        if tuple(images.shape[1:]) == self.image_shape:
            return images
        return np.clip(np.rint(keras.ops.convert_to_numpy(self.resized(images))), 0, 255).astype("uint8")
