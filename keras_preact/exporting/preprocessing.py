"""What is done to an image before the network sees it."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.errors import argument_error, check_integers, check_number


@dataclass(frozen=True)
class Preprocessing:
    """Says what is done to an image of 0 to 255 before the network sees it.

    Attributes:
        image_shape: (height, width, channels) that the network was trained on.
        mean: Per channel, 0 to 255, subtracted.
        deviation: Per channel, 0 to 255, divided by.

    Raises:
        ValueError: If a number is missing, not finite, or a deviation not positive.
    """

    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

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

    def __call__(self, images):
        """Returns images (batch, any height, any width, channels) of 0 to 255 resized and normalised, float32."""
        return self.normalized(self.resized(images))

    def resized(self, images):
        """Returns images (batch, any height, any width, channels) resized bilinearly, with antialiasing, float32."""
        height, width, _ = self.image_shape
        images = keras.ops.cast(images, "float32")
        return keras.ops.image.resize(images, (height, width), antialias=True, data_format="channels_last")

    def normalized(self, images):
        """Returns (images - mean) / deviation per channel, float32."""
        mean, deviation = (np.asarray(values, "float32") for values in (self.mean, self.deviation))
        return (keras.ops.cast(images, "float32") - mean) / deviation

    def fitted(self, images):
        """Returns uint8 images as a caller resizes them for the formats that do not resize: uint8 again."""
        if tuple(images.shape[1:]) == self.image_shape:
            return images
        return np.clip(np.rint(keras.ops.convert_to_numpy(self.resized(images))), 0, 255).astype("uint8")
