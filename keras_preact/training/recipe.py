"""How a network is trained, as frozen data."""

import dataclasses
from dataclasses import dataclass

from keras_preact.errors import argument_error, check_choice, check_fields, check_integer, check_number

SCHEDULES = ("cosine", "steps", "constant")
WEIGHT_DECAYS = ("l2", "l2_kernels", "decoupled")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")


@dataclass(frozen=True)
class Recipe:
    """Describes a training run."""

    source: str = "ours"
    """Where the recipe comes from."""
    epochs: int = 10
    """Passes over the training images."""
    global_batch_size: int = 64
    """Images in a step, over all replicas."""
    learning_rate: float = 0.1
    """The highest learning rate."""
    schedule: str = "cosine"
    """cosine (to 0), steps (a tenth at each of `drops`) or constant."""
    warmup_steps: int = 0
    """Steps at the start during which the learning rate grows from 0 (cosine) or is a tenth (steps)."""
    drops: tuple[int, ...] = ()
    """Epochs after which the learning rate falls to a tenth, for the schedule `steps`."""
    momentum: float = 0.9
    """Share of the last update that is added to the next."""
    nesterov: bool = False
    """Nesterov's momentum instead of plain momentum."""
    weight_decay: float = 1e-4
    """Strength of the weight decay."""
    weight_decay_kind: str = "l2"
    """l2 (in the gradient, all parameters), l2_kernels (in the gradient, kernels only) or decoupled."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes."""
    crop_padding: int = 0
    """Pixels of padding for random crops; 0 for no crops."""
    flip: bool = False
    """Mirror half of the images."""
    precision: str = "float32"
    """A Keras dtype policy."""
    bn_synchronized: bool = False
    """Batch statistics over all replicas; otherwise each has its own and the moving ones are averaged."""
    seed: int = 0
    """Decides initial weights, order, augmentation and dropout."""

    def __post_init__(self):
        for name in ("epochs", "global_batch_size"):
            check_integer(name, getattr(self, name))
        for name in ("warmup_steps", "crop_padding", "seed"):
            check_integer(name, getattr(self, name), minimum=0)
        check_number("learning_rate", self.learning_rate, low=0.0)
        check_number("weight_decay", self.weight_decay, low=0.0)
        check_number("momentum", self.momentum, 0.0, 1.0, below_high=True)
        check_number("label_smoothing", self.label_smoothing, 0.0, 1.0, below_high=True)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("weight_decay_kind", self.weight_decay_kind, WEIGHT_DECAYS)
        check_choice("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "drops", tuple(check_integer("drops", epoch) for epoch in self.drops))
        if self.drops and self.schedule != "steps":
            raise argument_error(
                "drops", f'left out with schedule="{self.schedule}"', self.drops, 'Use schedule="steps".'
            )
        if list(self.drops) != sorted(set(self.drops)):
            raise argument_error("drops", "growing epochs", self.drops)

    def replace(self, **fields):
        """Returns a copy with some fields changed; an unknown one is a `ValueError` that lists those that exist."""
        check_fields(type(self), fields)
        return dataclasses.replace(self, **fields)
