"""`RecipeSGD`: Keras' SGD with Torch's weight decay, of which the other optimizers are made."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_preact.keras_hooks import ClippingHook, index_of
from keras_preact.network.replicas import sum_over_replicas
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
