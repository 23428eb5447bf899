"""Learning rates of their own for each variable, and the steps at which they begin."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_preact.keras_hooks import index_of
from keras_preact.training.sgd import RecipeSGD
from keras_preact.types import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class StagewiseSGD(RecipeSGD):
    """`RecipeSGD` whose variables have each a factor of the learning rate, and a step from which they move.

    Before its step a variable and its momentum stay as they are, to the bit; nothing is compiled again when it begins,
    and the momentum of the others continues. Its gradient is computed all the same, and counts for `global_clipnorm`.
    Decoupled weight decay would not know of it, and is refused by `Tuning.check`.

    Args:
        rates: A factor for each variable, in their order in `build`.
        starts: For each the number of steps before its first, likewise.
        **kwargs: Those of `RecipeSGD`.
    """

    def __init__(self, *args: Any, rates: Sequence[float] = (), starts: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rates, self.starts = tuple(rates), tuple(starts)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        assert len(self.rates) == len(self.starts) == len(variables)
        super().build(variables)

    def move(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        index = index_of(self, variable)
        rate = learning_rate * self.rates[index]
        if self.starts[index]:
            begun = self.iterations >= self.starts[index]
            rate, gradient = rate * ops.cast(begun, rate.dtype), gradient * ops.cast(begun, gradient.dtype)
        super().move(gradient, variable, rate)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rates": self.rates, "starts": self.starts}
