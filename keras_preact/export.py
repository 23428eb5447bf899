"""A trained model as a SavedModel that takes uint8 images as they come, checked after writing."""

import importlib
import pathlib
from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.files import written_aside


@dataclass(frozen=True)
class Preprocessing:
    """Says what is done to an image of 0 to 255 before the network sees it.

    Attributes:
        image_shape: (height, width, channels) that the network was trained on.
        mean: Per channel, 0 to 255, subtracted.
        deviation: Per channel, 0 to 255, divided by.
    """

    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __call__(self, images):
        """Returns images (batch, any height, any width, channels) of 0 to 255 resized and normalised, float32."""
        height, width, _ = self.image_shape
        images = keras.ops.cast(images, "float32")
        images = keras.ops.image.resize(images, (height, width), antialias=True, data_format="channels_last")
        mean, deviation = (np.asarray(values, "float32") for values in (self.mean, self.deviation))
        return (images - mean) / deviation


def can_export():
    """Returns whether TensorFlow, which writes SavedModels, is installed."""
    try:
        importlib.import_module("tensorflow")
    except ImportError:
        return False
    return True


def export_savedmodel(model, path, preprocessing, class_names, sample_images, tolerance=1e-4):
    """Writes a SavedModel whose default signature maps uint8 `images` to `probabilities` and `logits`.

    It takes (batch, height, width, channels) of any batch size and resizes. `assets.extra/class_names.txt` names the
    classes, one a line. After writing it is loaded, called on `sample_images`, and compared with `model`.

    Args:
        model: A network with a classifier.
        path: The folder to write, aside and then renamed; one that exists is replaced.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        sample_images: uint8 (batch, height, width, channels).
        tolerance: The largest difference of probabilities allowed.

    Raises:
        ImportError: If TensorFlow is not installed.
        ValueError: If `model` has no classifier.
        RuntimeError: If the written model computes something else; nothing is left at `path` then.
    """
    if not can_export():
        raise ImportError("A SavedModel is written by TensorFlow. Install it: pip install tensorflow")
    import tensorflow as tf

    if not getattr(model, "has_top", False):
        raise argument_error("model", "a network of keras_preact with include_top=True", model.name)
    both = keras.Model(model.input, [model.get_layer("predictions").output, model.get_layer("logits").output])

    def serve(images):
        probabilities, logits = both(preprocessing(images), training=False)
        return {"probabilities": probabilities, "logits": logits}

    channels = preprocessing.image_shape[-1]
    path = pathlib.Path(path)
    with written_aside(path) as aside:
        archive = keras.export.ExportArchive()
        archive.track(both)
        signature = [tf.TensorSpec((None, None, None, channels), tf.uint8, name="images")]
        archive.add_endpoint("serve", serve, input_signature=signature)
        archive.write_out(aside, verbose=False)
        (aside / "assets.extra").mkdir()
        (aside / "assets.extra" / "class_names.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
        written = tf.saved_model.load(aside)
        served = written.serve(tf.constant(sample_images))["probabilities"].numpy()
        expected = keras.ops.convert_to_numpy(both(preprocessing(sample_images), training=False)[0])
        difference = float(np.abs(served - expected).max())
        if not difference <= tolerance:
            raise RuntimeError(f"The exported model differs from {model.name} by {difference} in a probability.")
