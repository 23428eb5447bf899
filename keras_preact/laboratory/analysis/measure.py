"""Signals and gradients of every unit of a network, measured on a batch of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_preact import bounds
from keras_preact.errors import argument_error, check_integer
from keras_preact.laboratory.analysis.gradients import check_backend, linearized
from keras_preact.laboratory.analysis.probe import GRADIENTS, SIGNALS, MeasuredUnit, Settings, measured_unit
from keras_preact.laboratory.analysis.result import Propagation
from keras_preact.network.build import classifier_logits
from keras_preact.network.checks import check_computes_alike, check_not_quantized
from keras_preact.network.claims import as_far_as
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.model import ResidualNetwork, converted
from keras_preact.network.named_weights import copy_trainable
from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.training.source import find_source

if TYPE_CHECKING:
    import numpy.typing as npt


def analyze(
    model: ResidualNetwork,
    images: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    training: bool = True,
    deletions: int = 0,
    seed: int = 0,
) -> Propagation:
    """Measures how signals and gradients pass each unit of a network; the network stays as it is.

    E is the mean cross-entropy over the images. The gradient dE/dx_l has two terms at a unit's input (eq. 5): the
    direct term, which comes from the end of the unit's stage through the shortcuts alone, and the branch term: the
    rest.

    It works on one unit at a time and keeps the inputs of all: memory for sum(units) signals, time linear in depth.
    Equal units share their compiled functions, also between networks of different depth.

    Args:
        model: A `ResidualNetwork` in either layout, or a trained one: a name of `list_weights()`, the folder of a run
            or of kept weights, or a `.keras` or `.weights.h5` file.
        images: Array (batch, height, width, channels), normalised as the network expects.
        labels: Whole numbers, (batch,), from 0 to classes - 1, of one sigmoid output 0 or 1; None to measure signals
            alone.
        training: Whether batch normalisations use the batch's statistics and dropout is on, as in a training step. A
            deep network that was never trained has no moving statistics worth using.
        deletions: How many units to delete, one at a time and evenly spaced among those that keep the shape: x_l
            takes the place of x_{l+1}. Each costs a pass through the units after it.
        seed: Decides the masks of dropout and stochastic depth.

    Returns:
        A `Propagation`.

    Raises:
        ValueError: If `model` is no network of this package, the images or labels do not fit it, or the backend is
            neither TensorFlow nor JAX.
    """
    check_backend()
    model = model if isinstance(model, ResidualNetwork) else find_source(model, "model").load()
    images = _checked_images(model, images)
    labels = _checked_labels(model, labels, len(images))
    deletions = check_integer("deletions", deletions, minimum=0)
    if deletions and labels is None:
        raise argument_error("deletions", "0 without labels: its effect is one on the loss", deletions)
    network = _stacked(model, training)
    units, ends = _units(network, training, check_integer("seed", seed, minimum=0, maximum=bounds.SEED))
    stem = keras.Model(network.input, ends[0].input)
    signals, columns = _forward(units, _called(stem, images.astype(network.variable_dtype), training))
    loss = gradient_at_end = None
    if labels is not None:
        loss_of = _loss(network, ends[-1], labels, training)
        (loss,), pull_back = linearized(lambda x: (loss_of(x),), signals[-1])
        gradient = pull_back(ops.ones_like(loss))
        loss, gradient_at_end = float(loss), float(np.linalg.norm(ops.convert_to_numpy(gradient)))
        columns |= _backward(units, signals, gradient)
        if deletions:
            columns["loss_without"] = _deleted(units, signals, loss_of, deletions)
    return Propagation(
        network=model.name,
        depth=model.spec.depth,
        ordering=model.spec.ordering,
        shortcut=model.spec.shortcut.name,
        training=bool(training),
        images=len(images),
        loss=loss,
        gradient_at_end=gradient_at_end,
        units=tuple(unit.spec.name for unit in units),
        stage=np.array([unit.stage for unit in units]),
        keeps_shape=np.array([not unit.spec.changes_shape for unit in units]),
        **columns,
    )


def _checked_images(model, images):
    images, shape = np.asarray(images), model.input_shape[1:]
    sides = tuple(f"any from {model.spec.minimum_size} on" if side is None else side for side in shape)
    expected = f"numbers of shape (batch, {', '.join(map(str, sides))})"
    fits = images.ndim == 4 and len(images) and all(ours in (None, its) for ours, its in zip(shape, images.shape[1:]))
    if not fits or min(images.shape[1:3]) < model.spec.minimum_size or images.dtype.kind not in "fiu":
        raise argument_error("images", expected, f"{images.dtype} of shape {images.shape}")
    if not np.all(np.isfinite(images)):
        raise argument_error("images", "finite numbers", f"{np.sum(~np.isfinite(images))} that are not")
    return images


def _checked_labels(model, labels, count):
    if labels is None:
        return None
    if not model.has_top:
        raise argument_error("labels", "left out: the network has no classifier", f"{len(labels)} labels")
    if _crossentropy(model) is None:
        expected = "left out: the loss of this head is not known, a softmax over classes or one sigmoid output has one"
        outputs = f"{model.output_shape[-1]} x {keras.activations.serialize(_activation(model))}"
        raise argument_error("labels", expected, f"{len(labels)} labels for {outputs}")
    labels, classes = np.asarray(labels), max(2, model.output_shape[-1])
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        expected = f"whole numbers, one per image: shape ({count},)"
        raise argument_error("labels", expected, f"{labels.dtype} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise argument_error("labels", f"from 0 to {classes - 1}", f"{labels.min()} to {labels.max()}")
    return labels.astype("int32")


def has_loss(model: ResidualNetwork) -> bool:
    """Returns whether a network ends in a classifier by whose outputs the loss it is trained by is known."""
    return model.has_top and _crossentropy(model) is not None


def _activation(model):
    return model.get_layer(CLASSIFIER).activation


def _crossentropy(model):
    """Returns the function of labels and logits to each image's loss that a network's head is trained by, or None.

    Without an activation the head is taken for one over classes, or with one output for a sigmoid.
    """
    name, is_one = keras.activations.serialize(_activation(model)), model.output_shape[-1] == 1
    if name not in (("linear", "sigmoid") if is_one else ("linear", "softmax")):
        return None
    return _binary if is_one else lambda labels, x: ops.sparse_categorical_crossentropy(labels, x, from_logits=True)


def _binary(labels, logits):
    logits = ops.squeeze(logits, -1)
    return ops.softplus(logits) - ops.cast(labels, logits.dtype) * logits


def _stacked(model, training):
    """Returns the network with stacked units that computes in float32, or float64: `model` itself, or a copy."""
    check_not_quantized(model)
    dtype = "float64" if model.variable_dtype == "float64" else "float32"
    config = {**model.get_config(), "layout": "stacked", "dtype": dtype}
    if config == model.get_config():
        return model
    network = converted(model, layout="stacked", dtype=dtype)
    check_computes_alike(model, kept=[layer.name for layer in network.layers])
    try:
        copy_trainable(model, network, partial=not training)
    except ValueError as error:
        raise argument_error(
            "training", "False while some of the equal units of a stage are frozen", training
        ) from error
    return network


@dataclass(frozen=True)
class _Unit:
    """One unit of the network: its spec, its compiled functions and its weights."""

    spec: UnitSpec
    functions: MeasuredUnit
    weights: dict[str, Any]

    @property
    def stage(self):
        return self.spec.stage


def _units(network, training, seed):
    """Returns the network's units, of a backbone as far as its last feature, and its first and last layer of them."""
    stages = len(as_far_as(network.spec, network.features).units)
    layers = [layer for layer in network.layers if isinstance(layer, ResidualUnits) and layer.units[0].stage <= stages]
    units: list[_Unit] = []
    draw = np.array([seed, 0], "uint32")
    for layer in layers:
        settings = Settings(layer.bn_epsilon, layer.compute_dtype)
        functions = measured_unit(layer.unit, settings, bool(training) and layer.trainable)
        arrays = {name: ops.convert_to_numpy(variable.value) for name, variable in layer.stacks.items()}
        for index, spec in enumerate(layer.units):
            weights = {name: array[index] for name, array in arrays.items()}
            if training and layer.seed_generator is not None:
                noise = {"draw": draw, "index": np.array(len(units), "int32")}
                weights |= {**noise, "drop_rate": np.array(spec.drop_rate, "float32")}
            units.append(_Unit(spec, functions, weights))
    return units, (layers[0], layers[-1])


def _called(model, x, training):
    """Returns the output of a part of the network, without a change of its moving statistics."""
    trainable = [variable.value for variable in model.trainable_variables]
    rest = [variable.value for variable in model.non_trainable_variables]
    return model.stateless_call(trainable, rest, x, training=training)[0]


def _loss(network, last, labels, training):
    """Returns the function from the last unit's output to E."""
    of_image = _crossentropy(network)
    pooled = keras.Model(last.output, network.get_layer("pool").output)

    def loss(x):
        logits = classifier_logits(network, _called(pooled, x, training))
        return ops.mean(of_image(labels, logits))

    return loss


def _forward(units, x):
    """Returns x_1, ..., x_{L+1}, and the columns of `SIGNALS`."""
    signals, rows = [x], []
    for unit in units:
        x, row = unit.functions.forward(x, unit.weights)
        signals.append(x)
        rows.append(row)
    table = np.array([ops.convert_to_numpy(row) for row in rows], "float64")
    return signals, dict(zip(SIGNALS, table.T))


class _Scaled:
    """An array times a power of two, so that 1001 layers' gradients neither vanish nor overflow in float32."""

    def __init__(self, array, exponent=0):
        self.array, self.exponent = array, exponent

    def settled(self, size):
        """Returns the same with an array of norm 1, roughly, when it has `size` now; exact, as 2^k is."""
        shift = math.frexp(size)[1] if math.isfinite(size) else 0
        if abs(shift) <= 16:
            return self
        return _Scaled(self.array * 2.0**-shift, self.exponent + shift)


def _backward(units, signals, gradient):
    """Returns the columns of gradients, for dE/dx_{L+1} = `gradient`."""
    gradient, rows = _Scaled(gradient), []
    for index in range(len(units) - 1, -1, -1):
        unit = units[index]
        if index == len(units) - 1 or units[index + 1].stage != unit.stage:
            direct = gradient
        common = max(gradient.exponent, direct.exponent)
        scales = np.exp2(np.array([gradient.exponent - common, direct.exponent - common], "float64"))
        arrays = signals[index], unit.weights, gradient.array, direct.array, scales.astype(_dtype(signals[index]))
        new_gradient, new_direct, norms = unit.functions.backward(*arrays)
        norms = dict(zip(GRADIENTS, ops.convert_to_numpy(norms).astype("float64")))
        exponents = {"gradient_norm": gradient.exponent, "branch_norm": common}
        rows.append({name: np.ldexp(size, exponents.get(name, direct.exponent)) for name, size in norms.items()})
        gradient = _Scaled(new_gradient, gradient.exponent).settled(norms["gradient_norm"])
        direct = _Scaled(new_direct, direct.exponent).settled(norms["direct_norm"])
    columns = {name: np.array([row[name] for row in reversed(rows)]) for name in GRADIENTS}
    return _factors(units, columns)


def _dtype(x):
    return keras.backend.standardize_dtype(x.dtype)


def _factors(units, columns):
    """Returns the columns of gradients with the factors of h and of f in place of the norms that they are made of."""
    at_sum, behind = columns.pop("direct_at_sum"), columns.pop("direct_behind")
    columns["shortcut_factor"] = _quotient(columns["direct_norm"], at_sum)
    columns["after_addition_factor"] = _quotient(at_sum, behind)
    products, product = [], 1.0
    for index in range(len(units) - 1, -1, -1):
        is_last = index == len(units) - 1 or units[index + 1].stage != units[index].stage
        product = columns["shortcut_factor"][index] * (1.0 if is_last else product)
        products.append(product)
    return {**columns, "shortcut_product": np.array(products[::-1])}


def _quotient(above, below):
    """Returns above / below; 0 where both are: what has vanished stays so."""
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


def _deleted(units, signals, loss_of, count):
    """Returns the loss without each of `count` units, one at a time; not a number for the others."""
    losses = np.full(len(units), np.nan)
    kept = [index for index, unit in enumerate(units) if not unit.spec.changes_shape]
    chosen = np.linspace(0, max(len(kept) - 1, 0), min(count, len(kept))).round().astype(int)
    for index in (kept[position] for position in np.unique(chosen)):
        x = signals[index]
        for unit in units[index + 1 :]:
            x = unit.functions.advance(x, unit.weights)
        losses[index] = float(loss_of(x))
    return losses
