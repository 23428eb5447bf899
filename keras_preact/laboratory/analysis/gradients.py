"""The two things that each backend does in its own way: compile a function, and pull a gradient back through one."""

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_preact.errors import argument_error
from keras_preact.types import Tensor

BACKENDS = ("tensorflow", "jax")


def check_backend() -> None:
    """Raises a `ValueError` on a backend that has no gradients here."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        hint = "Set the environment variable KERAS_BACKEND before Keras is imported."
        raise argument_error("backend", f"one of {', '.join(BACKENDS)}", backend, hint)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` of arrays and dicts of arrays, compiled once for each of their shapes."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    # XLA's gradients of convolutions are slow on CPUs. TensorFlow warns of many traces by a function's code, which
    # equal functions of different units share; a partial has none.
    return tf.function(functools.partial(function), jit_compile=False, autograph=False)


def linearized(
    function: Callable[[Tensor], tuple[Tensor, ...]], x: Tensor
) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]]:
    """Returns the tuple of arrays y = function(x), and the way back through it: from v to v^T dy/dx.

    The way back is linear. It takes one array for each of y, or None where nothing comes back.
    """
    return (_linearized_on_jax if keras.backend.backend() == "jax" else _linearized_on_tensorflow)(function, x)


def _linearized_on_jax(function, x):
    import jax

    def pull_back(*v):
        used = [index for index, part in enumerate(v) if part is not None]
        _, back = jax.vjp(lambda x: [function(x)[index] for index in used], x)  # XLA computes y once
        return back([v[index] for index in used])[0]

    return function(x), pull_back


def _linearized_on_tensorflow(function, x):
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)

    def pull_back(*v):
        used = [index for index, part in enumerate(v) if part is not None]
        sources, parts = [y[index] for index in used], [v[index] for index in used]
        return tape.gradient(sources, x, output_gradients=parts, unconnected_gradients="zero")

    return y, pull_back
