"""A recipe's optimizer and learning-rate schedule, from Keras' own."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_preact.keras_hooks import ClippingHook, index_of
from keras_preact.network.replicas import sum_over_replicas
from keras_preact.training.recipe import Recipe
from keras_preact.types import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class RecipeSGD(ClippingHook, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with Torch's weight decay, and right under `tf.distribute` strategies.

    - Weight decay may be the gradient of an L2 penalty, as in Torch and Caffe: g + l2 * w enters the momentum. Keras'
      own `weight_decay` shrinks w by learning rate * weight_decay beside the step.
    - The velocity v may be Torch's: v = momentum * v + g, and w moves by -rate * v. In Keras and Caffe v holds steps,
      each of the rate of its time: v = momentum * v - rate * g, and w moves by v. The two differ for as long as the
      velocity remembers steps before a change of the rate.
    - Gradients are clipped after their mean over the replicas; Keras clips each replica's share.
    - An average of the weights (`use_ema`) replaces them when `use_average` is called; Keras does it at the end of
      every `fit`, also of one that was interrupted.

    Args:
        l2: Strength.
        kernels_only: Whether batch normalisations' parameters and biases are left alone.
        momentum_rule: `"caffe"` or `"torch"`.
        **kwargs: Those of `keras.optimizers.SGD`.
    """

    def __init__(
        self, *args: Any, l2: float = 0.0, kernels_only: bool = False, momentum_rule: str = "caffe", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.l2, self.kernels_only, self.momentum_rule = l2, kernels_only, momentum_rule

    def update_step(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        # A variable of TensorFlow's own comes as "conv1_kernel:0", or "conv1_kernel/replica_1:0".
        if self.l2 and (not self.kernels_only or re.search(r"kernel($|[:/])", variable.name)):
            gradient = gradient + keras.ops.cast(self.l2, gradient.dtype) * keras.ops.cast(variable, gradient.dtype)
        self.move(gradient, variable, learning_rate)

    def move(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        """Makes the step of a gradient that the weight decay is in."""
        if self.momentum_rule == "caffe" or not self.momentum:
            super().update_step(gradient, variable, learning_rate)
            return
        gradient, rate, momentum = (
            keras.ops.cast(value, variable.dtype) for value in (gradient, learning_rate, self.momentum)
        )
        velocity = self.momentums[index_of(self, variable)]
        self.assign(velocity, momentum * velocity + gradient)
        self.assign_sub(variable, rate * (gradient + momentum * velocity if self.nesterov else velocity))

    def clip(self, gradients: list[Tensor], clip: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
        if not self.global_clipnorm:
            return clip(gradients)
        total, replicas = sum_over_replicas(gradients)
        return [gradient / replicas for gradient in clip(total)]

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Leaves the weights as they are at the end of a `fit`."""

    def use_average(self, variables: Sequence[keras.Variable]) -> None:
        """Sets `variables` to their averages, if there are any."""
        super().finalize_variable_values(variables)
        if keras.backend.backend() == "jax":  # both are one array now, which the next step gives away
            for variable in variables:
                variable.assign(keras.ops.copy(variable.value))

    def get_config(self) -> dict[str, Any]:
        own = {"l2": self.l2, "kernels_only": self.kernels_only, "momentum_rule": self.momentum_rule}
        return {**super().get_config(), **own}


def make_optimizer(
    recipe: Recipe, steps_per_epoch: int, optimizer: type[RecipeSGD] | None = None, **options: Any
) -> RecipeSGD:
    """Returns the optimizer of a `Recipe`.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Whole batches.
        optimizer: A class made of `RecipeSGD`; that which the recipe names if None.
        **options: What the class takes beside that.
    """
    from keras_preact.training.muon import Muon  # which is made of RecipeSGD

    optimizer = optimizer or {"sgd": RecipeSGD, "muon": Muon}[recipe.optimizer]
    options |= dict(
        learning_rate=make_schedule(recipe, steps_per_epoch),
        momentum=recipe.momentum,
        momentum_rule=recipe.momentum_rule,
        nesterov=recipe.nesterov,
    )
    if recipe.clip_norm:
        options["global_clipnorm"] = recipe.clip_norm
    if recipe.ema:
        options |= dict(use_ema=True, ema_momentum=recipe.ema)
    if recipe.weight_decay_kind == "decoupled":
        return optimizer(weight_decay=recipe.weight_decay, **options)
    return optimizer(l2=recipe.weight_decay, kernels_only=recipe.weight_decay_kind == "l2_kernels", **options)


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate of a `Recipe`: a number, or a Keras schedule over steps.

    Raises:
        ValueError: If the warm-up lasts until the first of `drops`.
    """
    recipe.check_warmup(steps_per_epoch)
    rate, warmup = recipe.learning_rate, recipe.warmup_steps
    schedules = keras.optimizers.schedules
    steps = max(1, recipe.total_steps(steps_per_epoch) - warmup)
    if recipe.schedule == "cosine":
        if not warmup:
            return schedules.CosineDecay(rate, steps)
        return schedules.CosineDecay(0.0, steps, warmup_target=rate, warmup_steps=warmup)
    if recipe.schedule == "linear":
        return LinearDecay(rate, steps, warmup)
    changes = {warmup: rate} if warmup else {}
    unit = 1 if recipe.steps else steps_per_epoch
    changes |= {drop * unit: rate * 0.1**number for number, drop in enumerate(recipe.drops, start=1)}
    if not changes:
        return rate
    # PiecewiseConstantDecay keeps a value up to and including its boundary, and steps count from 0.
    boundaries = [step - 1 for step in changes]
    return schedules.PiecewiseConstantDecay(boundaries, [rate * 0.1 if warmup else rate, *changes.values()])


@keras.saving.register_keras_serializable(package="keras_preact")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Grows linearly from 0 to `rate` in `warmup_steps`, and falls linearly to 0 in the `decay_steps` after them."""

    def __init__(self, rate: float, decay_steps: int, warmup_steps: int = 0) -> None:
        self.rate, self.decay_steps, self.warmup_steps = rate, decay_steps, warmup_steps

    def __call__(self, step: Tensor) -> Tensor:
        step = keras.ops.cast(step, "float32")
        share = 1.0 - (step - self.warmup_steps) / self.decay_steps
        if self.warmup_steps:
            share = keras.ops.minimum(share, step / self.warmup_steps)
        return self.rate * keras.ops.clip(share, 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "decay_steps": self.decay_steps, "warmup_steps": self.warmup_steps}
