"""What an operation is: the interface through which the Residual Unit, written once in `units`, is run in many ways.

A unit, and a network of them, is a function of its input and of an *environment*, which also decides what a signal is:
a Keras tensor, a shape, an array, the name of an ONNX value. `build.KerasLayers` makes named Keras layers,
`build.StackedLayers` one layer of every run of equal units, `shapes.Shapes` counts weights and multiply-adds,
`layers.residual_units.Slices` computes with one unit's slice of stacked weights, `exporting.inference.Inference` with
weights into which BNs are folded, `exporting.onnx_graph.OnnxGraph` makes the nodes of an ONNX graph.

The operations stand in three groups, so that each environment inherits what it offers and no more, and Python refuses
one that lacks an operation: `UnitEnvironment` runs a unit, `NetworkEnvironment` what stands around the units,
`Environment` both.

The `name` of an operation is that of its Keras layer, and of its weights, within a unit: it is chosen once, since files
hold it, and no two operations of a unit share one.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

if TYPE_CHECKING:
    from keras_preact.network.unit_spec import UnitSpec


@dataclass(frozen=True)
class ConvSpec:
    """Describes one convolution: output channels, square kernel side, stride, and the bias's start (None: no bias)."""

    filters: int
    kernel: int
    strides: int = 1
    bias: float | None = None


Signal = TypeVar("Signal")  # what stands for (batch, height, width, channels)


class Operations(abc.ABC, Generic[Signal]):
    """The operations of units and of what stands around them. A signal is (batch, height, width, channels)."""

    @abc.abstractmethod
    def conv(self, x: Signal, name: str, conv: ConvSpec) -> Signal:
        """Returns a convolution of x, as the `ConvSpec` `conv` says, padded by half its kernel on every side."""

    @abc.abstractmethod
    def batch_norm(self, x: Signal, name: str) -> Signal:
        """Returns x with each channel normalised, scaled by gamma and shifted by beta."""

    @abc.abstractmethod
    def relu(self, x: Signal, name: str) -> Signal:
        """Returns max(x, 0), element by element."""


class UnitEnvironment(Operations[Signal]):
    """What one unit, `units.residual_unit`, is run in. The shapes of all signals are of the same rank."""

    @abc.abstractmethod
    def sigmoid(self, x: Signal, name: str) -> Signal:
        """Returns 1 / (1 + exp(-x)), element by element."""

    @abc.abstractmethod
    def add(self, a: Signal, b: Signal, name: str) -> Signal:
        """Returns a + b, of two signals of one shape."""

    @abc.abstractmethod
    def multiply(self, a: Signal, b: Signal, name: str) -> Signal:
        """Returns a * b, element by element, of two signals of one shape."""

    @abc.abstractmethod
    def affine(self, x: Signal, name: str, scale: float, offset: float) -> Signal:
        """Returns scale * x + offset; `scale` and `offset` are Python numbers."""

    @abc.abstractmethod
    def dropout(self, x: Signal, name: str, rate: float) -> Signal:
        """Returns x, in training with a share `rate` of its elements set to 0 and the others divided by 1 - rate.

        A unit uses it once at most: in stacked units a second one would drop the same elements.
        """

    @abc.abstractmethod
    def stochastic_depth(self, x: Signal, name: str, rate: float) -> Signal:
        """Returns x, in training for a share `rate` of the images set to 0 and for the others divided by 1 - rate."""

    @abc.abstractmethod
    def zero_pad(self, x: Signal, name: str, filters: int, strides: int) -> Signal:
        """Returns every `strides`-th pixel of x, with channels of zeros after its own, `filters` in all."""


class NetworkEnvironment(Operations[Signal]):
    """What the stem, the stages and the last activation, `parts.residual_network`, are run in."""

    @abc.abstractmethod
    def within(self, name: str) -> Self:
        """Returns this environment with `name` and an underscore before every operation's name."""

    @abc.abstractmethod
    def batch_norm(self, x: Signal, name: str, center: bool = True, scale: bool = True) -> Signal:
        """Returns x with each channel normalised, without beta if not `center`, and without gamma if not `scale`."""

    @abc.abstractmethod
    def units(self, x: Signal, run: tuple[UnitSpec, ...]) -> Signal:
        """Returns x after a run, a tuple of `UnitSpec`s that are equal but for their place and drop rates."""

    @abc.abstractmethod
    def max_pool(self, x: Signal, name: str, padding: str) -> Signal:
        """Returns 3x3 max-pooling of x with stride 2, padded as `StemSpec.pool` says."""


class Environment(UnitEnvironment[Signal], NetworkEnvironment[Signal]):
    """What a whole network is run in, its units one by one."""
