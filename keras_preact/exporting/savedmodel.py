"""A trained model as a SavedModel that takes images as they come, and needs TensorFlow alone."""

from __future__ import annotations

import functools
import importlib.util
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.exporting import parity
from keras_preact.exporting.decoding import cut_files
from keras_preact.exporting.inference import checked, inference_weights, outputs, stacked
from keras_preact.exporting.preprocessing import normalized, prepared
from keras_preact.files import written_aside
from keras_preact.names import check_lines
from keras_preact.network.model import ResidualNetwork
from keras_preact.types import PathLike

if TYPE_CHECKING:
    from keras_preact.exporting.preprocessing import Preprocessing

TOP = 5  # classes that the signature `classify` names


def can_export() -> bool:
    """Returns whether SavedModels can be had: TensorFlow writes them, from a model of its own backend."""
    return keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tensorflow") is not None


def export_savedmodel(
    model: ResidualNetwork,
    path: PathLike,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    sample_images: np.ndarray,
) -> None:
    """Writes a SavedModel, as `write_savedmodel` does, and compares it with `model` in this process.

    Args:
        model: A network with a classifier.
        path: The folder to write, aside and then renamed; one that exists is replaced.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        sample_images: uint8 (batch, height, width, channels).

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
        write_savedmodel(model, aside, preprocessing, class_names)
        written = tf.saved_model.load(aside)
        with parity.full_precision():
            served = {name: array.numpy() for name, array in written.serve(tf.constant(sample_images)).items()}
        found = parity.differences(served, parity.reference(model, preprocessing, sample_images))
        if problem := parity.far_off(found, model.name, parity.tolerance(model)):
            raise parity.ParityError(f"The SavedModel {problem}.")


def write_savedmodel(
    model: ResidualNetwork,
    folder: PathLike,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    card: Mapping[str, Any] | None = None,
) -> None:
    """Writes a SavedModel whose signatures take any number of images and give `outputs`.

    The default signature takes `images`, uint8 (batch, height, width, channels) of any size. For grey and RGB models
    the signature `encoded` takes image files (JPEG, PNG, BMP, GIF, WebP) as strings, (batch,), of any sizes, and
    `classify` answers them with the names `classes` of the highest `scores`, (batch, 5 or fewer), the highest first. A
    file that is no whole image has NaN in all numbers of its row, and empty names; the others are answered all the
    same. All signatures resize and normalise; pixels of the network's size are taken to be cut already, files never
    are. No images have answers of 0 rows.
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
    module, network = _module(stacked(model), preprocessing)
    signatures = {"serving_default": module.serve.get_concrete_function()}
    if preprocessing.channels in (1, 3):  # what image files are decoded to
        _take_files(module, network, preprocessing, names)
        signatures["encoded"] = module.serve_encoded.get_concrete_function()
        signatures["classify"] = module.classify.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures)
    extra = pathlib.Path(folder) / "assets.extra"
    extra.mkdir()
    (extra / "class_names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if card is not None:
        (extra / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def check_class_names(model: ResidualNetwork, names: Sequence[object] | None) -> list[str]:
    """Returns `names` as strings; raises a `ValueError` if they are not one per class, each one line."""
    classes = model.output_shape[-1]
    if names is None:
        raise argument_error("class_names", f"{classes} names, one for each output, where no card has them", None)
    if len(names) != classes:
        raise argument_error("class_names", f"{classes} names, one for each output", f"{len(names)} names")
    return check_lines("class_names", names)


def _module(model, preprocessing):
    """Returns a `tf.Module` that holds the folded weights and serves the network, and the network, traced once."""
    import tensorflow as tf

    module, channels = tf.Module(), preprocessing.channels
    module.weights = {
        layer: {name: tf.Variable(value, trainable=False) for name, value in parts.items()}
        for layer, parts in inference_weights(model).items()
    }

    def network(images):
        # On some processors TensorFlow fuses convolutions with what follows, and then fails without an image.
        count, one = tf.shape(images)[0], lambda: tf.zeros((1, *preprocessing.input_shape))
        images = tf.cond(count == 0, one, lambda: images)
        images.set_shape((None, *preprocessing.input_shape))
        weights = {
            layer: {name: tf.convert_to_tensor(variable) for name, variable in parts.items()}
            for layer, parts in module.weights.items()
        }
        found = outputs(model, weights, images)
        # NumPy has no bfloat16, and TensorFlow Serving's JSON no half precision at all.
        return {
            name: (value if value.dtype == tf.float64 else tf.cast(value, tf.float32))[:count]
            for name, value in found.items()
        }

    network = _traced(network, tf.TensorSpec((None, *preprocessing.input_shape), tf.float32))

    def serve(images):
        # No images may have no size either, as an empty JSON list; nothing can be resized from that.
        none = lambda: tf.zeros((0, *preprocessing.input_shape), tf.uint8)  # noqa: E731
        images = tf.cond(tf.shape(images)[0] == 0, none, lambda: images)
        images.set_shape((None, None, None, channels))
        return network(prepared(images, preprocessing))

    module.serve = _named(serve, tf.TensorSpec((None, None, None, channels), tf.uint8, "images"))
    return module, network


def _traced(function, signature):
    """Returns the concrete function of a function of one tensor; called as a `tf.function` it would be traced twice."""
    import tensorflow as tf

    return tf.function(function, autograph=False, input_signature=[signature]).get_concrete_function()


def _named(function, signature):
    """Returns the `tf.function` that a SavedModel keeps under a name, around a graph that is traced once."""
    import tensorflow as tf

    graph = _traced(function, signature)

    @tf.function(autograph=False, input_signature=[signature])
    @functools.wraps(function)  # the name of its argument
    def named(*tensor, **by_name):
        return graph(*tensor, **by_name)

    return named


def _take_files(module, network, preprocessing, class_names):
    """Gives a `tf.Module` that serves a network the functions that take image files."""
    import tensorflow as tf

    signature, top = tf.TensorSpec((None,), tf.string, "encoded"), min(TOP, len(class_names))

    def serve_encoded(encoded):
        images, whole = cut_files(encoded, preprocessing)
        found = network(normalized(images, preprocessing))
        return {name: tf.where(whole[:, None], value, float("nan")) for name, value in found.items()}

    module.serve_encoded = _named(serve_encoded, signature)
    answers = module.serve_encoded.get_concrete_function()

    def classify(encoded):
        scores, places = tf.math.top_k(answers(encoded)["probabilities"], top)
        return {"classes": tf.where(tf.math.is_nan(scores), "", tf.gather(class_names, places)), "scores": scores}

    module.classify = _named(classify, signature)
