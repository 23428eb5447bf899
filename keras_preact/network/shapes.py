"""A network run on shapes alone: the weights each operation holds, its multiply-adds, the elements of its output."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from keras_preact.network.environment import ConvSpec, Environment, UnitEnvironment
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.network.units import residual_unit

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Weight:
    """Describes one weight: its shape, its start (`"he"` or a constant), and whether the optimizer moves it."""

    shape: tuple[int, ...]
    start: str | float
    trainable: bool = True

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def initializer(self) -> keras.initializers.Initializer:
        """Returns the Keras initialiser of this weight, and of any number of them on a leading axis."""
        import keras

        from keras_preact.network.initializers import HeNormal

        return HeNormal() if self.start == "he" else keras.initializers.Constant(self.start)


@dataclass
class Operation:
    """Describes one operation.

    Attributes:
        name: Its name.
        weights: A `Weight` for each of its weights, by name.
        multiply_adds: Those of one image.
        shape: That of its output, of one image.
        reads: The names of the operations whose outputs it reads; None for the input of all.
        is_random: Whether it draws numbers in training.
    """

    name: str
    weights: dict[str, Weight] = field(default_factory=dict)
    multiply_adds: int = 0
    shape: tuple[int, ...] = ()
    reads: tuple[str | None, ...] = ()
    is_random: bool = False

    @property
    def elements(self) -> int:
        """The number of elements of the output."""
        return math.prod(self.shape)


class TracedShape(tuple):
    """A signal's (height, width, channels), which knows the operation that it is the output of."""

    operation: str | None = None


Shape: TypeAlias = tuple  # (height, width, channels); a side that is unknown is None


class UnitShapes(UnitEnvironment[Shape]):
    """An environment whose signals are (height, width, channels); it records every operation in order.

    Attributes:
        operations: A list of `Operation`.
    """

    def __init__(self, prefix: str = "", operations: list[Operation] | None = None) -> None:
        self.prefix = prefix
        self.operations = [] if operations is None else operations

    def conv(self, x: Shape, name: str, conv: ConvSpec) -> Shape:
        height, width = subsampled(x[0], conv.strides), subsampled(x[1], conv.strides)
        weights = {"kernel": Weight((conv.kernel, conv.kernel, x[2], conv.filters), "he")}
        multiply_adds = 0 if height is None or width is None else height * width * weights["kernel"].size
        if conv.bias is not None:
            weights["bias"] = Weight((conv.filters,), conv.bias)
        return self._record(name, (height, width, conv.filters), [x], weights=weights, multiply_adds=multiply_adds)

    def batch_norm(self, x: Shape, name: str) -> Shape:
        return self._record(name, x, [x], weights=batch_norm_weights(x[2]))

    def relu(self, x: Shape, name: str) -> Shape:
        return self._record(name, x, [x])

    def sigmoid(self, x: Shape, name: str) -> Shape:
        return self._record(name, x, [x])

    def add(self, a: Shape, b: Shape, name: str) -> Shape:
        return self._record(name, _common(a, b), [a, b])

    def multiply(self, a: Shape, b: Shape, name: str) -> Shape:
        return self._record(name, _common(a, b), [a, b])

    def affine(self, x: Shape, name: str, scale: float, offset: float) -> Shape:
        return self._record(name, x, [x])

    def dropout(self, x: Shape, name: str, rate: float) -> Shape:
        return self._record(name, x, [x], is_random=True)

    def stochastic_depth(self, x: Shape, name: str, rate: float) -> Shape:
        return self._record(name, x, [x], is_random=True)

    def zero_pad(self, x: Shape, name: str, filters: int, strides: int) -> Shape:
        return self._record(name, (subsampled(x[0], strides), subsampled(x[1], strides), filters), [x])

    def _record(self, name, shape, inputs, **fields):
        name = self.prefix + name
        reads = tuple(getattr(signal, "operation", None) for signal in inputs)
        self.operations.append(Operation(name, shape=tuple(shape), reads=reads, **fields))
        signal = TracedShape(shape)
        signal.operation = name
        return signal


class Shapes(UnitShapes, Environment[Shape]):
    """As `UnitShapes`, for whole networks; `operations` is shared with the environments that `within` returns."""

    def within(self, name: str) -> Shapes:
        return Shapes(f"{self.prefix}{name}_", self.operations)

    def units(self, x: Shape, run: tuple[UnitSpec, ...]) -> Shape:
        for unit in run:
            x = residual_unit(self.within(unit.name), x, unit)
        return x

    def batch_norm(self, x: Shape, name: str, center: bool = True, scale: bool = True) -> Shape:
        return self._record(name, x, [x], weights=batch_norm_weights(x[2], center, scale))

    def max_pool(self, x: Shape, name: str, padding: str) -> Shape:
        return self._record(name, (subsampled(x[0], 2), subsampled(x[1], 2), x[2]), [x])


def batch_norm_weights(channels: int, center: bool = True, scale: bool = True) -> dict[str, Weight]:
    """Returns the weights of a batch normalisation, without beta if not `center`, and without gamma if not `scale`."""
    weights = {"gamma": Weight((channels,), 1.0)} if scale else {}
    if center:
        weights["beta"] = Weight((channels,), 0.0)
    weights["moving_mean"] = Weight((channels,), 0.0, trainable=False)
    weights["moving_variance"] = Weight((channels,), 1.0, trainable=False)
    return weights


def unit_operations(unit: UnitSpec) -> list[Operation]:
    """Returns the `Operation`s of a `UnitSpec`, in order, as named within the unit, for an image of one pixel."""
    shapes = UnitShapes()
    residual_unit(shapes, (1, 1, unit.in_width), unit)
    return shapes.operations


def weights_of(operations: Iterable[Operation]) -> dict[str, Weight]:
    """Returns all weights of `Operation`s by `<operation>/<weight>`, in order."""
    return {f"{op.name}/{name}": weight for op in operations for name, weight in op.weights.items()}


def folded_bns(operations: Sequence[Operation]) -> dict[str, str]:
    """Returns {batch normalisation: convolution}: BNs that read a convolution whose output nothing else reads."""
    weights = {operation.name: operation.weights for operation in operations}
    readers = collections.Counter(itertools.chain(*(operation.reads for operation in operations)))
    return {
        operation.name: read
        for operation in operations
        if "moving_mean" in operation.weights
        and (read := operation.reads[0]) is not None
        and "kernel" in weights.get(read, ())
        and readers[read] == 1
    }


def _common(a, b):
    """Returns the shape of two signals; a `ValueError` if they differ."""
    if tuple(a) != tuple(b):
        raise ValueError(f"Two signals of one shape are needed, not of {tuple(a)} and {tuple(b)}.")
    return a


def subsampled(size: int | None, strides: int) -> int | None:
    """Returns the side, in pixels, that a stride leaves of `size`; None stays None."""
    return None if size is None else -(-size // strides)
