"""How a network is trained, as frozen data."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from keras_preact import bounds
from keras_preact.data.augment import Augmentation
from keras_preact.errors import (
    argument_error,
    check_choice,
    check_fields,
    check_flag,
    check_integer,
    check_integers,
    check_number,
)

SCHEDULES = ("cosine", "linear", "steps", "constant", "plateau")
WEIGHT_DECAYS = ("l2", "l2_kernels", "decoupled")
MOMENTUM_RULES = ("caffe", "torch")
OPTIMIZERS = ("sgd", "muon")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")

_COUNTS = ("steps", "warmup_steps", "patience", "early_stopping", "validation_images")
_SHARES = ("momentum", "label_smoothing", "ema")
_CHECKS: dict[str, Callable[[str, object], object]] = {
    **dict.fromkeys(("epochs", "global_batch_size"), check_integer),
    **dict.fromkeys(_COUNTS, partial(check_integer, minimum=0)),
    "image_size": partial(check_integer, minimum=0, maximum=bounds.SIDE),
    "seed": partial(check_integer, minimum=0, maximum=bounds.SEED),
    **dict.fromkeys(("learning_rate", "weight_decay", "clip_norm"), partial(check_number, low=0.0)),
    **dict.fromkeys(_SHARES, partial(check_number, low=0.0, high=1.0, below_high=True)),
    **dict.fromkeys(("nesterov", "bn_synchronized"), check_flag),
}


@dataclass(frozen=True)
class Recipe(Augmentation):
    """Describes a training run: how images are varied, and the fields below."""

    source: str = "ours"
    """Where the recipe comes from."""
    epochs: int = 10
    """Passes over the training images."""
    steps: int = 0
    """Steps of training instead of `epochs`, if not 0; `drops` are steps then."""
    global_batch_size: int = 64
    """Images in a step, over all replicas; an epoch leaves out those that fill no whole batch."""
    learning_rate: float = 0.1
    """The highest learning rate."""
    schedule: str = "cosine"
    """cosine or linear (to 0), steps (a tenth at each of `drops`), constant, or plateau (a tenth after `patience`)."""
    warmup_steps: int = 0
    """Steps at the start during which the learning rate grows from 0 (cosine, linear) or is a tenth (steps,
    constant)."""
    drops: tuple[int, ...] = ()
    """Epochs, or steps if `steps` is given, after which the learning rate falls to a tenth, for the
    schedule `steps`."""
    patience: int = 0
    """Epochs without a better validation error after which the learning rate falls, for the schedule `plateau`."""
    early_stopping: int = 0
    """Epochs without a better validation error after which the run ends; 0 for never."""
    validation_images: int = 0
    """Training images held out, on which the error is measured after each epoch instead of on the test images."""
    optimizer: str = "sgd"
    """sgd (with momentum) or muon (whose steps of convolution kernels are orthogonal matrices)."""
    momentum: float = 0.9
    """Share of the last update that is added to the next."""
    momentum_rule: str = "caffe"
    """caffe (as in Keras, each step adds to the velocity at the rate of its time) or torch (the velocity, a sum of
    gradients, is multiplied by the present rate)."""
    nesterov: bool = False
    """Nesterov's momentum instead of plain momentum."""
    weight_decay: float = 1e-4
    """Strength of the weight decay."""
    weight_decay_kind: str = "l2"
    """l2 (in the gradient, all parameters), l2_kernels (in the gradient, kernels only) or decoupled."""
    clip_norm: float = 0.0
    """The largest norm of all gradients together, after their mean over the replicas; 0 for any."""
    ema: float = 0.0
    """Momentum of an average of the weights, which replaces them at the end; 0 for none."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes."""
    image_size: int = 0
    """Side of the square images that the network sees; 0 for the data set's own. Image files that the run loads are
    resized to it in training and evaluation; the images of a `DataSet` in training only, on the device, after all else
    is done to them."""
    levels: tuple[tuple[int, int, int], ...] = ()
    """(depth, image size, epochs) of each part of a training that begins shallow, on small images, and ends with the
    network's own depth; size 0 is the data set's own. `epochs` is their sum. See `deepen`."""
    precision: str = "float32"
    """A Keras dtype policy: float32, mixed_bfloat16, mixed_float16 or float64. Steps that mixed_float16 leaves out, as
    gradients overflow, do not count in schedules."""
    bn_synchronized: bool = False
    """Batch statistics over all replicas, as always on JAX; otherwise each has its own, and the moving ones are
    averaged."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("weight_decay_kind", self.weight_decay_kind, WEIGHT_DECAYS)
        check_choice("momentum_rule", self.momentum_rule, MOMENTUM_RULES)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "drops", check_integers("drops", self.drops, may_be_empty=True))
        self._check_schedule()
        self._check_levels()

    def _check_levels(self):
        expected = "(depth, image size, epochs) of each level"
        is_sequence = isinstance(self.levels, (tuple, list))
        if not is_sequence or not all(isinstance(level, (tuple, list)) and len(level) == 3 for level in self.levels):
            raise argument_error("levels", expected, self.levels)
        checks = {"depth": check_integer, "image size": _CHECKS["image_size"], "epochs": check_integer}
        check = lambda name, value: checks[name](f"levels ({name})", value)  # noqa: E731
        object.__setattr__(self, "levels", tuple(tuple(map(check, checks, level)) for level in self.levels))
        if not self.levels:
            return
        depths, _, epochs = zip(*self.levels)
        if list(depths) != sorted(depths):
            raise argument_error("levels", "of growing depth", self.levels)
        if self.steps or self.image_size:
            name = "steps" if self.steps else "image_size"
            raise argument_error(name, "0 with `levels`, which say it", getattr(self, name))
        if self.epochs != sum(epochs):
            raise argument_error("epochs", f"{sum(epochs)}, the sum of those of `levels`", self.epochs)
        if self.seed + len(self.levels) > bounds.SEED:  # each draws by the next seed
            raise argument_error("seed", f"at most {bounds.SEED - len(self.levels):,} with `levels`", self.seed)
        if self.early_stopping:
            hint = "A level that ends the run would leave its shallower network."
            raise argument_error("early_stopping", "0 with `levels`", self.early_stopping, hint)

    def _check_schedule(self):
        if self.drops and self.schedule != "steps":
            hint = 'Pass drops=() (--drops), or schedule="steps".'
            raise argument_error("drops", f'() with schedule="{self.schedule}"', self.drops, hint)
        if list(self.drops) != sorted(set(self.drops)):
            raise argument_error("drops", "growing epochs", self.drops)
        if (self.schedule == "plateau") != bool(self.patience):
            raise argument_error("patience", 'epochs with schedule="plateau", else 0', self.patience)
        if self.schedule == "plateau" and self.warmup_steps:
            raise argument_error("warmup_steps", '0 with schedule="plateau"', self.warmup_steps)
        if self.steps:
            self.check_warmup(1)
        if (self.patience or self.early_stopping) and not self.validation_images:
            hint = "A schedule or an end that the test images decide would make their error no measurement."
            raise argument_error("validation_images", "above 0 with patience or early_stopping", 0, hint)

    def check_warmup(self, steps_per_epoch: int) -> None:
        """Raises a `ValueError` if the warm-up is still on at the first of `drops`: the rate would never be whole.

        Args:
            steps_per_epoch: What `drops` are multiplied by, if `epochs` are counted.
        """
        first = self.drops[0] * (1 if self.steps else steps_per_epoch) if self.drops else 0
        if 0 < first <= self.warmup_steps:
            expected = f"below {first:,}, the step of the first of `drops`"
            raise argument_error("warmup_steps", expected, self.warmup_steps, "Or the rate falls before it has risen.")

    def replace(self, **fields: Any) -> Self:
        """Returns a copy with some fields changed; an unknown one is a `ValueError` that lists those that exist."""
        check_fields(type(self), fields)
        return dataclasses.replace(self, **fields)

    def augmentation(self) -> Augmentation:
        """Returns the `Augmentation` alone."""
        return Augmentation(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)})

    def total_steps(self, steps_per_epoch: int) -> int:
        """Returns the steps of the whole training."""
        return self.steps or self.epochs * steps_per_epoch
