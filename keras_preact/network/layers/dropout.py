"""Elements set to zero at random, by numbers drawn in float32, and others on each replica."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_preact.network.replicas import of_replica
from keras_preact.types import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class Dropout(keras.layers.Dropout):
    """Does what Keras' layer does, whose numbers on TensorFlow are the same on all replicas and of the compute dtype.

    Numbers in bfloat16 are multiples of 1/128, so that a rate of 0.002 would drop 0.8 % of the elements.
    """

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return inputs
        shape = ops.shape(inputs)
        shape = [own or its for own, its in zip(self.noise_shape or (None,) * len(shape), shape)]
        return dropped(inputs, uniform(shape, of_replica(self.seed_generator.next()), 0), self.rate)


def uniform(shape: Sequence[int], draw: Tensor, index: Tensor | int) -> Tensor:
    """Returns float32 numbers in [0, 1) that are a function of `draw`, a `SeedGenerator`'s next state, and `index`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.random.stateless_uniform(shape, tf.random.fold_in(tf.cast(draw, tf.int32), index))
    if backend == "jax":
        import jax

        return jax.random.uniform(jax.random.fold_in(draw, index), shape)
    seed = np.random.SeedSequence([int(number) for number in (*draw, index)]).generate_state(1)[0]
    return keras.random.uniform(shape, seed=int(seed) >> 1)  # of 31 bits


def dropped(x: Tensor, noise: Tensor, rate: Tensor | float) -> Tensor:
    """Returns x with zeros where `noise`, uniform in [0, 1), is below `rate`, and the rest divided by 1 - rate."""
    wide = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    kept = ops.cast(x, wide) / ops.cast(1.0 - rate, wide)
    return ops.where(noise >= rate, ops.cast(kept, x.dtype), ops.zeros_like(x))
