"""What a data set is: images, labels, names, and how its pixels are normalised."""

from dataclasses import dataclass

import numpy as np

from keras_preact.errors import argument_error


@dataclass(frozen=True)
class DataSet:
    """Holds a small data set in memory.

    Attributes:
        name: What it is called.
        train_images: uint8 (images, height, width, channels), 0 to 255.
        train_labels: int32 (images,), from 0.
        test_images: As `train_images`.
        test_labels: As `train_labels`.
        class_names: One per label.
        mean: Per channel, of the training images, 0 to 255.
        deviation: Per channel, of the training images, 0 to 255.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self):
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if images.dtype != np.uint8 or images.ndim != 4:
                raise argument_error(f"{split}_images", "uint8 (images, height, width, channels)", images.dtype.name)
            if len(images) != len(labels) or not len(images):
                raise argument_error(f"{split}_labels", f"one per image ({len(images)})", len(labels))
            if labels.min() < 0 or labels.max() >= len(self.class_names):
                span = f"{labels.min()} to {labels.max()}"
                raise argument_error(f"{split}_labels", f"from 0 to {len(self.class_names) - 1}", span)

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.train_images.shape[1:]

    def normalized(self, images):
        """Returns uint8 images as float32 with the training split's mean 0 and deviation 1 per channel."""
        return normalize(images, self.mean, self.deviation)


def normalize(images, mean, deviation):
    """Returns (images - mean) / deviation per channel, float32, for images in 0 to 255."""
    return (images.astype("float32") - np.float32(mean)) / np.float32(deviation)
