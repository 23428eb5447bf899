"""A network run on shapes alone: the weights each operation holds, its multiply-adds, the elements of its output."""

import math
from dataclasses import dataclass, field

import keras

from keras_preact.network.initializers import HeNormal
from keras_preact.network.units import residual_unit


@dataclass(frozen=True)
class Weight:
    """Describes one weight: its shape, its start (`"he"` or a constant), and whether the optimizer moves it."""

    shape: tuple[int, ...]
    start: str | float
    trainable: bool = True

    @property
    def size(self):
        """The number of elements."""
        return math.prod(self.shape)

    def initializer(self):
        """Returns the Keras initialiser of this weight, and of any number of them on a leading axis."""
        return HeNormal() if self.start == "he" else keras.initializers.Constant(self.start)


@dataclass
class Operation:
    """Describes what one operation costs per image: `weights` by name, `multiply_adds`, the output's `shape`."""

    name: str
    weights: dict[str, Weight] = field(default_factory=dict)
    multiply_adds: int = 0
    shape: tuple[int, ...] = ()

    @property
    def elements(self):
        """The number of elements of the output."""
        return math.prod(self.shape)


class Shapes:
    """An environment (see `units`) whose signals are (height, width, channels); it records every operation in order.

    Attributes:
        operations: A list of `Operation`, shared with the environments that `within` returns.
    """

    def __init__(self, prefix="", operations=None):
        self.prefix = prefix
        self.operations = [] if operations is None else operations

    def within(self, name):
        """Returns this environment with `name` before every operation's name."""
        return Shapes(f"{self.prefix}{name}_", self.operations)

    def units(self, x, run):
        """Applies a run of units that are equal but for their names and drop rates."""
        for unit in run:
            x = residual_unit(self.within(unit.name), x, unit)
        return x

    @property
    def weights(self):
        """All weights by `<operation>/<weight>`, in the order of their operations."""
        return {f"{op.name}/{name}": weight for op in self.operations for name, weight in op.weights.items()}

    def conv(self, x, name, conv):
        shape = (subsampled(x[0], conv.strides), subsampled(x[1], conv.strides), conv.filters)
        weights = {"kernel": Weight((conv.kernel, conv.kernel, x[2], conv.filters), "he")}
        multiply_adds = 0 if None in shape else shape[0] * shape[1] * weights["kernel"].size
        if conv.bias is not None:
            weights["bias"] = Weight((conv.filters,), conv.bias)
        return self._record(name, shape, weights, multiply_adds)

    def batch_norm(self, x, name, center=True, scale=True):
        weights = {"gamma": Weight((x[2],), 1.0)} if scale else {}
        if center:
            weights["beta"] = Weight((x[2],), 0.0)
        weights["moving_mean"] = Weight((x[2],), 0.0, trainable=False)
        weights["moving_variance"] = Weight((x[2],), 1.0, trainable=False)
        return self._record(name, x, weights)

    def relu(self, x, name):
        return self._record(name, x)

    def sigmoid(self, x, name):
        return self._record(name, x)

    def add(self, a, b, name):
        assert a == b, (a, b)
        return self._record(name, a)

    def multiply(self, a, b, name):
        return self._record(name, a)

    def affine(self, x, name, scale, offset):
        return self._record(name, x)

    def dropout(self, x, name, rate):
        return self._record(name, x)

    def stochastic_depth(self, x, name, rate):
        return self._record(name, x)

    def zero_pad(self, x, name, filters, strides):
        return self._record(name, (subsampled(x[0], strides), subsampled(x[1], strides), filters))

    def max_pool(self, x, name, padding):
        return self._record(name, (subsampled(x[0], 2), subsampled(x[1], 2), x[2]))

    def _record(self, name, shape, weights=None, multiply_adds=0):
        self.operations.append(Operation(self.prefix + name, weights or {}, multiply_adds, shape))
        return shape


def subsampled(size, strides):
    """Returns the side, in pixels, that a stride leaves of `size`; None stays None."""
    return None if size is None else -(-size // strides)
