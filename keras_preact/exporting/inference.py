"""A network in inference, computed from folded weights: what the exported formats hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_preact.network.build import run_name
from keras_preact.network.checks import check_classifier, check_computes_alike, check_not_quantized
from keras_preact.network.copies import without_lora
from keras_preact.network.environment import ConvSpec, NetworkEnvironment
from keras_preact.network.layers.batch_norm import batch_norm, folded
from keras_preact.network.layers.conv import convolve
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.model import ResidualNetwork, converted
from keras_preact.network.parts import CLASSIFIER, residual_network
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.types import Tensor


def checked(model: Any) -> ResidualNetwork:
    """Returns `model` if it is a network of this package with a classifier; a `ValueError` if not."""
    check_classifier(model, getattr(model, "name", model))
    check_not_quantized(model)
    check_computes_alike(model)
    return model


def stacked(model: ResidualNetwork, dtype: str | None = None) -> ResidualNetwork:
    """Returns the network in the stacked layout, in which building and tracing do not grow with depth, and in `dtype`.

    A kernel holds what LoRA adds to it.

    Args:
        model: A `ResidualNetwork` of either layout.
        dtype: A Keras dtype policy's name; that of the model if None.
    """
    model = without_lora(model)
    changes = {"layout": "stacked", "dtype": dtype or model.get_config()["dtype"]}
    config = model.get_config()
    return model if {**config, **changes} == config else converted(model, **changes)


def inference_weights(model: ResidualNetwork) -> dict[str, dict[str, Tensor]]:
    """Returns what inference computes with: a dict from a layer of the stacked layout to a dict of its tensors.

    Each BN that follows a convolution is folded into it: in a pre-activation unit all but the first, and conv1's
    unless the network computes in mixed precision. What leads a pre-activation unit or ends the network is not: it
    reads a sum, which in a unit the shortcut carries on, and no convolution stands before it.
    """
    weights = {}
    for layer in model.layers:
        if isinstance(layer, ResidualUnits):
            weights[layer.name] = layer.folded()
        elif layer.weights:
            weights[layer.name] = {weight.name: ops.convert_to_tensor(weight) for weight in layer.weights}
    stem, policy = weights["stem_conv"], model.get_layer("stem_conv").dtype_policy
    if model.spec.stem.activates and policy.compute_dtype == policy.variable_dtype:
        bn = weights.pop("stem_bn")
        stem["kernel"], stem["bias"] = folded(stem["kernel"], stem.get("bias"), bn, model.spec.bn_epsilon)
    return weights


def outputs(
    model: ResidualNetwork, weights: Mapping[str, Mapping[str, Tensor]], images: Tensor, straight: bool = False
) -> dict[str, Tensor]:
    """Returns the dict of the outputs of the exported models, as tensors.

    Args:
        model: A network in the stacked layout.
        weights: Those of `inference_weights`, or arrays or variables of the same names.
        images: Normalised images (batch, height, width, channels).
        straight: Whether to write every unit out; if not, runs of units are loops.

    Returns:
        `probabilities` and `logits` (batch, classes), and `features` (batch, channels): the last activation, averaged
        over the image, which the classifier reads.
    """
    x = ops.cast(images, model.get_layer("stem_conv").compute_dtype)
    x = residual_network(Inference(model, weights, straight), x, model.spec)
    features = model.get_layer("pool")(x)
    classifier, its = model.get_layer(CLASSIFIER), weights[CLASSIFIER]
    features = ops.cast(features, classifier.compute_dtype)
    logits = ops.matmul(features, its["kernel"]) + its["bias"]
    return {"probabilities": classifier.activation(logits), "logits": logits, "features": features}


class Inference(NetworkEnvironment[Tensor]):
    """An environment that computes with the weights of a stacked network, given from outside.

    It is none for units: their layer runs them.
    """

    def __init__(
        self, model: ResidualNetwork, weights: Mapping[str, Mapping[str, Tensor]], straight: bool, prefix: str = ""
    ) -> None:
        self.model, self.weights, self.straight, self.prefix = model, weights, straight, prefix

    def within(self, name: str) -> Inference:
        return Inference(self.model, self.weights, self.straight, f"{self.prefix}{name}_")

    def units(self, x: Tensor, run: tuple[UnitSpec, ...]) -> Tensor:
        layer = self.model.get_layer(run_name(run))
        return layer.infer(x, self.weights[layer.name], self.straight)

    def conv(self, x: Tensor, name: str, conv: ConvSpec) -> Tensor:
        weights = {part: ops.cast(weight, x.dtype) for part, weight in self.weights[self.prefix + name].items()}
        return convolve(x, weights["kernel"], conv.strides, weights.get("bias"))

    def batch_norm(self, x: Tensor, name: str, center: bool = True, scale: bool = True) -> Tensor:
        weights = self.weights.get(self.prefix + name)
        return x if weights is None else batch_norm(x, weights, self.model.spec.bn_epsilon, training=False)[0]

    def relu(self, x: Tensor, name: str) -> Tensor:
        return ops.relu(x)

    def max_pool(self, x: Tensor, name: str, padding: str) -> Tensor:
        return self.model.get_layer(self.prefix + name)(x)
