"""Learning rates of their own for each variable, and the steps at which they begin."""

import keras
from keras import ops

from keras_preact.keras_hooks import index_of
from keras_preact.training.optimizers import RecipeSGD


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

    def __init__(self, *args, rates=(), starts=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.rates, self.starts = tuple(rates), tuple(starts)

    def build(self, variables):
        assert len(self.rates) == len(self.starts) == len(variables)
        super().build(variables)

    def move(self, gradient, variable, learning_rate):
        index = index_of(self, variable)
        rate = learning_rate * self.rates[index]
        if self.starts[index]:
            begun = self.iterations >= self.starts[index]
            rate, gradient = rate * ops.cast(begun, rate.dtype), gradient * ops.cast(begun, gradient.dtype)
        super().move(gradient, variable, rate)

    def get_config(self):
        return {**super().get_config(), "rates": self.rates, "starts": self.starts}
