"""What a network is asked to do, checked before anything is built or computed."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from keras_preact.errors import argument_error, check_choice, check_integer
from keras_preact.network.parts import CLASSIFIER, TAPS
from keras_preact.network.spec import NetworkSpec

if TYPE_CHECKING:
    import keras

    from keras_preact.network.model import ResidualNetwork

Layout: TypeAlias = Literal["stacked", "layers"]
LAYOUTS: tuple[Layout, ...] = ("stacked", "layers")
UNROLLS = ("auto", "all")
# What may be changed of a layer without a change of what it computes in inference; LoRA is part of a copy's kernels.
HARMLESS = re.compile(
    r"trainable|dtype|momentum|bn_momentum|bn_synchronized|unroll|remat|lora_\w+|\w+_(regularizer|constraint|initializer)"
)
NAMED_UNITS = 50  # up to here, as in ResNet-152, a network has named layers; then depth takes long to compile


def check_classifier(model: object, received: object) -> None:
    """Raises a `ValueError` unless `model` is a network of this package that ends in its classifier."""
    if not getattr(model, "has_top", False):
        expected = "a network of keras_preact that ends in its classifier (include_top=True)"
        raise argument_error("model", expected, received)


def check_has_probabilities(model: keras.Model, received: object) -> None:
    """Raises a `ValueError` if the classifier of a network of this package is known to return no probabilities."""
    import keras

    name = keras.activations.serialize(model.get_layer(CLASSIFIER).activation)
    if name in ("linear", "log_softmax"):
        hint = 'Build it with classifier_activation="softmax" and its weights.'
        raise argument_error("model", f"a network that returns probabilities, not {name} outputs", received, hint)


def check_not_quantized(model: keras.Model, argument: str = "model") -> None:
    """Raises a `ValueError` for a network of which Keras' `quantize` made other weights, which only Keras computes."""
    for layer in model.layers:
        if getattr(layer, "quantization_mode", None):
            hint = 'Take the network before that; the export format "litert_int8" quantizes all of it.'
            raise argument_error(argument, "without quantized layers", f"{layer.name}: {layer.quantization_mode}", hint)


def check_computes_alike(
    model: ResidualNetwork, argument: str = "model", kept: Collection[str] = (CLASSIFIER,)
) -> None:
    """Raises a `ValueError` if a layer computes otherwise than this package made it, where a copy would not.

    Args:
        model: A `ResidualNetwork`, of which e.g. a layer was given another activation.
        argument: What the message names.
        kept: Names of the layers whose changes the copy has, too.
    """
    for name, changes in model.get_config().get("changed_layers", {}).items():
        for entry in changes if name not in kept else ():
            if not HARMLESS.fullmatch(entry):
                hint = "Only Keras' own functions compute it so: `predict`, `save` and the like."
                raise argument_error(argument, f"a network whose {name} has no {entry} of its own", model.name, hint)


def check_replicated(replicas: int, optimizer: keras.optimizers.Optimizer | str, steps_per_execution: int) -> None:
    """Raises a `ValueError` if what is asked for fails in Keras with several replicas of a `tf.distribute` strategy.

    Args:
        replicas: Their number.
        optimizer: As `compile` takes it; what a `LossScaleOptimizer` holds, not that itself.
        steps_per_execution: As `compile` takes it.
    """
    with_replicas = f"with {replicas} replicas, where Keras does not offer it"
    if steps_per_execution != 1:
        raise argument_error("steps_per_execution", f"1 {with_replicas}", steps_per_execution)
    for option in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        value = getattr(optimizer, option, None)
        if value is not None:
            raise argument_error(option, f"left out of the optimizer {with_replicas}", value)


def chosen_layout(layout: str | None, spec: NetworkSpec, unroll: int | str, remat: bool | int) -> Layout:
    """Returns `layout`, once checked; if it is None, named layers, or stacked ones where these are for something.

    That is with more than `NAMED_UNITS` units, and with an `unroll` or a `remat`, which named layers have not.
    """
    if layout is None:
        return "stacked" if sum(spec.units) > NAMED_UNITS or unroll != "auto" or remat else "layers"
    return check_layout(layout, unroll, remat)


def check_layout(layout: str, unroll: int | str | None, remat: bool | int | None) -> Layout:
    """Returns `layout`; a `ValueError` if there is no such one, or it has no use for an `unroll` or a `remat`."""
    found = check_choice("layout", layout, LAYOUTS)
    for name, value in (("unroll", unroll), ("remat", remat)):
        if found == "layers" and value not in (None, "auto", 0):
            hint = 'Use layout="stacked".'
            raise argument_error(name, 'left out with layout="layers", which has no loop over units', value, hint)
    return found


def check_execution(unroll: int | str, remat: bool | int) -> tuple[int | str, bool | int]:
    """Returns `unroll` (a whole number, `"auto"` or `"all"`) and `remat` (True or a whole number), once checked."""
    if unroll not in UNROLLS:
        if isinstance(unroll, str):
            raise argument_error("unroll", 'a whole number, "auto" or "all"', unroll)
        unroll = check_integer("unroll", unroll)
    return unroll, remat or 0 if isinstance(remat, bool) else check_integer("remat", remat, minimum=0)


def check_features(
    spec: NetworkSpec, features: str | Sequence[str] | None, tap: str | Sequence[str], pooling: str | None = None
) -> dict[str, str] | None:
    """Returns a dict from the name of a stage to its tap, or None without `features`."""
    if features is None:
        if tap != "sum":
            raise argument_error("tap", "left out without `features`", tap)
        return None
    if pooling is not None:
        raise argument_error("pooling", "None with `features`", pooling)
    names = list(features) if isinstance(features, (list, tuple)) else [features]
    stages = [f"stage{number}" for number in range(1, len(spec.units) + 1)]
    if not names or len(set(map(str, names))) < len(names):
        raise argument_error("features", f"different stages, one at least, of {', '.join(stages)}", features)
    taps = list(tap) if isinstance(tap, (list, tuple)) else [tap] * len(names)
    if len(taps) != len(names):
        raise argument_error("tap", f"one for all features, or {len(names)}, one for each", tap)
    return {check_choice("features", name, stages): check_choice("tap", one, TAPS) for name, one in zip(names, taps)}
