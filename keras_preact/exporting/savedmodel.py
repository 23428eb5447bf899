"""A trained model as a SavedModel that takes images as they come, and needs TensorFlow alone."""

import importlib.util
import json
import pathlib

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.exporting import parity
from keras_preact.exporting.inference import checked, inference_weights, outputs, stacked
from keras_preact.exporting.preprocessing import cut, normalized, prepared
from keras_preact.files import written_aside
from keras_preact.names import check_lines

PNG, JPEG = b"\x89PNG", b"\xff\xd8\xff"  # how the files begin
PNG_BITS = 24  # the byte that says how many bits a value has
GREY = (19595, 38470, 7471)  # of 65536: the weights of red, green and blue in Pillow's grey


def can_export():
    """Returns whether SavedModels can be had: TensorFlow writes them, from a model of its own backend."""
    return keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorflow") is not None


def export_savedmodel(model, path, preprocessing, class_names, sample_images, card=None):
    """Writes a SavedModel, as `write_savedmodel` does, and compares it with `model` in this process.

    Args:
        model: A network with a classifier.
        path: The folder to write, aside and then renamed; one that exists is replaced.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        sample_images: uint8 (batch, height, width, channels).
        card: A dict that says what the model is, or None.

    Raises:
        ImportError: If TensorFlow is not installed.
        ValueError: If `model` has no classifier, or names and classes differ in number.
        ParityError: If the written model computes something else; nothing is left at `path` then.
    """
    if not can_export():
        raise ImportError("A SavedModel is written by TensorFlow and its Keras backend: pip install tensorflow")
    import tensorflow as tf

    checked(model)
    with written_aside(pathlib.Path(path)) as aside:
        write_savedmodel(model, aside, preprocessing, class_names, card)
        written = tf.saved_model.load(aside)
        served = written.serve(tf.constant(sample_images))["probabilities"].numpy()
        expected = parity.reference(model, preprocessing, sample_images)["probabilities"]
        difference = float(np.abs(served - expected).max())
        if not difference <= parity.tolerance(model):
            raise parity.ParityError(f"The SavedModel differs from {model.name} by {difference} in a probability.")


def write_savedmodel(model, folder, preprocessing, class_names, card=None):
    """Writes a SavedModel whose signatures take any number of images and give `outputs`.

    The default signature takes `images`, uint8 (batch, height, width, channels) of any size. For grey and RGB models
    the signature `encoded` takes JPEG or PNG files as strings, (batch,), of any sizes. Both resize and normalise;
    pixels of the network's size are taken to be cut already, files never are. No images have answers of 0 rows.
    `assets.extra/class_names.txt` names the classes, one a line; `assets.extra/card.json` holds `card`.

    Args:
        model: A network with a classifier.
        folder: A path that does not exist.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        card: A dict that JSON can hold, or None.
    """
    import tensorflow as tf

    names = check_class_names(model, class_names)
    module = _module(stacked(model), preprocessing)
    signatures = {"serving_default": module.serve.get_concrete_function()}
    if hasattr(module, "serve_encoded"):
        signatures["encoded"] = module.serve_encoded.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures)
    extra = pathlib.Path(folder) / "assets.extra"
    extra.mkdir()
    (extra / "class_names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if card is not None:
        (extra / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def check_class_names(model, names):
    """Returns `names` as strings; raises a `ValueError` if they are not one per class, each one line."""
    classes = model.output_shape[-1]
    if names is None:
        raise argument_error("class_names", f"{classes} names, one for each output, where no card has them", None)
    if len(names) != classes:
        raise argument_error("class_names", f"{classes} names, one for each output", f"{len(names)} names")
    return check_lines("class_names", names)


def _module(model, preprocessing):
    """Returns a `tf.Module` that holds the folded weights and serves the network, traced once."""
    import tensorflow as tf

    module, channels = tf.Module(), preprocessing.channels
    module.weights = {
        layer: {name: tf.Variable(value, trainable=False) for name, value in parts.items()}
        for layer, parts in inference_weights(model).items()
    }

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, *preprocessing.input_shape), tf.float32)])
    def network(images):
        weights = {
            layer: {name: tf.convert_to_tensor(variable) for name, variable in parts.items()}
            for layer, parts in module.weights.items()
        }
        found = outputs(model, weights, images)
        # NumPy has no bfloat16, and TensorFlow Serving's JSON no half precision at all.
        return {
            name: value if value.dtype == tf.float64 else tf.cast(value, tf.float32) for name, value in found.items()
        }

    network = network.get_concrete_function()  # called as it was, TensorFlow would trace it twice

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, None, None, channels), tf.uint8, "images")])
    def serve(images):
        # No images may have no size either, as an empty JSON list; nothing can be resized from that.
        none = lambda: tf.zeros((0, *preprocessing.input_shape), tf.uint8)  # noqa: E731
        images = tf.cond(tf.shape(images)[0] == 0, none, lambda: images)
        images.set_shape((None, None, None, channels))
        return network(prepared(images, preprocessing))

    def decoded(file):
        return cut(_decoded(file, channels)[None], preprocessing)[0]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None,), tf.string, "encoded")])
    def serve_encoded(encoded):
        spec = tf.TensorSpec(preprocessing.input_shape, tf.float32)
        return network(normalized(tf.map_fn(decoded, encoded, fn_output_signature=spec), preprocessing))

    module.serve = serve
    if channels in (1, 3):  # what image files are decoded to
        module.serve_encoded = serve_encoded
    return module


def _decoded(file, channels):
    """Returns the pixels of an image file, uint8, as data sets of files are read: what is transparent lies on white."""
    import tensorflow as tf

    def other():
        jpeg = lambda: tf.io.decode_jpeg(file, 3, dct_method="INTEGER_ACCURATE")  # noqa: E731  as Pillow decodes
        is_jpeg = tf.strings.substr(file, 0, len(JPEG)) == JPEG
        return tf.cond(is_jpeg, jpeg, lambda: tf.io.decode_image(file, 3, expand_animations=False))

    rgb = tf.cond(tf.strings.substr(file, 0, len(PNG)) == PNG, lambda: _png_on_white(file), other)
    rgb = tf.ensure_shape(rgb, (None, None, 3))
    if channels == 3:
        return rgb
    # Pillow's grey. TensorFlow's own is another, of another formula, and it has none of CMYK.
    weighted = tf.reduce_sum(tf.cast(rgb, tf.int32) * GREY, axis=-1, keepdims=True)
    return tf.cast((weighted + 32768) // 65536, tf.uint8)


def _png_on_white(file):
    """Returns a PNG file as RGB, uint8, laid on white with the whole numbers of Pillow's `alpha_composite`."""
    import tensorflow as tf

    pixels = tf.cast(tf.io.decode_png(file, 4), tf.int32)
    opacity = pixels[..., 3:]
    # Of fewer than 8 bits, TensorFlow gives what is nowhere transparent their highest number as opacity.
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(file, PNG_BITS, 1), tf.uint8)[0], tf.int32)
    opacity = tf.where(tf.reduce_all(opacity == tf.bitwise.left_shift(1, bits) - 1), 255, opacity)
    sums = (pixels[..., :3] * opacity + 255 * (255 - opacity) + 128) * 128
    return tf.cast((sums // 256 + sums) // 32768, tf.uint8)
