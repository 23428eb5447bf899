"""One loop over stacked arrays, for each backend.

`keras.ops.scan` does not serve on TensorFlow: it stacks only outputs of the carry's shape, and gives no bound on the
number of steps, which XLA needs for the gradient.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_preact.types import Tensor

# The name that `conv.convolve` gives its results on JAX.
CONVOLUTION = "convolution"


def scan(
    step: Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]],
    carry: Tensor,
    stacked: Mapping[str, Tensor],
    outputs: Mapping[str, tuple[Sequence[int | None], str]],
    unroll: int = 1,
    remat: int = 0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Calls `step(carry, slices) -> (carry, outputs)` once per index of the leading axis and stacks the outputs.

    Args:
        step: A function of a tensor and a dict of slices, without side effects.
        carry: A tensor whose shape `step` keeps.
        stacked: A dict of tensors with one common leading axis of static length.
        outputs: A dict from the name of each output to (shape of one step, dtype); None in a shape is unknown.
        unroll: Steps in one turn of the loop; all of them make straight code. Steps left over follow the loop.
        remat: If positive, the backward pass computes again what is inside every `remat` steps, and keeps their carry.

    Returns:
        The last carry, and a dict of outputs with the leading axis.
    """
    length = next(iter(stacked.values())).shape[0]
    loop = {"tensorflow": _loop_tensorflow, "jax": _loop_jax}.get(keras.backend.backend())
    block = max(remat, 1)
    turn = block * -(-min(unroll, length) // block)  # whole blocks
    turns = length // turn if loop else 0
    looped = turn * turns if turns > 1 else 0
    parts = []
    if loop and looped:
        many = functools.partial(_steps, step, turn, remat)
        carry, outputs_of_loop = loop(many, carry, stacked, outputs, turn, turns, remat)
        parts.append(outputs_of_loop)
    if looped < length:
        rest = {name: array[looped:] for name, array in stacked.items()} if looped else stacked
        carry, outputs_of_rest = _steps(step, length - looped, remat, carry, rest)
        parts.append(outputs_of_rest)
    return carry, _joined(parts)


def _joined(parts):
    """Returns dicts of arrays, concatenated."""
    if len(parts) == 1:
        return parts[0]
    return {name: keras.ops.concatenate([part[name] for part in parts], axis=0) for name in parts[0]}


def _steps(step, count, remat, carry, slices):
    """Takes `count` steps one after the other, if `remat` recomputed in blocks of it, and stacks their outputs."""
    each, outputs, block = _unstacked(slices, count), [], remat or count
    for start in range(0, count, block):
        carry, some = (_recomputed if remat else _block)(step, carry, each[start : start + block])
        outputs += some
    return carry, {name: keras.ops.stack([output[name] for output in outputs]) for name in outputs[0]}


def _unstacked(slices, count):
    """Returns a list of dicts. The gradient of one unstacking is much cheaper than that of as many slices."""
    apart = {n: list(a) if isinstance(a, np.ndarray) else keras.ops.unstack(a, count) for n, a in slices.items()}
    return [{name: parts[index] for name, parts in apart.items()} for index in range(count)]


def _block(step, carry, each):
    """Takes a step with each of a list of dicts; returns the last carry and a list of outputs."""
    outputs = []
    for slices in each:
        carry, output = step(carry, slices)
        outputs.append(output)
    return carry, outputs


def _recomputed(step, carry, each):
    """Does what `_block` does, so that the backward pass computes again what is inside."""
    function, backend = functools.partial(_block, step), keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.checkpoint(function)(carry, each)
    if backend == "tensorflow":
        return _recomputed_tensorflow(function, carry, each)
    from torch.utils.checkpoint import checkpoint

    return checkpoint(function, carry, each, use_reentrant=False)


def _recomputed_tensorflow(function, carry, each):
    """Hands `tf.recompute_grad`, which takes only tensors, the structures as lists of them."""
    import tensorflow as tf

    structure: list[Any] = []

    @tf.recompute_grad
    def flat(carry, *arrays):
        results = function(carry, tf.nest.pack_sequence_as(each, arrays))
        structure[:] = [results]
        return tf.nest.flatten(results)

    results = flat(carry, *tf.nest.flatten(each))
    return tf.nest.pack_sequence_as(structure[0], results)


def _loop_tensorflow(many, carry, stacked, outputs, turn, turns, remat):
    import tensorflow as tf

    def array(shape, dtype):
        return tf.TensorArray(dtype, size=turns, element_shape=(turn, *shape))

    def split(value):
        value = value if turn * turns == value.shape[0] else value[: turn * turns]
        return tf.reshape(value, (turns, turn, *value.shape[1:]))

    reads = {name: array(value.shape[1:], value.dtype).unstack(split(value)) for name, value in stacked.items()}
    writes = {name: array(shape, dtype) for name, (shape, dtype) in outputs.items()}
    shape = carry.shape

    def body(turn_index, carry, writes):
        carry, ys = many(carry, {name: ta.read(turn_index) for name, ta in reads.items()})
        carry = tf.ensure_shape(carry, shape)
        return turn_index + 1, carry, {name: ta.write(turn_index, ys[name]) for name, ta in writes.items()}

    _, carry, writes = tf.while_loop(
        lambda turn_index, *_: turn_index < turns,
        body,
        (tf.constant(0), carry, writes),
        maximum_iterations=turns,
        parallel_iterations=1,
    )
    stacks = {name: ta.stack() for name, ta in writes.items()}
    return carry, {name: tf.reshape(s, (-1, *tf.unstack(tf.shape(s))[2:])) for name, s in stacks.items()}


def _loop_jax(many, carry, stacked, outputs, turn, turns, remat):
    import jax

    if not remat:
        # Of what is inside, keep the outputs of convolutions; the rest takes longer to store than to compute again.
        many = jax.checkpoint(many, policy=jax.checkpoint_policies.save_only_these_names(CONVOLUTION))
    split = {n: a[: turn * turns].reshape((turns, turn, *a.shape[1:])) for n, a in stacked.items()}
    carry, stacks = jax.lax.scan(many, carry, split)
    return carry, {name: s.reshape((-1, *s.shape[2:])) for name, s in stacks.items()}


def is_jax_on_gpu() -> bool:
    """Returns whether JAX is Keras' backend and computes on a GPU."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "gpu"
