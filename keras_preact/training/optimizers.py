"""A recipe's optimizer and learning-rate schedule, from Keras' own."""

import re

import keras


@keras.saving.register_keras_serializable(package="keras_preact")
class SGDWithL2(keras.optimizers.SGD):
    """SGD whose weight decay is the gradient of an L2 penalty: g + l2 * w enters the momentum, as in Torch and Caffe.

    `keras.optimizers.SGD(weight_decay=...)` is decoupled: it shrinks w by learning rate * weight_decay beside the step.

    Args:
        l2: Strength.
        kernels_only: Whether batch normalisations' parameters and biases are left alone.
        **kwargs: Those of `keras.optimizers.SGD`.
    """

    def __init__(self, *args, l2=0.0, kernels_only=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.l2, self.kernels_only = l2, kernels_only

    def update_step(self, gradient, variable, learning_rate):
        # A variable of TensorFlow's own comes as "conv1_kernel:0", or "conv1_kernel/replica_1:0".
        if self.l2 and (not self.kernels_only or re.search(r"kernel($|[:/])", variable.name)):
            gradient = gradient + keras.ops.cast(self.l2, gradient.dtype) * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "kernels_only": self.kernels_only}


def make_optimizer(recipe, steps_per_epoch):
    """Returns the optimizer of a `Recipe`."""
    options = dict(
        learning_rate=make_schedule(recipe, steps_per_epoch), momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    if recipe.weight_decay_kind == "decoupled":
        return keras.optimizers.SGD(weight_decay=recipe.weight_decay, **options)
    kernels_only = recipe.weight_decay_kind == "l2_kernels"
    return SGDWithL2(l2=recipe.weight_decay, kernels_only=kernels_only, **options)


def make_schedule(recipe, steps_per_epoch):
    """Returns the learning rate of a `Recipe`: a number, or a Keras schedule over steps."""
    rate, warmup = recipe.learning_rate, recipe.warmup_steps
    schedules = keras.optimizers.schedules
    if recipe.schedule == "cosine":
        steps = max(1, recipe.epochs * steps_per_epoch - warmup)
        if not warmup:
            return schedules.CosineDecay(rate, steps)
        return schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=warmup)
    changes = {warmup: rate} if warmup else {}
    changes |= {epoch * steps_per_epoch: rate * 0.1**number for number, epoch in enumerate(recipe.drops, start=1)}
    if not changes:
        return rate
    # PiecewiseConstantDecay keeps a value up to and including its boundary, and steps count from 0.
    boundaries = [step - 1 for step in changes]
    return schedules.PiecewiseConstantDecay(boundaries, [rate * 0.1 if warmup else rate, *changes.values()])
