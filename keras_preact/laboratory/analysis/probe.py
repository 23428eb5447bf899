"""One unit, measured: its signals on the way forward, its gradients on the way back."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras import ops

from keras_preact.laboratory.analysis.gradients import compiled, linearized
from keras_preact.network.layers.residual_units import Slices
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.network.units import after_addition, paths
from keras_preact.types import Tensor

SIGNALS = ("signal_rms", "shortcut_rms", "branch_rms", "cut_share", "gate_openness")
GRADIENTS = ("gradient_norm", "direct_norm", "direct_at_sum", "direct_behind", "branch_norm")
NOTHING = float("nan")


@dataclass(frozen=True)
class Settings:
    """What `Slices` asks of the layer that it computes for."""

    bn_epsilon: float
    compute_dtype: str
    bn_momentum: float = 0.9  # decides moving statistics alone, which nobody keeps
    bn_synchronized: bool = False


class Probe(Slices):
    """Computes with one unit's weights, and notes what its gate and its last ReLU do.

    Attributes:
        cut_share: Share of the elements of y_l that the ReLU after the addition sets to zero because they are negative.
        gate_openness: Mean of 1 - g(x_l), the factor on the shortcut; not a number without a gate.
    """

    def __init__(self, settings: Settings, weights: Mapping[str, Tensor], training: bool) -> None:
        super().__init__(settings, weights, training, weights.get("draw"))
        self.cut_share, self.gate_openness = 0.0, NOTHING

    def relu(self, x: Tensor, name: str) -> Tensor:
        if name == "relu_after_addition":
            self.cut_share = ops.mean(ops.cast(x < 0, x.dtype))
        return super().relu(x, name)

    def sigmoid(self, x: Tensor, name: str) -> Tensor:
        gate = super().sigmoid(x, name)
        self.gate_openness = ops.mean(1.0 - gate)
        return gate


@dataclass(frozen=True)
class MeasuredUnit:
    """The compiled functions of all units that are equal, and see signals of one shape.

    Attributes:
        forward: (x_l, weights) to x_{l+1} and an array of `SIGNALS`.
        advance: (x_l, weights) to x_{l+1} alone.
        backward: (x_l, weights, dE/dx_{l+1}, its direct term, two scales) to dE/dx_l, its direct term and an array of
            `GRADIENTS`. Both gradients may come multiplied by a power of two each; the scales bring them together.
    """

    forward: Callable[..., Any]
    advance: Callable[..., Any]
    backward: Callable[..., Any]


@functools.lru_cache(maxsize=128)
def measured_unit(unit: UnitSpec, settings: Settings, training: bool) -> MeasuredUnit:
    """Returns the `MeasuredUnit` of a `UnitSpec`, in training (batch statistics, dropout) or not."""

    def forward(x, weights):
        env = Probe(settings, weights, training)
        shortcut, branch = paths(env, x, unit)
        out = after_addition(env, branch if shortcut is None else shortcut + branch, unit)
        sizes = (rms(x), 0.0 if shortcut is None else rms(shortcut), rms(branch))
        return out, _stacked((*sizes, env.cut_share, env.gate_openness), x.dtype)

    def advance(x, weights):
        return forward(x, weights)[0]

    def backward(x, weights, gradient, direct, scales):
        def terms(x):
            shortcut, branch = paths(Probe(settings, weights, training), x, unit)
            return (ops.zeros_like(branch) if shortcut is None else shortcut), branch

        def end(y):
            return (after_addition(Probe(settings, weights, training), y, unit),)

        (shortcut, branch), from_terms = linearized(terms, x)
        _, from_end = linearized(end, shortcut + branch)
        gradient_at_sum, direct_at_sum = from_end(gradient), from_end(direct)
        new_gradient = from_terms(gradient_at_sum, gradient_at_sum)
        new_direct = from_terms(direct_at_sum, None)
        branch = scales[0] * new_gradient - scales[1] * new_direct
        norms = [norm(v) for v in (new_gradient, new_direct, direct_at_sum, direct, branch)]
        return new_gradient, new_direct, _stacked(norms, x.dtype)

    return MeasuredUnit(compiled(forward), compiled(advance), compiled(backward))


def rms(x: Tensor) -> Tensor:
    """Returns the root of the mean square, without overflow."""
    largest = ops.maximum(ops.max(ops.abs(x)), 1e-30)
    return largest * ops.sqrt(ops.mean(ops.square(x / largest)))


def norm(x: Tensor) -> Tensor:
    """Returns the Euclidean norm over all axes."""
    return ops.sqrt(ops.sum(ops.square(x)))


def _stacked(numbers, dtype):
    return ops.stack([ops.cast(number, dtype) for number in numbers])
