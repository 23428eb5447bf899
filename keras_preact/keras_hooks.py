"""All that this package uses of the private parts of Keras and TensorFlow, which a release of either may change.

`tests/project/test_keras_hooks.py` tests each with the versions that are installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from keras_preact.types import Tensor

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# The attribute of a Keras optimizer that holds the averages of the weights (`use_ema`).
AVERAGES = "_model_variables_moving_average"
WEIGHTS = "_trainable_variables"
VARIABLES = "_variables"  # all that the optimizer has itself, steps and rate first
LATER = "uninitialized_variables"  # Keras' global list of the variables that get their values later


def optimized_weights(optimizer: keras.optimizers.Optimizer | None) -> list[keras.Variable]:
    """Returns the weights that an optimizer was built for, in its order; an empty list before, or of None."""
    return list(getattr(optimizer, WEIGHTS, ()))


def index_of(optimizer: keras.optimizers.Optimizer, weight: keras.Variable) -> int:
    """Returns the place of a weight in `optimized_weights`, which is that of its slots."""
    return optimizer._get_variable_index(weight)


def copy_exclusions(source: keras.optimizers.Optimizer, target: keras.optimizers.Optimizer) -> None:
    """Excludes from an optimizer's weight decay what is excluded from another's by name, which no config holds.

    Raises:
        TypeError: If variables themselves are excluded: the target has others.
    """
    if getattr(source, "_exclude_from_weight_decay", ()):
        raise TypeError("The optimizer's exclude_from_weight_decay has a var_list; var_names can be copied.")
    if (pattern := getattr(source, "_exclude_from_weight_decay_pattern", None)) is not None:
        target._exclude_from_weight_decay_pattern = pattern  # by its own method only before it is built


def of_this_backend(config: Any) -> Any:
    """Returns a serialised object whose optimizers are those of this backend: torch has classes of its own for them.

    A file that torch wrote names these; read elsewhere, they need torch, and their steps fail.

    Args:
        config: What `keras.saving.serialize_keras_object` returns, of dicts and lists; it is left as it is.
    """
    if isinstance(config, list):
        return [of_this_backend(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {name: of_this_backend(value) for name, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers."):
        config["module"] = "keras.optimizers"
    return config


class ClippingHook:
    """Lets an optimizer do something of its own where Keras clips gradients; a base before Keras' own class."""

    def clip(self, gradients: list[Tensor], clip: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
        """Returns the clipped gradients, a list; `clip` is Keras' own function of such a list."""
        return clip(gradients)

    def _clip_gradients(self, grads):
        return self.clip(grads, super()._clip_gradients)  # type: ignore[misc]  # that of the base after it


class NoSymbolicBuild:
    """Keeps `fit` from looking at a batch to build a model that is built; a base before `keras.Model`."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Builds nothing."""


def build_metrics(model: keras.Model, labels: keras.KerasTensor, outputs: keras.KerasTensor) -> None:
    """Makes the variables of a compiled model's metrics, which Keras does within the first step.

    Args:
        model: A model that was compiled with metrics.
        labels: A `keras.KerasTensor` like a batch of labels.
        outputs: One like the model's output.
    """
    model._compile_metrics.build(labels, outputs)


def build_metrics_outside(model: keras.Model, labels: Any, outputs: Any) -> None:
    """Makes the variables of a model's metrics, if there are none yet, outside the function that TensorFlow traces.

    Under a strategy nothing is done: there Keras makes them before.

    Args:
        model: A compiled model.
        labels: A batch of labels, in the structure that the model was compiled for.
        outputs: The model's outputs for it.
    """
    import keras

    metrics = model._compile_metrics
    if metrics is None or metrics.built or model._distribute_strategy is not None:
        return

    def like(tensor):
        return keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))

    specs = [keras.tree.map_structure(like, tensors) for tensors in (labels, outputs)]
    with ThreadPoolExecutor(1) as outside:  # a function is traced in one thread, and what others make is not its own
        outside.submit(build_metrics, model, *specs).result()


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Builds networks in its body whose variables have a shape and no value, in a fraction of the time: to be counted.

    Keras would give them values when it next leaves a scope of this kind, so they are taken off its list.
    """
    import keras
    from keras.src.backend.common import global_state

    waiting = global_state.get_global_attribute(LATER)
    global_state.set_global_attribute(LATER, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(LATER, waiting)


def value_of_replica(variable: keras.Variable) -> tf.Variable:
    """Returns the `tf.Variable` of a Keras variable; under a strategy, that of the replica that asks."""
    value = variable.value
    return value._get() if hasattr(value, "_get") else value


def as_constants(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a concrete function of TensorFlow with its variables' present values as constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)
