"""The networks of the paper and their families as functions, with Keras' arguments first."""

import inspect
import os
from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from keras import KerasTensor, Model

from keras_preact.errors import argument_error, check_arguments, check_choice
from keras_preact.network.families import FAMILIES, NETWORKS, family_of
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.network.spec import StemSpec
from keras_preact.weights.cards import Card
from keras_preact.zoo import ARGUMENTS, FOREIGN, build_of_family

Weights = str | os.PathLike | Card | None
Shape = tuple[int | None, int | None, int] | None
Function = TypeVar("Function", bound=Callable[..., Model])


class NetworkOptions(TypedDict, total=False):
    """Keywords that every network takes, all optional.

    Fields of `NetworkSpec`; left out, or None, they are the paper's, or those of `weights`:
        ordering: Where BN and ReLU stand in a unit, a key of `ORDERINGS` (Fig. 4).
        shortcut: What stands on the shortcut, a key of `SHORTCUT_PARAMETERS` (Fig. 2), or a `ShortcutSpec`.
        widening: `"projection"` or `"zero_pad"`: how a shortcut changes shape.
        stride_on: `"1x1"` or `"3x3"`: which convolution of a bottleneck unit takes the stride.
        unit: `"basic"`, `"bottleneck"` or `"single"`.
        units: Units of each stage.
        widths, strides, stem, widening_reads, project_first_units, shortcut_norm, first_unit_activates, conv_bias,
            bn_momentum, bn_epsilon, bn_synchronized, stochastic_depth: As in `NetworkSpec`.

    Arguments of `build_network`:
        layout: `"layers"` (a Keras layer per operation), `"stacked"` (a layer per run of equal units), or None: layers
            up to 50 units, stacked beyond.
        unroll: Units in one turn of the loop, `"all"`, or `"auto"`.
        remat: Whether the backward pass computes units again.
        dtype: A Keras dtype policy or its name.
        features: Stages whose signals are the only outputs.
        tap: `"sum"` or `"activated"`: which signal of a stage that is.
    """

    ordering: str | None
    shortcut: str | ShortcutSpec | dict | None
    widening: Literal["projection", "zero_pad"] | None
    stride_on: Literal["1x1", "3x3"] | None
    unit: Literal["basic", "bottleneck", "single"] | None
    units: tuple[int, ...] | None
    widths: tuple[int, ...] | None
    strides: tuple[int, ...] | None
    stem: StemSpec | dict | None
    widening_reads: Literal["activated", "raw"] | None
    project_first_units: bool | None
    shortcut_norm: bool | None
    first_unit_activates: bool | None
    conv_bias: tuple[str, ...] | None
    bn_momentum: float | None
    bn_epsilon: float | None
    bn_synchronized: bool | None
    stochastic_depth: float | tuple[float, ...] | None
    layout: Literal["stacked", "layers"] | None
    unroll: int | Literal["auto", "all"]
    remat: bool | int
    dtype: Any
    features: str | tuple[str, ...] | None
    tap: str | tuple[str, ...]


_DEFAULTS = {"unroll": "auto", "remat": False, "tap": "sum"}  # of the others: None


def with_every_argument(function: Function) -> Function:
    """Gives a network's function the signature and the text that `help()` shows: with every key of `NetworkOptions`."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, kind, default=_DEFAULTS.get(name), annotation=annotation)
        for name, annotation in NetworkOptions.__annotations__.items()
    ]
    vars(function)["__signature__"] = signature.replace(parameters=[*own, *options])
    function.__doc__ = "\n\n".join(inspect.getdoc(part) or "" for part in (function, NetworkOptions))
    return function


def _build(key, arguments):
    """Builds the network called `key` of the `locals()` of its function."""
    check_arguments(f"ResNet{key[6:]}", arguments["options"], ARGUMENTS, FOREIGN)
    return build_of_family(*NETWORKS[key], _one_dict(arguments))


def _one_dict(arguments, without=()):
    """Returns the `locals()` of a function with its `options` among them."""
    return {name: arguments[name] for name in arguments if name not in ("options", *without)} | arguments["options"]


@with_every_argument
def ResNet110(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet110",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-110 for CIFAR, as in Tables 1 and 2: 18-18-18 basic units, 32x32 images, 10 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet110", locals())


@with_every_argument
def ResNet164(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet164",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-164 for CIFAR, as in Tables 2 and 3: 18-18-18 bottleneck units, 32x32 images, 10 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet164", locals())


@with_every_argument
def ResNet1001(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet1001",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-1001 for CIFAR, as in Tables 3 and 4: 111-111-111 bottleneck units, 32x32 images, 10 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet1001", locals())


@with_every_argument
def ResNet50(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet50",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-50 for ImageNet: 3-4-6-3 bottleneck units, 224x224 images, 1000 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet50", locals())


@with_every_argument
def ResNet101(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet101",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-101 for ImageNet: 3-4-23-3 bottleneck units, 224x224 images, 1000 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet101", locals())


@with_every_argument
def ResNet152(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet152",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-152 for ImageNet, as in Table 5: 3-8-36-3 bottleneck units, 224x224 images, 1000 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet152", locals())


@with_every_argument
def ResNet200(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = "resnet200",
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds ResNet-200 for ImageNet, as in Table 5: 3-24-36-3 bottleneck units, 224x224 images, 1000 classes.

    The arguments up to `name`, the result and the errors are those of `build_network`; `options` are a
    `NetworkOptions`.
    """
    return _build("resnet200", locals())


@with_every_argument
def ResNet(
    depth: int | None = None,
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: KerasTensor | None = None,
    input_shape: Shape = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    family: Literal["cifar", "imagenet"] | None = None,
    **options: Unpack[NetworkOptions],
) -> Model:
    """Builds any depth of a family: `ResNet(29)`, `ResNet(56, unit="bottleneck")`, `ResNet(50, family="imagenet")`.

    Args:
        depth: Weight layers: 6n + 2 of basic or 9n + 2 of bottleneck units for `"cifar"`; a key of `IMAGENET_UNITS`
            for `"imagenet"`. May be left out if `units` says it.
        family: `"cifar"` or `"imagenet"`; may be left out where one of them has the depth (50, 101, 152 and 200 are in
            both).
        **options: A `NetworkOptions`. Its `units` are for `"imagenet"` only: units of the four stages, for any depth
            3 * sum(units) + 2 (2 * sum + 2 if basic).

    The other arguments, the result and the errors are those of `build_network`.
    """
    arguments, units, unit = locals(), options.get("units"), options.get("unit")
    check_arguments("ResNet", options, ("depth", "family", *ARGUMENTS), FOREIGN)
    if units is not None and family != "imagenet":
        raise argument_error("units", 'left out unless family="imagenet"', units, "Use NetworkSpec for others.")
    which: dict[str, Any] = {"depth": depth, "unit": unit} | ({} if units is None else {"units": units})
    chosen = family_of(depth, unit) if family is None else check_choice("family", family, FAMILIES)
    return build_of_family(chosen, which, _one_dict(arguments, without=("depth", "family")))
