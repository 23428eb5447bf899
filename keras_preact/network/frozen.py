"""A network's inference as one TensorFlow function without variables: the fastest that there is on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.errors import argument_error
from keras_preact.keras_hooks import as_constants
from keras_preact.network.checks import check_computes_alike, check_not_quantized
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.model import ResidualNetwork, check_network, converted

if TYPE_CHECKING:
    import tensorflow as tf


def frozen_function(
    model: ResidualNetwork,
    serve: Callable[[ResidualNetwork, tf.Tensor], Any] | None = None,
    signature: tf.TensorSpec | None = None,
) -> Callable[[tf.Tensor], Any]:
    """Returns a `tf.function` of one argument that holds today's weights of a network as constants.

    BN is folded into the convolutions beforehand, the units stand in straight code, and TensorFlow, which now knows
    that the kernels do not change, keeps them in the order that its convolutions like. As an attribute of a
    `tf.Module` it can be written with `tf.saved_model.save`; the graph then holds the weights, 4 bytes each.

    Args:
        model: A `ResidualNetwork`. It stays as it is, and later changes of it are not seen.
        serve: A function of a `ResidualNetwork` (a copy of `model`) and the argument, with what the function is to
            return: a tensor, or a dict or list of some. If None, the network's inference.
        signature: The `tf.TensorSpec` of the argument. If None, a batch of any size of images of `model`'s input shape.

    Raises:
        ValueError: If `model` is no network of this package, or one that was quantized or has a layer within units that
            computes otherwise than it was made, or the backend is not TensorFlow.
    """
    check_network(model)
    check_not_quantized(model)
    if keras.backend.backend() != "tensorflow":
        raise argument_error("KERAS_BACKEND", '"tensorflow" to freeze a network', keras.backend.backend())
    import tensorflow as tf

    network = converted(model, layout="stacked", unroll="all", remat=0)
    check_computes_alike(model, kept=[layer.name for layer in network.layers])
    for layer in network.layers:
        if isinstance(layer, ResidualUnits):
            layer.fold_into_constants()
    serve = serve or (lambda network, images: network(images, training=False))
    signature = signature or tf.TensorSpec(model.input.shape, model.input.dtype, name="images")
    traced = tf.function(lambda argument: serve(network, argument), autograph=False).get_concrete_function(signature)
    constant = as_constants(traced)

    def frozen(images):
        return tf.nest.pack_sequence_as(traced.structured_outputs, constant(images))

    return tf.function(frozen, input_signature=[signature], autograph=False)
