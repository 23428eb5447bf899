"""A network as a LiteRT (TensorFlow Lite) file, in float32 or with int8 weights and signals."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_preact.exporting.inference import inference_weights, outputs, stacked
from keras_preact.exporting.preprocessing import normalized
from keras_preact.network.model import ResidualNetwork
from keras_preact.types import PathLike

if TYPE_CHECKING:
    from keras_preact.weights.preprocessing import Preprocessing


def write_litert(
    model: ResidualNetwork, path: PathLike, preprocessing: Preprocessing, calibration_images: np.ndarray | None = None
) -> None:
    """Writes a LiteRT file that maps uint8 `images` to `probabilities`, `logits` and `features`.

    `images` are (batch, height, width, channels) of any batch size and of the height and width of
    `preprocessing.input_shape`; they are normalised inside, not resized. All units are written out, none looped: the
    converter takes no loops whose weights are stacked.

    Args:
        model: A network with a classifier; it is written in float32 whatever its dtype.
        path: A path that does not exist.
        preprocessing: A `Preprocessing`.
        calibration_images: uint8 (images, height, width, channels) of that size, or None. With them weights and signals
            become int8, their ranges those that these images cause; outputs stay float32.
    """
    import tensorflow as tf

    network = stacked(model, "float32")
    weights = _constants(inference_weights(network))

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec((None, *preprocessing.input_shape), tf.uint8, "images")]
    )
    def serve(images):
        return outputs(network, weights, normalized(images, preprocessing), straight=True)

    module = tf.Module()
    module.serve = serve
    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module)
    if calibration_images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in calibration_images)
    pathlib.Path(path).write_bytes(converter.convert())


def _constants(weights):
    """Returns the weights as arrays, with a bias at each convolution.

    Arrays, not tensors: a slice of one is a constant of the graph. With a bias a 1x1 convolution stays one, and does
    not become a matrix product, which LiteRT runs slower; its own convolution has a bias in any case.
    """
    found = {}
    for layer, parts in weights.items():
        found[layer] = {name: keras.ops.convert_to_numpy(tensor) for name, tensor in parts.items()}
        for name, kernel in list(found[layer].items()):
            if name.endswith("kernel") and kernel.ndim >= 4:
                bias = name.removesuffix("kernel") + "bias"
                found[layer].setdefault(bias, np.zeros((*kernel.shape[:-4], kernel.shape[-1]), kernel.dtype))
    return found
