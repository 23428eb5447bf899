"""From what batches yield to what a network takes: fetched, varied and normalised on the device."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.data import transforms
from keras_preact.data.augment import Augmentation
from keras_preact.data.dataset import DataSet, is_in_memory
from keras_preact.errors import argument_error, check_integer
from keras_preact.types import Tensor
from keras_preact.weights.cuts import normalize


class Preparation(keras.layers.Layer):
    """Turns a batch of uint8 images, and what was drawn for them, into normalised float32 images and their labels.

    It is a layer beside the network, never in it, so nothing of it is in the network's files; its own table of images
    is written to no file either. A model that trains with it holds it as an attribute: on JAX the table is then an
    argument of the compiled step, not a constant in it.

    Args:
        data: A `DataSet`.
        augmentation: The `Augmentation` that the batches were drawn for.
        resident: Whether the training images lie on the device, in one uint8 variable, and batches hold only indices.
        image_size: Side to which training images are resized once all else is done to them, bilinearly with
            antialiasing; 0 to leave them as they are. Other images are left alone.

    Call arguments:
        inputs: A dict: `images` uint8 (batch, height, width, channels), or `index` int32 (batch,) of training images
            in the table; and, in training, what `Augmentation.draw` returned for the device.
        labels: int32 (batch,), or None if only the images are asked for.
        training: Whether to augment.

    Returns:
        float32 images (batch, height, width, channels), of side `image_size` in training, and the labels: float32
        (batch, classes) if the augmentation mixes images, else as they came.

    Raises:
        ValueError: If the augmentation is none for these images, or `resident` is not for this data set.
    """

    def __init__(
        self,
        data: DataSet,
        augmentation: Augmentation = Augmentation(),
        resident: bool = False,
        image_size: int = 0,
    ) -> None:
        super().__init__(name="preparation", dtype="float32", autocast=False, trainable=False)
        augmentation.check(data.image_shape)
        self.augmentation, self.image_shape = augmentation, tuple(data.image_shape)
        self.classes = len(data.class_names)
        self.size = _resized(data, image_size)
        self.mean, self.std = (np.asarray(values, "float32") for values in (data.mean, data.std))
        self.table = None
        if resident:
            check_resident(data, augmentation)
            pixels = np.reshape(data.train.read(np.arange(len(data.train))), (len(data.train), -1))
            self.table = keras.Variable(pixels, dtype="uint8", trainable=False, name="images")
        self.built = True

    def call(
        self, inputs: Mapping[str, Tensor], labels: Tensor | None, training: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        images = ops.cast(self._fetched(inputs), "float32")
        if self.augmentation.mixes and labels is not None:
            labels = ops.one_hot(labels, self.classes, dtype="float32")
        if not training:
            return self._normalized(images), labels
        return self._augmented(images, labels, inputs)

    def save_own_variables(self, store: Mapping[str, Any]) -> None:
        """Writes nothing: the table is the data set."""

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Reads nothing."""

    def _fetched(self, inputs):
        if "images" in inputs or self.table is None:
            return inputs["images"]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # On GPUs TensorFlow looks uint8 up in a variable, but not in a tensor.
            rows = tf.gather(self.table.value, inputs["index"])
        else:
            rows = ops.take(self.table, inputs["index"], axis=0)
        return ops.reshape(rows, (-1, *self.image_shape))

    def _augmented(self, images, labels, drawn):
        kind = self.augmentation
        if kind.crop_padding:
            images = transforms.crop(images, drawn["corner"], kind.crop_padding, kind.pad_value, self.mean)
        if kind.flip:
            images = transforms.flip(images, drawn["mirror"])
        if kind.colour:
            images = transforms.jitter(images, drawn["factors"])
        if kind.lighting:
            images = transforms.light(images, drawn["lighting"])
        images = self._normalized(images)
        if kind.cutout:
            images = transforms.cut_out(images, drawn["hole"], kind.cutout)
        if kind.mixes:
            images, labels = transforms.mix(images, labels, drawn.get("own"), drawn.get("box"))
        if self.size:
            images = transforms.resize(images, self.size)
        return images, labels

    def _normalized(self, images):
        return normalize(images, self.mean, self.std, ops)


def _resized(data, side):
    """Returns `side`, once checked, or 0 if the images of `data` have it."""
    height, width, _ = data.image_shape
    side = check_integer("image_size", side, minimum=0)
    if side > min(height, width):
        raise argument_error("image_size", f"at most {min(height, width)}, the side of the images", side)
    return 0 if (side, side) == (height, width) else side


def check_resident(data: DataSet, augmentation: Augmentation) -> None:
    """Raises a `ValueError` if the training images, augmented so, cannot lie on the device."""
    if not is_in_memory(data.train):
        raise argument_error("resident", f"False for {data.name}, whose images are read from files", True)
    if augmentation.resizes:
        raise argument_error("resident", "False with `scale` or `area`, which the host applies", True)
