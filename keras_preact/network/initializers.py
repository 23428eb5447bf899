"""How weights start: convolutions as He et al. 2015, the classifier as Torch."""

import math
import random
from collections.abc import Sequence

import keras
import numpy as np

from keras_preact.types import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class HeNormal(keras.initializers.Initializer):
    """Draws convolution kernels: normal with std sqrt(2 / (k k C_out)), He's for the backward pass.

    So has fb.resnet.torch; the paper cites He et al. 2015 (arXiv 1502.01852) without naming the direction. Unlike
    Keras' `VarianceScaling`, it takes no notice of a leading axis of stacked units in (..., k, k, C_in, C_out), and it
    draws with NumPy: on JAX, Keras' own compiles a program for each new shape, 8 s for ResNet-164.
    `keras.utils.set_random_seed` seeds it.
    """

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> Tensor:
        std = math.sqrt(2.0 / (shape[-4] * shape[-3] * shape[-1]))
        generator = np.random.default_rng(random.getrandbits(64))
        values = generator.standard_normal(shape, dtype="float64" if dtype == "float64" else "float32")
        return keras.ops.convert_to_tensor(values * values.dtype.type(std), dtype)


def torch_uniform() -> keras.initializers.Initializer:
    """Returns the classifier's initialiser: uniform in +-1 / sqrt(C_in), as Torch and fb.resnet.torch have it."""
    return keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")
