"""Building a network: of a `NetworkSpec`, of a family, or by name; the functions of one network are in `resnets`."""

import dataclasses
import fnmatch
import inspect
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras

from keras_preact.errors import argument_error, arguments_checked, check_arguments, check_choice, check_integer
from keras_preact.network.checks import Layout, check_execution, check_features, chosen_layout
from keras_preact.network.families import FAMILIES, NETWORKS, changed, chosen
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.spec import NetworkSpec
from keras_preact.types import PathLike
from keras_preact.weights.cards import Card, card_spec, find_weights, get_card
from keras_preact.weights.pretrained import check_spec, load_pretrained, stated, weights_file

# What other libraries call an argument, and what there is of it here.
FOREIGN = {
    "classes": "Here it is num_classes.",
    "num_outputs": "Here it is num_classes.",
    "pretrained": 'Here it is weights, e.g. weights="imagenet", or a name of list_weights().',
    "in_chans": "Here it is the last of input_shape=(height, width, channels).",
    "img_size": "Here it is input_shape=(height, width, channels).",
    "features_only": 'Here it is features, the stages whose signals are returned, e.g. features=("stage2", "stage3").',
    "out_indices": 'Here it is features, the stages by name, e.g. features=("stage2", "stage3").',
    "global_pool": 'Here it is pooling="avg" or "max", with include_top=False.',
    "drop_rate": "There is no dropout before the classifier; put a keras.layers.Dropout and a classifier on a network "
    'with include_top=False, pooling="avg".',
    "dropout": 'Dropout on the shortcut is shortcut="dropout"; before the classifier put a keras.layers.Dropout on a '
    'network with include_top=False, pooling="avg".',
    "data_format": "Channels come last: (height, width, channels).",
    "drop_path_rate": "Here it is stochastic_depth.",
    "norm_eps": "Here it is bn_epsilon.",
    "include_preprocessing": "Images are prepared by preprocess_input(images, model.card).",
    "include_rescaling": "Images are prepared by preprocess_input(images, model.card).",
}


@arguments_checked(FOREIGN)
def build_network(
    spec: NetworkSpec,
    include_top: bool = True,
    weights: PathLike | Card | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: Literal["avg", "max"] | None = None,
    num_classes: int | None = None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    layout: Layout | None = None,
    unroll: int | Literal["auto", "all"] = "auto",
    remat: bool | int = False,
    dtype: keras.DTypePolicy | str | None = None,
    features: str | Sequence[str] | None = None,
    tap: str | Sequence[str] = "sum",
) -> keras.Model:
    """Builds the `keras.Model` of a `NetworkSpec`.

    Args:
        spec: A `NetworkSpec`.
        include_top: Whether the network ends in global average pooling and a classifier.
        weights: None, or trained weights: a name of `list_weights()`, a data set (`"cifar10"`, `"cifar100"`,
            `"imagenet"`, `"digits"`: ours if there are any, else those of the lowest published error that can be
            downloaded), the folder of a finished run or of kept weights, or a `.keras` or `.weights.h5` file of this
            network. Published weights are downloaded, once.
            `model.card` then describes the weights, and `model.loaded` reports what was taken over.
        input_tensor: A Keras tensor (batch, height, width, channels) to read instead of a new input.
        input_shape: (height, width, channels); a side may be None. (32, 32, 3), or what `weights` were trained on, if
            left out. With other channels than the weights', their first kernel is adapted.
        pooling: Without the top: `"avg"` or `"max"` for global pooling, None for the last stage's
            (batch, height, width, channels). The top averages, and takes `"avg"` as keras.applications does.
        num_classes: Outputs of the classifier; 10, or as many as `weights` have, if None. With another number than the
            weights', the classifier is new. Without the top it has no effect, as in keras.applications.
        classifier_activation: Activation of the classifier; None for logits. Of one output it is no softmax.
        name: The model's name.
        layout: `"layers"`: every operation is a Keras layer with a name such as `stage2_unit07_conv1`. `"stacked"`:
            equal units of a stage are one layer, their weights stacked and looped over; what is built, traced and saved
            does not grow with depth. None: layers up to 50 units (ResNet-152), stacked beyond, or with `unroll` or
            `remat`, which layers do not take. Both hold the same network, and read each other's weights files.
        unroll: Units in one turn of the loop, or `"all"`: more is faster on a GPU and slower to compile. `"auto"` is 1,
            but `"all"` for runs of up to 36 units on a GPU under JAX.
        remat: Whether the backward pass computes units again instead of keeping their inner signals: memory for about a
            quarter more time. A number k keeps the signal between every k units only; True means 2 in the first stage,
            whose signals are largest, and 1 in the others.
        dtype: A Keras dtype policy or its name. Logits and probabilities are float32 at least.
        features: Stages whose signals are the only outputs, e.g. `("stage2", "stage3")`: a backbone, which ends after
            the last of them. `model.feature_strides` has the image pixels per pixel of each. Weights files of the whole
            network fit.
        tap: Which signal of a stage is returned, one choice for all or one for each: `"sum"`, x_{l+1} of its last unit,
            which in a pre-activation network no BN has touched; `"activated"`, what the next unit's first convolution
            reads: the sum after that unit's own leading BN and ReLU, or the network's last. Where the ordering has
            none there (Fig. 4(a) to (c)) it is the sum.

    Returns:
        A `ResidualNetwork`, a functional `keras.Model`; of a computed `input_tensor` a plain `keras.Model` around one,
        from what the tensor is computed of. Its output is (batch, num_classes) with the top; with `features` a dict
        from their names to (batch, height / stride, width / stride, channels).

    Raises:
        ValueError: If an argument is not allowed; it is named, with what was received and the nearest choice.
        ConnectionError: If weights are to be downloaded, and cannot be.
    """
    if not isinstance(spec, NetworkSpec):
        raise argument_error("spec", "a NetworkSpec", spec)
    weights = find_weights(weights, f"resnet{spec.depth}")
    theirs = stated(weights)
    if theirs and theirs.spec:
        check_spec(theirs.name, theirs.spec, spec)
    input_shape, num_classes = _fitted(theirs, input_shape, input_tensor, num_classes, (32, 32, 3), 10)
    _check_data_format()
    unroll, remat = check_execution(unroll, remat)
    has_top = bool(include_top) and features is None
    num_classes, classifier_activation = _check_head(has_top, pooling, num_classes, classifier_activation)
    shape = _check_input(spec, input_shape, input_tensor)
    is_input = input_tensor is None or _is_input(input_tensor)
    model = ResidualNetwork(
        spec,
        input_shape=shape,
        include_top=bool(include_top),
        pooling=pooling,
        num_classes=num_classes,
        classifier_activation=classifier_activation,
        layout=chosen_layout(layout, spec, unroll, remat),
        unroll=unroll,
        remat=remat,
        dtype=dtype,
        name=name or f"resnet{spec.depth}",
        input_tensor=input_tensor if is_input else None,
        features=check_features(spec, features, tap, pooling),
    )
    if weights is not None:
        load_pretrained(model, weights)
    return model if is_input else _placed_on(input_tensor, model)


def _is_input(tensor):
    """Returns whether a Keras tensor is an input, and not computed from any."""
    return any(source is tensor for source in keras.utils.get_source_inputs(tensor))


def _placed_on(tensor, model):
    """Returns the model from what a Keras tensor is computed of to what `model` makes of that tensor."""
    whole = keras.Model(keras.utils.get_source_inputs(tensor), model(tensor), name=model.name)
    whole.card, whole.loaded = model.card, model.loaded
    return whole


def _fitted(theirs, shape, tensor, classes, default_shape, default_classes):
    """Returns `shape` and `classes`, where they were left out those that weights state, or else the defaults."""
    if theirs is not None:
        default_shape = tuple(side or default for side, default in zip(theirs.input_shape, default_shape))
        default_classes = theirs.num_classes or default_classes
    shape = default_shape if shape is None and tensor is None else shape
    return shape, default_classes if classes is None else classes


def _check_data_format():
    if keras.config.image_data_format() != "channels_last":
        hint = "Call keras.config.set_image_data_format('channels_last') and feed (batch, height, width, channels)."
        raise argument_error("image_data_format", '"channels_last"', keras.config.image_data_format(), hint)


def _check_head(has_top, pooling, num_classes, activation):
    """Returns the number of classes and the name of the activation, once all are checked."""
    num_classes, activation = check_integer("num_classes", num_classes), _check_activation(activation)
    if pooling is not None:
        check_choice("pooling", pooling, ("avg", "max"))
    if has_top and pooling == "max":
        raise argument_error("pooling", '"avg" or left out with include_top=True, which averages', pooling)
    if has_top and num_classes == 1 and activation == "softmax":
        hint = 'A softmax of one output is always 1. For one of two classes use classifier_activation="sigmoid".'
        raise argument_error("classifier_activation", "another with num_classes=1", activation, hint)
    return num_classes, activation


def _check_activation(activation):
    try:
        found = keras.activations.get(activation)
        if isinstance(activation, str):
            return activation
        plain = keras.activations.serialize(found)
        keras.activations.get(plain)  # as a file will
        return plain
    except (ValueError, TypeError) as error:
        hint = "Register a function with keras.saving.register_keras_serializable."
        expected = "None or an activation that Keras knows"
        raise argument_error("classifier_activation", expected, activation, hint) from error


def _check_input(spec, shape, tensor):
    if tensor is not None:
        if not keras.utils.is_keras_tensor(tensor):
            raise argument_error("input_tensor", "a Keras tensor", type(tensor).__name__, "Make one with keras.Input.")
        if shape is not None and tuple(shape) != tuple(tensor.shape[1:]):
            raise argument_error("input_shape", f"left out or {tuple(tensor.shape[1:])} as in `input_tensor`", shape)
        shape = tensor.shape[1:]
    try:
        height, width, channels = shape
    except (TypeError, ValueError):
        raise argument_error("input_shape", "(height, width, channels)", shape) from None
    if channels is None:
        raise argument_error("input_shape", "(height, width, channels) with known channels", shape)
    channels = check_integer("input_shape[2] (channels)", channels)
    low = spec.minimum_size
    for side in (height, width):
        if side is not None and check_integer("input_shape (height, width)", side) < low:
            hint = f"Nearest: ({max(low, height or low)}, {max(low, width or low)}, {channels})."
            if height in (1, 3):
                hint = f"Channels come last: ({width}, {channels}, {height})."
            raise argument_error("input_shape", f"at least {low}x{low} pixels for this network", shape, hint)
    return height, width, channels


SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(NetworkSpec))
ARGUMENTS = (*(name for name in inspect.signature(build_network).parameters if name != "spec"), *SPEC_FIELDS)


def build_of_family(family: str, which: Mapping[str, Any], arguments: Mapping[str, Any]) -> keras.Model:
    """Builds a network of a family; what is left out, or None, is the family's, or that of the weights.

    Args:
        family: A key of `FAMILIES`.
        which: The arguments of the family's function that choose the network: `depth`, `unit`, `units`.
        arguments: A dict of arguments of `build_network` and of fields of `NetworkSpec`; the caller has checked its
            keys with `check_arguments`.

    Raises:
        ValueError: As `build_network`.
    """
    make_spec, side, classes = FAMILIES[family]
    base = make_spec(**which)
    fields = {name: arguments[name] for name in SPEC_FIELDS if arguments.get(name) is not None}
    rest = {name: value for name, value in arguments.items() if name not in SPEC_FIELDS}
    weights = find_weights(rest.get("weights"), f"resnet{base.depth}")
    theirs = stated(weights)
    has_spec = theirs is not None and theirs.spec is not None
    decisive = ("unit", "units", "widths") if has_spec else SPEC_FIELDS  # the weights state the others
    spec = make_spec(**{**which, **{name: value for name, value in fields.items() if name in decisive}})
    if has_spec:
        spec = changed(_checked_units(spec, theirs), fields)
    shape, tensor = rest.get("input_shape"), rest.get("input_tensor")
    shape, classes = _fitted(theirs, shape, tensor, rest.get("num_classes"), (side, side, 3), classes)
    own = {"weights": weights, "input_shape": shape, "num_classes": classes}
    return build_network(spec, **{**rest, **own, "name": rest.get("name") or f"resnet{base.depth}"})


def _checked_units(base, theirs):
    """Returns the `NetworkSpec` that weights state; a `ValueError` says if `base` has other units."""
    sides = [f"units={spec.units}, widths={spec.widths} and unit={spec.unit!r}" for spec in (base, theirs.spec)]
    if sides[0] != sides[1]:
        raise argument_error("weights", f"those of a network of {sides[0]}", theirs.name, f"These have {sides[1]}.")
    return theirs.spec


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that have a function of their own, `ResNet164` as `"resnet164"`, by family and depth.

    `get_model` takes more: every depth of the families has a name, such as `"resnet56"` of CIFAR's (6n + 2 or 9n + 2)
    or `"resnet18"` of ImageNet's.

    Args:
        pattern: Only the names that it fits, as the shell matches files, in any case: `"resnet1*"`.
    """
    if not isinstance(pattern, str):
        raise argument_error("pattern", 'a string such as "resnet1*"', pattern)
    return [name for name in NETWORKS if fnmatch.fnmatchcase(name, pattern.lower())]


def get_model(model: str, *, family: Literal["cifar", "imagenet"] | None = None, **keywords: Any) -> keras.Model:
    """Builds the network of a name, with the keywords of its function.

    Args:
        model: One of `list_models()`, or `resnet<depth>` for any other depth of the families; in any case.
        family: `"cifar"` or `"imagenet"`; if None, that of the function of this name (`"resnet50"` is ImageNet's), else
            the one that has the depth.
        **keywords: As in `ResNet164`.

    Raises:
        ValueError: If there is none of that name, or an argument is not allowed; the nearest is named.
    """
    check_arguments("get_model", keywords, ("family", *ARGUMENTS), FOREIGN)
    return build_of_family(*chosen(model, family, keywords.get("unit")), keywords)


def fetch_weights(
    name: str, place: PathLike | None = None, digest: str | None = None, output: PathLike | None = None
) -> pathlib.Path:
    """Downloads and converts trained weights, so that `weights=name` finds them without a network.

    Args:
        name: One of `list_weights()`.
        place: A folder, or the URL of a mirror's folder, to take them from; `KERAS_PREACT_WEIGHTS` if None.
        digest: The hash of the download, e.g. `"sha256:..."`; needed where the card has none.
        output: Another folder than the cache to keep the converted file in, e.g. to carry it elsewhere.

    Returns:
        The path of the `.weights.h5` file.

    Raises:
        ValueError: If there are none of that name, what is found is not them, or they could not be kept.
        ConnectionError: If they cannot be downloaded.
    """
    card = get_card(name)
    with weights_file(card, card_spec(card), place, digest, output, is_kept=True) as path:
        return path
