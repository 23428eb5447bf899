"""A recipe's optimizer and learning-rate schedule, from Keras' own."""

from typing import Any

import keras

from keras_preact.training.muon import Muon
from keras_preact.training.recipe import Recipe
from keras_preact.training.sgd import RecipeSGD
from keras_preact.types import Tensor


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
