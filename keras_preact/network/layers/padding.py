"""The two places where the networks pad what Keras' own layers cannot: option A's channels, and the stem's pool."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_preact.network.shapes import subsampled
from keras_preact.types import Tensor


def zero_pad(x: Tensor, filters: int, strides: int) -> Tensor:
    """Keeps every `strides`-th row and column of x, (batch, height, width, C), and appends zeros up to `filters`."""
    x = x[:, ::strides, ::strides, :]
    return ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, filters - x.shape[-1]]])


@keras.saving.register_keras_serializable(package="keras_preact")
class ZeroPadShortcut(keras.layers.Layer):
    """Subsamples a shortcut and appends zero channels: option A of ResNet (arXiv 1512.03385), without parameters.

    Args:
        filters: Channels of the output, at least those of the input.
        strides: Keeps every `strides`-th row and column, from the first on.

    Input shape (batch, height, width, channels), output shape (batch, ceil(height / strides), ceil(width / strides),
    filters), both of the layer's compute dtype. Zeros come last, as in fb.resnet.torch.
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.strides = filters, strides

    def call(self, x: Tensor) -> Tensor:
        return zero_pad(x, self.filters, self.strides)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, _ = input_shape
        return batch, subsampled(height, self.strides), subsampled(width, self.strides), self.filters

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}


@keras.saving.register_keras_serializable(package="keras_preact")
class StemPool(keras.layers.Layer):
    """Applies the ImageNet stem's 3x3 max-pooling with stride 2.

    Args:
        padding: One pixel of `"negative_infinity"` (Torch) or `"zero"` (keras.applications) on every side, or `"same"`
            (TF-slim), which on even sizes pads below and to the right only. On a signal that has passed a ReLU the
            first two are equal.

    Input shape (batch, height, width, channels), output shape (batch, ceil(height / 2), ceil(width / 2), channels).
    """

    def __init__(self, padding: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = padding

    def call(self, x: Tensor) -> Tensor:
        if self.padding == "same":
            return ops.max_pool(x, 3, 2, padding="same", data_format="channels_last")
        value = 0.0 if self.padding == "zero" else -math.inf
        x = ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=value)
        return ops.max_pool(x, 3, 2, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, channels = input_shape
        return batch, subsampled(height, 2), subsampled(width, 2), channels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}
