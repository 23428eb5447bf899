"""A run of equal Residual Units as one layer: their weights stacked on a leading axis, applied in a loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import keras
from keras import ops

from keras_preact.errors import from_fields
from keras_preact.network.environment import ConvSpec, UnitEnvironment
from keras_preact.network.layers.batch_norm import batch_norm, folded, moved, scaled
from keras_preact.network.layers.conv import convolve
from keras_preact.network.layers.dropout import dropped, uniform
from keras_preact.network.layers.loop import is_jax_on_gpu, scan
from keras_preact.network.layers.padding import zero_pad
from keras_preact.network.replicas import of_replica
from keras_preact.network.shapes import Shapes, folded_bns, unit_operations, weights_of
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.network.units import activate, residual_unit
from keras_preact.types import Tensor

# Runs up to this length stand in straight code: a loop would take longer to trace than it saves.
SHORT_RUN = 5

# `unroll="auto"` makes straight code of runs up to this length on a GPU under JAX, where starting kernels is what takes
# the time. In a bare JAX program on an H200 ResNet-164 (runs of 17) so trained 1.9 times as fast as looped and compiled
# as soon; ResNet-1001 (runs of 110) was 1.8 times as fast, but took 3 minutes to compile. This layer was not run there.
UNROLLED_ON_GPU = 36

# A bias that changes no sum. TensorFlow makes one kernel of convolution, bias and addition, but not without a bias, nor
# with one that is zero.
TINY = 1e-30


@keras.saving.register_keras_serializable(package="keras_preact")
class ResidualUnits(keras.layers.Layer):
    """Applies units that are equal but for their names and drop rates, one after the other.

    Each weight of a unit is one variable of shape (units, *shape), named as the unit's own Keras layer would be:
    `conv2_kernel` holds what `layout="layers"` keeps in `stage1_unit02_conv2/kernel` and its successors.

    Args:
        units: The `UnitSpec`s. A unit that changes the shape stands alone.
        bn_momentum: Share of the old moving statistics that a training step keeps.
        bn_epsilon: Added to the variance.
        bn_synchronized: Whether batch statistics are taken over all replicas; the units then stand in straight code.
        unroll: Units in one turn of the loop, or `"all"`, or `"auto"`: 1, but `"all"` for runs of up to 36 units on a
            GPU under JAX. Weights and files do not depend on it.
        kernel_regularizer: A penalty on the convolutions' kernels that is a sum over their elements, as L1 and L2 are.
        remat: If positive, the backward pass computes every `remat` units again and keeps only the signal between them.

    Input shape (batch, height, width, units[0].in_width), output shape (batch, height / strides, width / strides,
    units[0].out_width), both of the layer's compute dtype. With `return_units=True`, `call` returns the x_{l+1} of
    every unit as well, stacked as (units, batch, height, width, channels); with `return_lead=True`, of a pre-activation
    ordering, x after the first unit's leading activation, which is what that unit's first convolution reads.
    """

    def __init__(
        self,
        units: Iterable[UnitSpec],
        bn_momentum: float,
        bn_epsilon: float,
        bn_synchronized: bool = False,
        unroll: int | str = "auto",
        remat: int = 0,
        kernel_regularizer: keras.regularizers.Regularizer | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = tuple(units)
        self.unit = self.units[0]
        assert all(unit == self.unit for unit in self.units)
        assert len(self.units) == 1 or not self.unit.changes_shape
        self.bn_momentum, self.bn_epsilon, self.bn_synchronized = bn_momentum, bn_epsilon, bn_synchronized
        self.unroll, self.remat = unroll, remat
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.constants: dict[str, Tensor] | None = None
        self.seed_generator = None
        self.operations = unit_operations(self.unit)
        if any(operation.is_random for operation in self.operations):
            self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.stacks = {
            name: self.add_weight(
                name=name.replace("/", "_"),
                shape=(len(self.units), *weight.shape),
                initializer=weight.initializer(),
                trainable=weight.trainable,
                regularizer=self.kernel_regularizer if name.endswith("/kernel") else None,
                autocast=False,  # `_cast` does it: folding needs the kernels in full precision
                aggregation="none" if weight.trainable else "mean",  # BN's statistics, over replicas
            )
            for name, weight in weights_of(self.operations).items()
        }
        for name, variable in self.stacks.items():  # as attributes, `tf.train.Checkpoint` finds them
            setattr(self, f"stacked_{name.replace('/', '_')}", variable)
        self.foldable = folded_bns(self.operations)
        self.built = True

    def call(
        self, x: Tensor, training: bool = False, return_units: bool = False, return_lead: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        # As in Keras, frozen units drop elements, but keep their moving statistics and normalise by them.
        learns, drops = bool(training) and self.trainable, bool(training) and self.seed_generator is not None
        weights = self._cast() if learns or drops else self.constants or self._lean(self.folded())
        lead = self._led(x, weights, learns) if return_lead else None
        if learns or drops:
            x, units = self._train(x, weights, learns, return_units)
        else:
            x, units = self._infer(x, weights, self._turn(), return_units)
        if return_lead:
            return x, lead
        return (x, units) if return_units else x

    def _led(self, x, weights, learns):
        """Returns x after the first unit's leading activation."""
        first = {name: array[0] for name, array in weights.items()}
        return activate(Slices(self, first, learns, None), x, self.unit.places.lead, "1")

    def _train(self, x, weights, learns, return_units):
        """Applies the units with random draws; if it `learns`, by the batch's statistics, and moves the moving ones."""
        draw = None
        if self.seed_generator is not None:
            draw = of_replica(self.seed_generator.next())
            rates = ops.convert_to_tensor([unit.drop_rate for unit in self.units], "float32")
            weights = {**weights, "index": ops.arange(len(self.units), dtype="int32"), "drop_rate": rates}
        moving = [name for name in self.stacks if "/moving_" in name and learns]
        outputs = {name: (self.stacks[name].shape[1:], self.stacks[name].dtype) for name in moving}
        outputs |= self._units_of(x) if return_units else {}

        def step(x, slices):
            env = Slices(self, slices, learns, draw)
            x = residual_unit(env, x, self.unit)
            return x, {name: x if name == "units" else env.moving[name] for name in outputs}

        x, stacks = scan(step, x, weights, outputs, self._turn(), self.remat)
        for name in moving:
            self.stacks[name].assign(stacks[name])
        return x, stacks.get("units")

    def _infer(self, x, weights, turn, return_units=False):
        """Applies the units with the moving statistics, `turn` of them in one turn of the loop."""
        outputs = self._units_of(x) if return_units else {}

        def step(x, slices):
            x = residual_unit(Slices(self, slices, False, None), x, self.unit)
            return x, dict.fromkeys(outputs, x)

        x, stacks = scan(step, x, weights, outputs, turn)
        return x, stacks.get("units")

    def _units_of(self, x):
        """Returns what `scan` must know of the output `units`, every unit's x_{l+1}."""
        return {"units": ((None, *self.compute_output_shape(x.shape)[1:]), self.compute_dtype)}

    def _turn(self):
        """Returns the units in one turn of the loop."""
        count, unroll = len(self.units), self.unroll
        if unroll == "auto":
            unroll = "all" if count <= UNROLLED_ON_GPU and is_jax_on_gpu() else 1
        return count if unroll == "all" or self.bn_synchronized or count <= SHORT_RUN else unroll

    def folded(self) -> dict[str, Tensor]:
        """Returns the stacked weights of inference by name: each BN that follows a convolution is part of it."""
        stacked = self._cast()
        for bn, conv in self.foldable.items():
            kernel, bias = (self.stacks.get(f"{conv}/{part}") for part in ("kernel", "bias"))
            kernel, bias = folded(kernel, bias, _taken(stacked, bn), self.bn_epsilon)
            stacked[f"{conv}/kernel"] = ops.cast(kernel, self.compute_dtype)
            stacked[f"{conv}/bias"] = ops.cast(bias, self.compute_dtype)
        return stacked

    def infer(self, x: Tensor, weights: Mapping[str, Tensor], straight: bool = False) -> Tensor:
        """Applies the units in inference with `weights` as `folded` returns them, in a loop unless `straight`."""
        straight = straight or len(self.units) <= SHORT_RUN
        return self._infer(x, self._lean(weights), len(self.units) if straight else 1)[0]

    def fold_into_constants(self) -> None:
        """Keeps the weights that inference uses as they are now, as constants; what is assigned later has no effect."""
        self.constants = {name: ops.convert_to_numpy(array) for name, array in self._lean(self.folded()).items()}

    def _cast(self):
        """Returns the stacked weights by name: those of convolutions in the compute dtype, BN's in full precision."""
        convolutions = weights_of(operation for operation in self.operations if "kernel" in operation.weights)
        return {
            name: ops.cast(variable, self.compute_dtype if name in convolutions else variable.dtype)
            for name, variable in self.stacks.items()
        }

    def _lean(self, weights):
        """Returns folded weights as the units compute quickest with them: BNs that are left scale and shift."""
        weights = dict(weights)
        for bn in [name.removesuffix("/gamma") for name in weights if name.endswith("/gamma")]:
            parts = _taken(weights, bn)
            scale = parts["gamma"] * ops.rsqrt(parts["moving_variance"] + self.bn_epsilon)
            weights[f"{bn}/scale"], weights[f"{bn}/offset"] = scale, parts["beta"] - parts["moving_mean"] * scale
        if keras.backend.backend() == "tensorflow":
            for conv in [name.removesuffix("/kernel") for name in weights if name.endswith("/kernel")]:
                kernel = weights[f"{conv}/kernel"]
                no_bias = ops.full((len(self.units), kernel.shape[-1]), TINY, kernel.dtype)
                weights.setdefault(f"{conv}/bias", no_bias)
        return weights

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], *residual_unit(Shapes(), tuple(input_shape[1:]), self.unit))

    def compute_output_spec(
        self, x: keras.KerasTensor, training: bool = False, return_units: bool = False, return_lead: bool = False
    ) -> keras.KerasTensor | tuple[keras.KerasTensor, keras.KerasTensor]:
        shape = self.compute_output_shape(x.shape)
        spec = keras.KerasTensor(shape, self.compute_dtype)
        if return_lead:
            return spec, keras.KerasTensor(x.shape, self.compute_dtype)
        return (spec, keras.KerasTensor((len(self.units), *shape), self.compute_dtype)) if return_units else spec

    def get_config(self) -> dict[str, Any]:
        own = ("bn_momentum", "bn_epsilon", "bn_synchronized", "unroll", "remat")
        units = [dataclasses.asdict(unit) for unit in self.units]
        own = {name: getattr(self, name) for name in own}
        regularizer = keras.regularizers.serialize(self.kernel_regularizer)
        return {**super().get_config(), "units": units, **own, "kernel_regularizer": regularizer}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ResidualUnits:
        return cls(**{**config, "units": [_unit(unit) for unit in config["units"]]})


def _unit(fields):
    """Returns the `UnitSpec` of fields in a file; files of before hold its name in place of `stage` and `number`."""
    fields = {**fields, "shortcut": ShortcutSpec.of(fields["shortcut"])}
    if "name" in fields:
        stage, label = fields.pop("name").removeprefix("stage").split("_unit")
        fields |= {"stage": int(stage), "number": int(label), "digits": len(label)}
    return from_fields(UnitSpec, fields)


def _taken(weights, bn):
    """Takes a BN's weights out of a dict of all, and returns them by their part."""
    return {part: weights.pop(f"{bn}/{part}") for part in ("gamma", "beta", "moving_mean", "moving_variance")}


class Executed(Protocol):
    """What `Slices` reads of the layer that it computes for: a `ResidualUnits`, or what stands in for one."""

    @property
    def bn_momentum(self) -> float: ...

    @property
    def bn_epsilon(self) -> float: ...

    @property
    def bn_synchronized(self) -> bool: ...

    @property
    def compute_dtype(self) -> str: ...


class Slices(UnitEnvironment[Tensor]):
    """An environment that computes with one unit's slice of the stacked weights.

    Args:
        layer: The `ResidualUnits`.
        slices: The unit's weights, by name.
        training: Whether BN takes the batch's statistics.
        draw: What random numbers are a function of; None where nothing is dropped.

    Attributes:
        moving: The unit's moving statistics after this step, by name; filled in training.
    """

    def __init__(self, layer: Executed, slices: Mapping[str, Tensor], training: bool, draw: Tensor | None) -> None:
        self.layer, self.slices, self.training, self.draw = layer, slices, training, draw
        self.moving: dict[str, Tensor] = {}

    def conv(self, x: Tensor, name: str, conv: ConvSpec) -> Tensor:
        bias = self.slices.get(f"{name}/bias")  # its own, or of a folded BN
        return convolve(x, self.slices[f"{name}/kernel"], conv.strides, bias)

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        layer, slices = self.layer, self.slices
        if f"{name}/gamma" not in slices:  # in inference: part of the convolution before it, or scale and offset
            is_folded = f"{name}/scale" not in slices
            return x if is_folded else scaled(x, slices[f"{name}/scale"], slices[f"{name}/offset"])
        weights = {part: slices[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        x, *statistics = batch_norm(x, weights, layer.bn_epsilon, self.training, layer.bn_synchronized)
        for part, new in zip(("moving_mean", "moving_variance"), statistics if self.training else ()):
            self.moving[f"{name}/{part}"] = moved(weights[part], new, layer.bn_momentum)
        return x

    def relu(self, x: Tensor, name: str) -> Tensor:
        return ops.relu(x)

    def sigmoid(self, x: Tensor, name: str) -> Tensor:
        return ops.sigmoid(x)

    def add(self, a: Tensor, b: Tensor, name: str) -> Tensor:
        if not self.training and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.add_n([a, b])  # becomes part of the convolution before it if that has a bias
        return a + b

    def multiply(self, a: Tensor, b: Tensor, name: str) -> Tensor:
        return a * b

    def affine(self, x: Tensor, name: str, scale: float, offset: float) -> Tensor:
        return x * scale + offset

    def dropout(self, x: Tensor, name: str, rate: float) -> Tensor:
        return self._drop(x, ops.shape(x), rate, draw=0)

    def stochastic_depth(self, x: Tensor, name: str, rate: float) -> Tensor:
        return self._drop(x, (ops.shape(x)[0], 1, 1, 1), self.slices.get("drop_rate"), draw=1)

    def zero_pad(self, x: Tensor, name: str, filters: int, strides: int) -> Tensor:
        return zero_pad(x, filters, strides)

    def _drop(self, x, shape, rate, draw):
        """Drops elements of x with probability `rate`, if any are dropped; `draw` tells a unit's two kinds apart."""
        if self.draw is None:
            return x
        return dropped(x, uniform(shape, self.draw, 2 * self.slices["index"] + draw), rate)
