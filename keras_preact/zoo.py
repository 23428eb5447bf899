"""The networks of the paper and their families, as functions with Keras' arguments, and a registry of them."""

import keras

from keras_preact.errors import argument_error, check_choice, check_integer
from keras_preact.network.checks import LAYOUTS, check_execution, check_features
from keras_preact.network.families import FAMILIES, IMPLEMENTATIONS, changed, cifar_spec
from keras_preact.network.model import ResidualNetwork, read_fingerprint
from keras_preact.network.spec import NetworkSpec
from keras_preact.weights.cards import Card, find_weights, get_card
from keras_preact.weights.pretrained import check_spec, load_pretrained, weights_file


def build_network(
    spec,
    include_top=True,
    weights=None,
    input_tensor=None,
    input_shape=None,
    pooling=None,
    num_classes=None,
    classifier_activation="softmax",
    name=None,
    *,
    layout="stacked",
    unroll="auto",
    remat=False,
    dtype=None,
    features=None,
    tap="sum",
):
    """Builds the `keras.Model` of a `NetworkSpec`.

    Args:
        spec: A `NetworkSpec`.
        include_top: Whether the network ends in global average pooling and a classifier.
        weights: None, or trained weights: a name of `list_weights()`, a data set (`"cifar10"`, `"cifar100"`,
            `"imagenet"`, `"digits"`: the weights of the lowest published error), or the path of a `.weights.h5` file of
            this network. Other weights are downloaded, once. `model.card` then describes the weights, and
            `model.loaded` reports what was taken over.
        input_tensor: A Keras tensor (batch, height, width, channels) to read instead of a new input.
        input_shape: (height, width, channels); a side may be None. (32, 32, 3), or what `weights` were trained on, if
            left out. With other channels than the weights', their first kernel is adapted.
        pooling: Without the top: `"avg"` or `"max"` for global pooling, None for the last stage's
            (batch, height, width, channels).
        num_classes: Outputs of the classifier; 10, or as many as `weights` have, if None. With another number than the
            weights', the classifier is new.
        classifier_activation: Activation of the classifier; None for logits.
        name: The model's name.
        layout: `"stacked"`: equal units of a stage are one layer, their weights stacked and looped over; what is built,
            traced and saved does not grow with depth. `"layers"`: every operation is a Keras layer with a name such as
            `stage2_unit07_conv1`. Both hold the same network, and read each other's weights files.
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
        A `ResidualNetwork`, a functional `keras.Model`. Its output is (batch, num_classes) with the top; with
        `features` a dict from their names to (batch, height / stride, width / stride, channels).

    Raises:
        ValueError: If an argument is not allowed; it is named, with what was received and the nearest choice.
        ConnectionError: If weights are to be downloaded, and cannot be.
    """
    if not isinstance(spec, NetworkSpec):
        raise argument_error("spec", "a NetworkSpec", spec)
    weights = find_weights(weights, f"resnet{spec.depth}")
    if isinstance(weights, Card):
        check_spec(weights, card_spec(weights), spec)
    input_shape, num_classes = _fitted(weights, input_shape, input_tensor, num_classes, (32, 32, 3), 10)
    if keras.config.image_data_format() != "channels_last":
        hint = "Call keras.config.set_image_data_format('channels_last') and feed (batch, height, width, channels)."
        raise argument_error("image_data_format", '"channels_last"', keras.config.image_data_format(), hint)
    check_choice("layout", layout, LAYOUTS)
    unroll, remat = check_execution(unroll, remat)
    if include_top:
        num_classes = check_integer("num_classes", num_classes)
    if pooling is not None:
        check_choice("pooling", pooling, ("avg", "max"))
    classifier_activation = _check_activation(classifier_activation)
    features = check_features(spec, features, tap, pooling)
    shape = _check_input(spec, input_shape, input_tensor)
    is_input = input_tensor is None or isinstance(input_tensor._keras_history.operation, keras.layers.InputLayer)
    model = ResidualNetwork(
        spec,
        shape,
        include_top=bool(include_top),
        pooling=pooling,
        num_classes=num_classes,
        classifier_activation=classifier_activation,
        layout=layout,
        unroll=unroll,
        remat=remat,
        dtype=dtype,
        name=name or f"resnet{spec.depth}",
        input_tensor=input_tensor if is_input else None,
        features=features,
    )
    if weights is not None:
        load_pretrained(model, weights)
    if is_input:
        return model
    whole = keras.Model(keras.utils.get_source_inputs(input_tensor), model(input_tensor), name=model.name)
    whole.card, whole.loaded = model.card, model.loaded
    return whole


def _fitted(weights, shape, tensor, classes, default_shape, default_classes):
    """Returns `shape` and `classes`, where they were left out those of the weights, or else the defaults."""
    if shape is not None and classes is not None:
        return shape, classes
    if isinstance(weights, Card):
        default_shape, default_classes = weights.preprocessing.input_shape, len(weights.classes)
    elif weights is not None and (theirs := read_fingerprint(weights)) is not None:
        default_shape = (*default_shape[:2], theirs["channels"])
        default_classes = theirs["num_classes"] or default_classes
    shape = default_shape if shape is None and tensor is None else shape
    return shape, default_classes if classes is None else classes


def _check_activation(activation):
    try:
        found = keras.activations.get(activation)
    except ValueError as error:
        raise argument_error("classifier_activation", "None or an activation Keras knows", activation) from error
    return activation if isinstance(activation, str) else keras.activations.serialize(found)


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
            raise argument_error("input_shape", f"at least {low}x{low} pixels for this network", shape, hint)
    return height, width, channels


def _builder(family, about="", **which):
    """Returns the public function of one network, with Keras' arguments first and this package's keyword-only.

    `which` are the arguments of the family's function that choose the network: `depth`, `unit`, `units`.
    """
    make_spec, side, classes = FAMILIES[family]
    base = make_spec(**which)
    function_name = f"ResNet{base.depth}"

    def spec_of(unit=which.get("unit"), **fields):
        return make_spec(**{**which, "unit": unit}, **fields)

    def builder(
        include_top=True,
        weights=None,
        input_tensor=None,
        input_shape=None,
        pooling=None,
        num_classes=None,
        classifier_activation="softmax",
        name=function_name.lower(),
        *,
        ordering=None,
        shortcut=None,
        widening=None,
        stride_on=None,
        layout="stacked",
        unroll="auto",
        remat=False,
        dtype=None,
        features=None,
        tap="sum",
        **spec_fields,
    ):
        weights = find_weights(weights, function_name.lower())
        variants = dict(ordering=ordering, shortcut=shortcut, widening=widening, stride_on=stride_on)
        fields = {**{name: value for name, value in variants.items() if value is not None}, **spec_fields}
        spec = changed(_card_spec_of(base, weights), fields) if isinstance(weights, Card) else spec_of(**fields)
        shape = (side, side, 3)
        input_shape, num_classes = _fitted(weights, input_shape, input_tensor, num_classes, shape, classes)
        return build_network(
            spec,
            include_top,
            weights,
            input_tensor,
            input_shape,
            pooling,
            num_classes,
            classifier_activation,
            name,
            layout=layout,
            unroll=unroll,
            remat=remat,
            dtype=dtype,
            features=features,
            tap=tap,
        )

    builder.make_spec = spec_of
    builder.__name__ = builder.__qualname__ = function_name
    builder.__doc__ = _DOC.format(name=function_name, base=base, side=side, classes=classes, about=about)
    return builder


def _card_spec_of(base, card):
    """Returns the `NetworkSpec` of a card; a `ValueError` says if `base` has other units."""
    theirs = card_spec(card)
    sides = [f"units={spec.units}, widths={spec.widths} and unit={spec.unit!r}" for spec in (base, theirs)]
    if sides[0] != sides[1]:
        raise argument_error("weights", f"those of a network of {sides[0]}", card.name, f"These have {sides[1]}.")
    return theirs


def card_spec(card):
    """Returns the `NetworkSpec` of a card's network."""
    if card.spec is not None:
        return NetworkSpec.from_dict(card.spec)
    return _MODELS[card.network].make_spec(**IMPLEMENTATIONS[card.graph])


_DOC = """Builds {name}: {about}, {base.units} {base.unit} units, {side}x{side} images, {classes} classes.

An argument that is left out has the paper's value, as above and in brackets, or that of `weights`.

Args:
    ordering: Where BN and ReLU stand in a unit, a key of `ORDERINGS` (Fig. 4) ["{base.ordering}"].
    shortcut: What stands on the shortcut, a key of `SHORTCUT_PARAMETERS` (Fig. 2), or a `ShortcutSpec`
        ["{base.shortcut.name}"].
    widening: `"projection"` or `"zero_pad"`: how a shortcut changes shape ["{base.widening}"].
    stride_on: `"1x1"` or `"3x3"`: which convolution of a bottleneck unit takes the stride ["{base.stride_on}"].
    **spec_fields: Any other field of `NetworkSpec`.

The other arguments, the result and the errors are those of `build_network`.
"""

ResNet110 = _builder("cifar", "for CIFAR, Tables 1 and 2", depth=110, unit="basic")
ResNet164 = _builder("cifar", "for CIFAR, Tables 2 and 3", depth=164, unit="bottleneck")
ResNet1001 = _builder("cifar", "for CIFAR, Tables 3 and 4", depth=1001, unit="bottleneck")
ResNet50 = _builder("imagenet", "for ImageNet", depth=50)
ResNet101 = _builder("imagenet", "for ImageNet", depth=101)
ResNet152 = _builder("imagenet", "for ImageNet, Table 5", depth=152)
ResNet200 = _builder("imagenet", "for ImageNet, Table 5", depth=200)

_MODELS = {
    function.__name__.lower(): function
    for function in (ResNet110, ResNet164, ResNet1001, ResNet50, ResNet101, ResNet152, ResNet200)
}


def ResNet(depth=None, *arguments, family="cifar", unit=None, units=None, **keywords):
    """Builds any depth of a family: `ResNet(29)`, `ResNet(56, unit="bottleneck")`, `ResNet(50, family="imagenet")`.

    Args:
        depth: Weight layers: 6n + 2 of basic or 9n + 2 of bottleneck units for `"cifar"`; a key of `IMAGENET_UNITS`
            for `"imagenet"`.
        *arguments: As in `ResNet164`.
        family: `"cifar"` or `"imagenet"`.
        unit: `"basic"`, `"bottleneck"` or `"single"`; chosen by the depth if None.
        units: `"imagenet"` only: units of the four stages, for any depth 3 * sum(units) + 2 (2 * sum + 2 if basic).
        **keywords: As in `ResNet164`.

    Raises:
        ValueError: If an argument is not allowed; the nearest depths are named.
    """
    check_choice("family", family, FAMILIES)
    which = {"depth": depth, "unit": unit}
    if units is not None:
        if family != "imagenet":
            raise argument_error("units", 'left out unless family="imagenet"', units, "Use NetworkSpec for others.")
        which["units"] = units
    return _builder(family, **which)(*arguments, **keywords)


def list_models():
    """Returns the names that `get_model` takes: the functions' names in lower case, in order of family and depth."""
    return list(_MODELS)


def model_key(name):
    """Returns `name`, in any case, as `get_model` takes it; raises a `ValueError` if there is no such network."""
    key = name.lower() if isinstance(name, str) else name
    if isinstance(key, str) and key.startswith("resnet") and key[6:].isdigit() and key not in _MODELS:
        cifar_spec(int(key[6:]))
        return key
    return check_choice("model", key, _MODELS)


def get_model(name, **keywords):
    """Builds the network called `name`, with the keywords of its function.

    Args:
        name: One of `list_models()`, or `resnet<depth>` for another depth of the CIFAR family; in any case.
        **keywords: As in `ResNet164`.

    Raises:
        ValueError: If there is none of that name; the nearest is named.
    """
    key = model_key(name)
    return _MODELS[key](**keywords) if key in _MODELS else ResNet(int(key[6:]), **keywords)


def fetch_weights(name, place=None, digest=None, output=None):
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
