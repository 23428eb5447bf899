"""Batch normalisation: one function, used by Keras' layer below and by the stacked units."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_preact.types import Tensor


def batch_norm(
    x: Tensor, weights: Mapping[str, Tensor | None], epsilon: float, training: bool, synchronized: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Normalises x over all axes but the last, and returns it with the batch's mean and (biased) variance.

    Args:
        x: Tensor (batch, height, width, channels).
        weights: Dict with `moving_mean` and `moving_variance`, and `gamma` and `beta` unless left out or None; each
            (channels,), float32 or float64.
        epsilon: Added to the variance.
        training: Whether to use the batch's statistics; if not, the moving ones, and None is returned for the batch's.
        synchronized: Whether to take the statistics over all replicas of a `tf.distribute` strategy.
    """
    gamma, beta = weights.get("gamma"), weights.get("beta")
    if not (training and synchronized) and keras.backend.backend() == "tensorflow" and x.dtype != "float64":
        moving = None if training else (weights["moving_mean"], weights["moving_variance"])
        return _fused(x, gamma, beta, moving, epsilon)
    # Statistics of half precision need more digits. (Keras' `result_type` makes float32 of float64 on JAX.)
    dtype = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    wide = ops.cast(x, dtype)
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    if training:
        mean, variance = ops.moments(wide, axes=[0, 1, 2], synchronized=synchronized)
    cast = lambda value: None if value is None else ops.cast(value, dtype)  # noqa: E731
    y = ops.batch_normalization(wide, cast(mean), cast(variance), -1, cast(beta), cast(gamma), epsilon)
    return ops.cast(y, x.dtype), *((mean, variance) if training else (None, None))


def folded(kernel: Tensor, bias: Tensor | None, bn: Mapping[str, Tensor], epsilon: float) -> tuple[Tensor, Tensor]:
    """Returns kernel and bias of a convolution that does, in inference, what it and the BN that follows it do.

    Args:
        kernel: (..., k, k, C_in, C_out), of any precision.
        bias: (..., C_out) or None.
        bn: Dict with `gamma`, `beta`, `moving_mean` and `moving_variance`, each (..., C_out); its dtype is returned.
        epsilon: Added to the variance.
    """
    scale = bn["gamma"] * ops.rsqrt(bn["moving_variance"] + epsilon)
    mean = bn["moving_mean"] if bias is None else bn["moving_mean"] - ops.cast(bias, scale.dtype)
    return ops.cast(kernel, scale.dtype) * scale[..., None, None, None, :], bn["beta"] - mean * scale


def _fused(x, gamma, beta, moving, epsilon):
    """Runs TensorFlow's one kernel for all of it, which Keras does not use; ReLU becomes part of it in inference.

    `moving` is (mean, variance), or None in training. The kernel returns N / (N - 1) of the batch's variance.
    """
    import tensorflow as tf

    channels = x.shape[-1]
    # The kernel takes no other dtype.
    gamma = tf.ones(channels) if gamma is None else tf.cast(gamma, tf.float32)
    beta = tf.zeros(channels) if beta is None else tf.cast(beta, tf.float32)
    if moving is not None:
        mean, variance = (tf.cast(value, tf.float32) for value in moving)
        parts = dict(scale=gamma, offset=beta, mean=mean, variance=variance)
        return tf.raw_ops.FusedBatchNormV3(x=x, **parts, epsilon=epsilon, is_training=False).y, None, None
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=epsilon, is_training=True)
    count = tf.cast(tf.size(x) // channels, variance.dtype)
    return y, mean, variance * ((count - 1.0) / count)


def scaled(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Returns x * scale + offset, of x (batch, height, width, channels) and vectors of its channels."""
    if keras.backend.backend() == "tensorflow" and x.dtype == "float32":
        import tensorflow as tf

        # As a convolution this is one kernel, with the ReLU after it; otherwise three, of which two are slow.
        return tf.nn.bias_add(tf.nn.depthwise_conv2d(x, scale[None, None, :, None], (1, 1, 1, 1), "VALID"), offset)
    if keras.backend.backend() == "tensorflow" and x.dtype != "float64":  # a convolution would round the scale
        still = (ops.zeros_like(scale), ops.ones_like(scale))
        return _fused(x, scale, offset, still, 0.0)[0]
    return ops.cast(ops.cast(x, scale.dtype) * scale + offset, x.dtype)


def moved(old: Tensor, new: Tensor, momentum: float) -> Tensor:
    """Returns the moving average after one step: the share `momentum` of the old value and the rest of the new."""
    return old * momentum + ops.cast(new, old.dtype) * (1.0 - momentum)


@keras.saving.register_keras_serializable(package="keras_preact")
class BatchNormalization(keras.layers.BatchNormalization):
    """Normalises as `keras.layers.BatchNormalization` does, with two differences.

    On TensorFlow it runs the fused kernel for images. Under a `tf.distribute` strategy the replicas' moving statistics
    are averaged at each step; Keras leaves each replica its own, so that a reloaded model differs from the trained one.
    """

    def add_weight(self, *args: Any, trainable: bool = True, **kwargs: Any) -> keras.Variable:
        return super().add_weight(*args, trainable=trainable, aggregation="none" if trainable else "mean", **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is not None or getattr(self, "renorm", False) or self.axis not in (-1, 3) or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable
        weights = {
            name: getattr(self, name) if getattr(self, name) is None else ops.convert_to_tensor(getattr(self, name))
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        }
        y, mean, variance = batch_norm(inputs, weights, self.epsilon, training, self.synchronized)
        if training:
            self.moving_mean.assign(moved(weights["moving_mean"], mean, self.momentum))
            self.moving_variance.assign(moved(weights["moving_variance"], variance, self.momentum))
        return y
