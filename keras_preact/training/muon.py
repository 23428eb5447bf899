"""Muon: momentum whose steps of convolution kernels are orthogonal matrices."""

import math

import keras
from keras import ops

from keras_preact.keras_hooks import index_of
from keras_preact.training.sgd import RecipeSGD
from keras_preact.types import Tensor

# Of the quintic a x + b x^3 + c x^5 that brings singular values near 1 in few turns (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TURNS = 5
RATE = 0.2  # the kernels' rate over that of all else
SIZE = 0.2  # root mean square of a kernel's step at rate 1, about that of Adam (Liu et al. 2025, arXiv 2502.16982)


@keras.saving.register_keras_serializable(package="keras_preact")
class Muon(RecipeSGD):
    """`RecipeSGD`, but a convolution kernel moves by the orthogonal matrix nearest to its velocity, about.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon). A kernel (k, k, C_in, C_out) is a matrix of
    k k C_in rows; one with a leading axis of stacked units is as many matrices, so that both layouts make the same
    step. Its velocity follows Torch's rule, and its rate is `RATE` of the learning rate. Keras' own Muon would take
    a run of stacked units for one matrix.
    """

    def move(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        if len(variable.shape) < 4:
            super().move(gradient, variable, learning_rate)
            return
        dtype = variable.dtype
        gradient, momentum = ops.cast(gradient, dtype), ops.cast(self.momentum, dtype)
        velocity = gradient
        if self.momentum:
            velocity = self.momentums[index_of(self, variable)]
            self.assign(velocity, momentum * velocity + gradient)
        step = orthogonal(gradient + momentum * velocity if self.nesterov else velocity)
        self.assign_sub(variable, ops.cast(learning_rate * RATE, dtype) * step)


def orthogonal(kernel: Tensor) -> Tensor:
    """Returns, of kernels ([units,] k, k, C_in, C_out), matrices with singular values near 1, scaled to `SIZE`.

    Args:
        kernel: Of a float dtype, which the iteration keeps.
    """
    shape = tuple(kernel.shape)
    rows, columns = math.prod(shape[-4:-1]), shape[-1]
    x = ops.reshape(kernel, (-1, rows, columns))
    is_tall = rows > columns
    x = ops.transpose(x, (0, 2, 1)) if is_tall else x
    x = x / (ops.sqrt(ops.sum(x * x, axis=(1, 2), keepdims=True)) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(TURNS):
        square = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
        x = a * x + ops.matmul(b * square + c * ops.matmul(square, square), x)
    x = ops.transpose(x, (0, 2, 1)) if is_tall else x
    return ops.reshape(x, shape) * (SIZE * math.sqrt(max(rows, columns)))
