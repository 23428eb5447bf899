"""What networks and optimizers ask of the replicas of a `tf.distribute` strategy; elsewhere there is one."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.types import Tensor


def has_strategy() -> bool:
    """Returns whether this is in the scope of a strategy of TensorFlow's."""
    import tensorflow as tf

    return tf.distribute.has_strategy()


def sum_over_replicas(tensors: list[Tensor]) -> tuple[list[Tensor], int]:
    """Returns the sum of each tensor over the replicas, and their number; called by each replica."""
    context, replicas = _context()
    if context is None:
        return tensors, 1
    import tensorflow as tf

    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors), replicas


def of_replica(draw: Tensor) -> Tensor:
    """Returns the state of a random generator, which all replicas have alike, made another in each."""
    context, _ = _context()
    if context is None:
        return draw
    import tensorflow as tf

    number = tf.cast(context.replica_id_in_sync_group, tf.int32)
    return tf.random.fold_in(tf.cast(draw, tf.int32), number)


def _context():
    """Returns TensorFlow's context of the replica that asks, and how many there are; None and 1 if it is alone."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context, replicas = tf.distribute.get_replica_context(), tf.distribute.get_strategy().num_replicas_in_sync
        if context is not None and replicas > 1:
            return context, replicas
    return None, 1


@keras.saving.register_keras_serializable(package="keras_preact")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Leaves out a step in which the gradients of any replica are not finite; Keras' own asks the first one alone."""

    def __init__(self, inner_optimizer: keras.optimizers.Optimizer, *args: Any, **kwargs: Any) -> None:
        super().__init__(inner_optimizer, *args, **{"name": "loss_scale_optimizer", **kwargs})

    def check_finite(self, grads: list[Tensor]) -> Tensor:
        (finite,), replicas = sum_over_replicas([ops.cast(super().check_finite(grads), "float32")])
        return ops.equal(finite, float(replicas))


def loss_scaled(optimizer: keras.optimizers.Optimizer | str) -> LossScaleOptimizer:
    """Returns an optimizer, as `compile` takes it, in a `LossScaleOptimizer`, with the settings of Keras' around it."""
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, LossScaleOptimizer):
        return optimizer
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return LossScaleOptimizer(optimizer)
    return LossScaleOptimizer(
        optimizer.inner_optimizer,
        initial_scale=optimizer.initial_scale,
        dynamic_growth_steps=optimizer.dynamic_growth_steps,
    )
