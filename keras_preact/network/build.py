"""A `NetworkSpec` becomes a graph of Keras layers; the head is here too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_preact.errors import argument_error
from keras_preact.network.environment import ConvSpec, Environment
from keras_preact.network.initializers import torch_uniform
from keras_preact.network.layers.batch_norm import BatchNormalization
from keras_preact.network.layers.dropout import Dropout
from keras_preact.network.layers.padding import StemPool, ZeroPadShortcut
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.shapes import Weight
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.network.units import lead_name, residual_unit
from keras_preact.types import Tensor


class LayerMaker:
    """Makes a network's layers, with what was changed of each since; knows what each was like before.

    Args:
        changes: The entries of layers' configurations that differ from what this package makes, by layer and name, as
            `changes_of` returns them.
    """

    def __init__(self, changes: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.changes = dict(changes or {})
        self.made: dict[str, dict[str, Any]] = {}

    def __call__(self, kind: type[keras.layers.Layer], name: str, **arguments: Any) -> keras.layers.Layer:
        layer = kind(name=name, **arguments)
        self.made[name] = _configuration(layer)
        changes = self.changes.get(name)
        return kind.from_config({**self.made[name], **changes}) if changes else layer

    def restore_trainable(self, model: keras.Model) -> None:
        """Makes those layers of a model trainable that were, which Keras' constructor makes all alike."""
        for layer in model.layers:
            trainable = self.changes.get(layer.name, {}).get("trainable", model.trainable)
            if layer.trainable != trainable:  # set again, it would thaw the kernel that LoRA has frozen
                layer.trainable = trainable

    def changes_of(self, model: keras.Model) -> dict[str, dict[str, Any]]:
        """Returns by layer what of its configuration was changed: its freezing, a regularizer, quantization, ..."""
        found = {}
        for layer in model.layers:
            made = {**self.made.get(layer.name, {}), "trainable": model.trainable}
            changes = {name: value for name, value in _configuration(layer).items() if made.get(name) != value}
            if changes and layer.name in self.made:
                found[layer.name] = changes
        return found


def policy_of(dtype: keras.DTypePolicy | str | None) -> keras.DTypePolicy:
    """Returns the dtype policy that an argument means, the global one if it is None.

    Raises:
        ValueError: If it is a map of policies, or of 16 bits throughout: BN's statistics would stand still.
    """
    policy = keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        raise argument_error("dtype", "one policy for all layers, or its name", type(policy).__name__)
    if policy.variable_dtype in ("float16", "bfloat16"):
        expected = f'"mixed_{policy.variable_dtype}", whose weights and probabilities are float32'
        raise argument_error("dtype", expected, policy.name)
    return policy


def changes_of_before(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the changes in a file of before, when the classifier was two layers.

    They were the Dense `logits` and its activation, `predictions`, of which what it computes was all that counted.
    """
    now = {layer: dict(changed) for layer, changed in changes.items()}
    activation = {name: value for name, value in now.pop(CLASSIFIER, {}).items() if name == "activation"}
    classifier = {**now.pop("logits", {}), **activation}
    return {**now, **({CLASSIFIER: classifier} if classifier else {})}


def _configuration(layer):
    """Returns a layer's configuration, without the numbers that Keras gives objects while it saves a file."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if name != "shared_object_id"}
        return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value

    return plain(layer.get_config())


class KerasLayers(Environment[keras.KerasTensor]):
    """An environment that makes a named Keras layer of every operation; its signals are Keras tensors."""

    def __init__(
        self, spec: NetworkSpec, dtype: keras.DTypePolicy, prefix: str = "", make: LayerMaker | None = None
    ) -> None:
        self.spec, self.dtype, self.prefix = spec, dtype, prefix
        self.make = make or LayerMaker()
        self.activated: dict[str, keras.KerasTensor] = {}  # the outputs of its BNs and ReLUs, by name

    def within(self, name: str) -> KerasLayers:
        return KerasLayers(self.spec, self.dtype, f"{self.prefix}{name}_", self.make)

    @property
    def bn_synchronized(self) -> bool:
        """Whether to ask for it: only TensorFlow has statistics per replica, and JAX refuses the word."""
        return self.spec.bn_synchronized and keras.backend.backend() == "tensorflow"

    def units(
        self, x: keras.KerasTensor, run: tuple[UnitSpec, ...], return_lead: bool = False
    ) -> keras.KerasTensor | tuple[keras.KerasTensor, keras.KerasTensor]:
        """Returns x after a run; with `return_lead`, too, the first unit's signal after its leading activation."""
        envs = [self.within(unit.name) for unit in run]
        for env, unit in zip(envs, run):
            x = residual_unit(env, x, unit)
        lead = lead_name(run[0])
        return (x, envs[0].activated[lead]) if return_lead and lead is not None else x

    def conv(self, x: keras.KerasTensor, name: str, conv: ConvSpec) -> keras.KerasTensor:
        padding = "same"
        if conv.strides > 1 and conv.kernel > 1:  # "same" would pad even sizes only below and to the right
            x = self._layer(layers.ZeroPadding2D, f"{name}_pad", padding=conv.kernel // 2)(x)
            padding = "valid"
        return self._layer(
            layers.Conv2D,
            name,
            filters=conv.filters,
            kernel_size=conv.kernel,
            strides=conv.strides,
            padding=padding,
            use_bias=conv.bias is not None,
            bias_initializer=keras.initializers.Constant(conv.bias or 0.0),
            kernel_initializer=Weight((conv.kernel, conv.kernel, x.shape[-1], conv.filters), "he").initializer(),
        )(x)

    def batch_norm(self, x: keras.KerasTensor, name: str, center: bool = True, scale: bool = True) -> keras.KerasTensor:
        layer = self._layer(
            BatchNormalization,
            name,
            momentum=self.spec.bn_momentum,
            epsilon=self.spec.bn_epsilon,
            center=center,
            scale=scale,
            synchronized=self.bn_synchronized,
        )
        self.activated[name] = layer(x)
        return self.activated[name]

    def relu(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        self.activated[name] = self._layer(layers.Activation, name, activation="relu")(x)
        return self.activated[name]

    def sigmoid(self, x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return self._layer(layers.Activation, name, activation="sigmoid")(x)

    def add(self, a: keras.KerasTensor, b: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return self._layer(layers.Add, name)([a, b])

    def multiply(self, a: keras.KerasTensor, b: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return self._layer(layers.Multiply, name)([a, b])

    def affine(self, x: keras.KerasTensor, name: str, scale: float, offset: float) -> keras.KerasTensor:
        # Rescaling makes float32 of a Python number, whatever its dtype.
        return self._layer(layers.Rescaling, name, scale=np.float64(scale), offset=np.float64(offset))(x)

    def dropout(self, x: keras.KerasTensor, name: str, rate: float) -> keras.KerasTensor:
        return self._layer(Dropout, name, rate=rate)(x)

    def stochastic_depth(self, x: keras.KerasTensor, name: str, rate: float) -> keras.KerasTensor:
        return self._layer(Dropout, name, rate=rate, noise_shape=(None, 1, 1, 1))(x)

    def zero_pad(self, x: keras.KerasTensor, name: str, filters: int, strides: int) -> keras.KerasTensor:
        return self._layer(ZeroPadShortcut, name, filters=filters, strides=strides)(x)

    def max_pool(self, x: keras.KerasTensor, name: str, padding: str) -> keras.KerasTensor:
        return self._layer(StemPool, name, padding=padding)(x)

    def _layer(self, kind, name, **arguments):
        return self.make(kind, self.prefix + name, dtype=self.dtype, **arguments)


class StackedLayers(KerasLayers):
    """An environment that makes one `ResidualUnits` layer of every run of equal units, and Keras layers of the rest."""

    def __init__(
        self,
        spec: NetworkSpec,
        dtype: keras.DTypePolicy,
        prefix: str = "",
        make: LayerMaker | None = None,
        unroll: int | str = "auto",
        remat: bool | int = 0,
    ) -> None:
        super().__init__(spec, dtype, prefix, make)
        self.unroll, self.remat = unroll, remat

    def units(
        self, x: keras.KerasTensor, run: tuple[UnitSpec, ...], return_lead: bool = False
    ) -> keras.KerasTensor | tuple[keras.KerasTensor, keras.KerasTensor]:
        return self._layer(
            ResidualUnits,
            run_name(run),
            units=run,
            bn_momentum=self.spec.bn_momentum,
            bn_epsilon=self.spec.bn_epsilon,
            bn_synchronized=self.bn_synchronized,
            unroll=self.unroll,
            remat=remat_block(run) if self.remat is True else int(self.remat),
        )(x, **({"return_lead": True} if return_lead else {}))


def remat_block(run: tuple[UnitSpec, ...]) -> int:
    """Returns the units in a block of `remat=True`: two in the first stage, whose signals are largest, else one.

    A block of one costs least, as its last convolution need not be computed again; pairs keep half the signals.
    """
    return 2 if run[0].stage == 1 else 1


def run_name(run: tuple[UnitSpec, ...]) -> str:
    """Returns the name of a run's stacked layer: `stage1_unit01` for one unit, `stage1_units02_18` for many."""
    if len(run) == 1:
        return run[0].name
    return f"stage{run[0].stage}_units{run[0].label}_{run[-1].label}"


def head(
    x: keras.KerasTensor,
    make: LayerMaker,
    dtype: keras.DTypePolicy,
    include_top: bool,
    pooling: str | None,
    num_classes: int | None,
    classifier_activation: str | None,
) -> keras.KerasTensor:
    """Applies global pooling and the classifier, whose logits and probabilities are float32 at least.

    Returns (batch, num_classes) with the top; without it (batch, channels) for a `pooling`, else x as it is.
    """
    if include_top or pooling == "avg":
        x = make(layers.GlobalAveragePooling2D, "pool", dtype=dtype)(x)
    elif pooling == "max":
        x = make(layers.GlobalMaxPooling2D, "pool", dtype=dtype)(x)
    if not include_top:
        return x
    return make(
        layers.Dense,
        CLASSIFIER,
        units=num_classes,
        activation=classifier_activation,
        dtype=dtype.variable_dtype,  # float32 under mixed precision: a softmax of many classes needs it
        kernel_initializer=torch_uniform(),
    )(x)


def classifier_logits(model: keras.Model, features: Tensor) -> Tensor:
    """Returns the logits (batch, classes) of pooled features (batch, channels): what the classifier's activation reads.

    On TensorFlow Keras' cross-entropies find them behind a softmax by themselves.
    """
    classifier = model.get_layer(CLASSIFIER)
    return ops.matmul(ops.cast(features, classifier.compute_dtype), classifier.kernel) + classifier.bias
