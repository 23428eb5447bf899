"""Convolutions of channels-last images, by the fastest way that each backend has inside a loop."""

import functools

import keras
from keras import ops

from keras_preact.network.layers.loop import CONVOLUTION
from keras_preact.types import Tensor


def convolve(x: Tensor, kernel: Tensor, strides: int = 1, bias: Tensor | None = None) -> Tensor:
    """Convolves x, (batch, height, width, C_in), with kernel, (k, k, C_in, C_out), padded by k // 2 on every side."""
    side, backend = kernel.shape[0], keras.backend.backend()
    fuses = bias is not None and backend == "tensorflow"  # convolution, bias and the ReLU after it become one kernel
    if side == 1 and strides > 1 and backend != "tensorflow":  # there a strided slice takes longer than all the rest
        x, strides = x[:, ::strides, ::strides, :], 1
    if side == 1 and strides == 1 and not fuses:
        x = _product(x, kernel[0, 0])  # faster than a convolution in training
    elif strides == 1 and backend == "jax" and _on_cpu():
        x = _convolution_for_xla_on_cpu()(x, kernel)
    else:
        if strides > 1 and side > 1:  # "same" would pad even sizes only below and to the right
            x = ops.pad(x, [[0, 0], [side // 2] * 2, [side // 2] * 2, [0, 0]])
        x = ops.conv(x, kernel, strides, "same" if strides == 1 else "valid", data_format="channels_last")
    if backend == "jax":
        from jax.ad_checkpoint import checkpoint_name

        x = checkpoint_name(x, CONVOLUTION)
    if fuses:
        import tensorflow as tf

        return tf.nn.bias_add(x, bias)
    return x if bias is None else x + bias


def _product(x, matrix):
    """Returns x @ matrix, of x (batch, height, width, C_in); a matrix of pixels needs no shapes at run time."""
    height, width = x.shape[1:3]
    if None in (height, width):
        return ops.matmul(x, matrix)
    product = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), matrix)
    return ops.reshape(product, (-1, height, width, matrix.shape[-1]))


def _on_cpu():
    import jax

    return jax.default_backend() == "cpu"


@functools.cache
def _convolution_for_xla_on_cpu():
    """Returns a convolution with gradients of its own: XLA's are up to 100 times slower inside a loop on CPUs.

    Both are written as what is fast there, a plain convolution: that of the input has the kernel turned around; that of
    the kernel has channels for images, images for channels, and the gradient for a kernel.
    """
    import jax
    from jax import numpy as jnp

    def convolution(x, kernel, padding):
        padding = [(padding, padding)] * 2
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def forward(x, kernel):
        return convolution(x, kernel, kernel.shape[0] // 2)

    def backward(inputs, gradient):
        x, kernel = inputs
        of_kernel = convolution(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), kernel.shape[0] // 2)
        return forward(gradient, jnp.flip(kernel, (0, 1)).swapaxes(2, 3)), of_kernel.transpose(1, 2, 0, 3)

    with_gradients = jax.custom_vjp(forward)
    with_gradients.defvjp(lambda x, kernel: (forward(x, kernel), (x, kernel)), backward)
    return with_gradients
