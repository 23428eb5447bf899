"""Trained weights into a network: found or fetched, converted once, and fitted to another head or other channels."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
import textwrap
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.files import written_aside
from keras_preact.locks import held
from keras_preact.network.checks import check_computes_alike, check_not_quantized
from keras_preact.network.claims import check_keras_file, classes_of
from keras_preact.network.copies import without_lora
from keras_preact.network.loaded import Loaded
from keras_preact.network.model import FREE_FIELDS, ResidualNetwork
from keras_preact.network.named_weights import assign, named_weights
from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.weights_files import check_whole, read_fingerprint
from keras_preact.types import PathLike
from keras_preact.weights import store
from keras_preact.weights.cards import Card, card_spec, check_file
from keras_preact.weights.converters import convert
from keras_preact.weights.store import check_digest

HEAD = (f"{CLASSIFIER}/kernel", f"{CLASSIFIER}/bias")
STEM = "stem_conv/kernel"
ENDING, MODEL_ENDING = ".weights.h5", ".keras"
FETCHING = ".fetch."
FETCH_ABANDONED = 3600.0  # seconds: a download that goes on changes its files far more often

keras.saving.register_keras_serializable(package="keras_preact")(Card)  # so that a .keras file holds one


def read_model(path: PathLike, argument: str = "model") -> ResidualNetwork:
    """Returns the `ResidualNetwork` in a `.keras` file, which `argument` named.

    Raises:
        ValueError: If there is no such file, it is damaged, holds a model of another class or values that are not
            finite, claims more than it can hold (see `bounds`), or asks for code to be run, which Keras' safe mode
            refuses.
    """
    try:
        check_keras_file(path)
        model = keras.models.load_model(path, compile=False)
        for variable in model.variables:
            if not np.isfinite(keras.ops.convert_to_numpy(variable.value).astype("float64")).all():
                raise ValueError(f"{variable.path} holds values that are not finite.")
        return model
    except Exception as error:  # Keras, zipfile and h5py raise many kinds, with advice to turn the safe mode off
        reason = textwrap.shorten(str(error).partition("If you trust")[0], 300)
        raise argument_error(argument, "a .keras file that exists and is whole", str(path), reason) from error


@dataclass(frozen=True)
class Stated:
    """Holds what trained weights say of their network before they are read.

    Attributes:
        name: The card's, or the path.
        spec: The `NetworkSpec`; None for a `.weights.h5` file, which is compared with the network when it is read.
        input_shape: (height, width, channels); a side is None where it is not said.
        num_classes: Outputs of the classifier; None if there is none, or it is not said.
    """

    name: str
    spec: NetworkSpec | None
    input_shape: tuple[int | None, int | None, int]
    num_classes: int | None


def stated(weights: Card | pathlib.Path | None) -> Stated | None:
    """Returns the `Stated` of what `find_weights` returned; None if that is None, or a file that says nothing.

    Raises:
        ValueError: If a file is not whole.
    """
    if weights is None:
        return None
    if isinstance(weights, Card):
        return Stated(weights.name, card_spec(weights), weights.preprocessing.input_shape, len(weights.classes))
    if weights.suffix == MODEL_ENDING:
        try:
            config = check_keras_file(weights)["config"]
        except Exception as error:  # zipfile and h5py have many kinds
            expected = "a whole .keras file of a network of keras_preact"
            raise argument_error("weights", expected, str(weights), str(error)) from error
        spec = NetworkSpec.from_dict(config["spec"])
        return Stated(str(weights), spec, tuple(config["input_shape"]), classes_of(config))
    theirs = read_fingerprint(weights)
    if theirs is None:
        return None
    return Stated(str(weights), None, (None, None, theirs["channels"]), theirs["num_classes"])


def check_spec(name: str, theirs: NetworkSpec, ours: NetworkSpec) -> None:
    """Raises a `ValueError` that names both sides if a network's spec contradicts that of the weights `name`."""
    for field, value in theirs.to_dict().items():
        asked = getattr(ours, field) if field in ("stem", "shortcut") else ours.to_dict()[field]
        if ours.to_dict()[field] != value and field not in FREE_FIELDS:
            expected = f"{getattr(theirs, field)!r}, as in the weights {name}"
            raise argument_error(field, expected, asked, "Leave it out, or choose other weights.")


def load_pretrained(model: ResidualNetwork, source: Card | pathlib.Path) -> None:
    """Loads trained weights into a network, fits head and first kernel where they differ, and notes both on it.

    Sets `model.card` (of a `.keras` file its own, None for a `.weights.h5` file) and `model.loaded`, a `Loaded`. The
    trunk is loaded whole or not at all.

    Args:
        model: A `ResidualNetwork` whose spec is that of the weights.
        source: A `Card`, or the `Path` of a `.weights.h5` or `.keras` file.

    Raises:
        ValueError: If the weights are not those of this network, or not whole; the model then stays as it is.
        ConnectionError: If a download fails.
    """
    if isinstance(source, Card):
        with weights_file(source, model.spec) as path:
            model.loaded = _load(model, path, source.name, len(source.classes), source.preprocessing.channels)
        model.card = source
    elif source.suffix == MODEL_ENDING:
        donor = read_model(source, "weights")
        check_not_quantized(donor, "weights")  # int8 kernels have the shapes of the others
        check_computes_alike(donor, "weights")
        model.loaded, model.card = _transfer(without_lora(donor), model, str(source)), donor.card
    else:
        model.loaded, model.card = _load(model, source, str(source), *_head_and_channels(source, model)), None


def _check_cached(card, path):
    """Raises a `ValueError` if `path` is not the file of the card, or is the one in the cache, and damaged."""
    if card.path == str(path):
        check_file(card)
    if path == _cached(card):
        try:
            check_whole(path)
        except ValueError as error:
            hint = f"{error} Delete {path}, and they are fetched again."
            raise argument_error("weights", "whole in the cache", card.name, hint) from error


def _head_and_channels(path, model):
    """Returns (classes or None, channels) of a file, or the model's own where it does not say."""
    theirs = read_fingerprint(path) or model.fingerprint
    return theirs["num_classes"], theirs["channels"]


def _load(model, path, name, classes, channels):
    ours = model.fingerprint
    if (ours["num_classes"], ours["channels"]) == (classes, channels):
        model.load_weights(path)
        return Loaded(name, len(named_weights(model)))
    dtype = keras.dtype_policies.get(model.get_config()["dtype"]).variable_dtype
    donor = _plain_network(model.spec, classes, channels, dtype)
    donor.load_weights(path)
    return _transfer(donor, model, name)


def _plain_network(spec, classes, channels, dtype="float32"):
    """Returns a stacked network to read weights with."""
    top = {"include_top": False} if classes is None else {"num_classes": classes}
    return ResidualNetwork(spec, (None, None, channels), dtype=dtype, **top)


def _transfer(donor, model, name):
    """Copies what fits of a network's weights into one that differs in head and channels; returns a `Loaded`."""
    theirs, ours = named_weights(donor), named_weights(model)
    arrays = {id(variable): keras.ops.convert_to_numpy(variable.value) for variable, _ in theirs.values()}
    value_of = lambda name: _at(arrays, *theirs[name])  # noqa: E731
    fits = all(name in ours and name in theirs and ours[name][0].shape == theirs[name][0].shape for name in HEAD)
    new = () if fits else tuple(name for name in HEAD if name in ours)
    unused = tuple(name for name in theirs if name in new or name not in ours)
    adapted = ()
    kernel, channels = value_of(STEM), model.input_shape[-1]
    if kernel.shape[2] != channels:
        adapted = (f"{STEM} reads {channels} channels instead of {kernel.shape[2]}: {adaptation(kernel, channels)}",)
        kernel = adapt_channels(kernel, channels)
    places = {name: place for name, place in ours.items() if name not in new}
    if missing := places.keys() - theirs.keys():
        raise argument_error("weights", "those of a whole trunk", name, f"{min(missing)} is not there.")
    for array, place in places.items():
        if array != STEM and _shape(*theirs[array]) != _shape(*place):
            raise argument_error("weights", f"with {array} of shape {_shape(*place)}", _shape(*theirs[array]))
    assign(places, lambda name: kernel if name == STEM else value_of(name))
    return Loaded(name, len(places) - len(adapted), new, unused, adapted)


def _shape(variable, index):
    return tuple(variable.shape[index is not None :])


def _at(arrays, variable, index):
    return arrays[id(variable)] if index is None else arrays[id(variable)][index]


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Returns a first kernel (height, width, channels, filters) for images of another number of channels.

    As timm's `adapt_input_conv`: for one channel the kernel is summed over its channels; for another number it is
    repeated as often as needed, cut, and scaled by the ratio of the numbers, so that sums keep their size.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    before = kernel.shape[2]
    repeated = np.concatenate([kernel] * -(-channels // before), axis=2)[:, :, :channels]
    return repeated * np.float32(before / channels)


def adaptation(kernel: np.ndarray, channels: int) -> str:
    """Returns in words what `adapt_channels` does."""
    before = kernel.shape[2]
    return "summed over them." if channels == 1 else f"repeated, and multiplied by {before}/{channels}."


@contextlib.contextmanager
def weights_file(
    card: Card,
    spec: NetworkSpec,
    place: PathLike | None = None,
    digest: str | None = None,
    output: PathLike | None = None,
    is_kept: bool = False,
) -> Iterator[pathlib.Path]:
    """Yields the path of a card's `.weights.h5` file, which is downloaded and converted if it is not there yet.

    It is looked for where the card says, in the folder `place` (or `KERAS_PREACT_WEIGHTS`), and in the cache. What is
    downloaded is converted, and kept in the cache; if that cannot be written, in a temporary folder until the end.

    Args:
        card: A `Card`.
        spec: The `NetworkSpec` of its network.
        place: As in `store.fetch`.
        digest: The hash of the download, for a card that has none: what is in the cache without one is fetched again.
        output: Another folder to keep the converted file in.
        is_kept: Whether a folder that cannot be written to is an error.

    Raises:
        ValueError, ConnectionError: As `store.fetch` and `convert`.
    """
    if digest is not None and check_digest(digest) != (card.digest or check_digest(digest)):
        raise argument_error("digest", f"left out for {card.name}, whose file has {card.digest}", digest)
    found = None if digest and not card.digest else _found(card, place)
    if found is not None:
        _check_cached(card, found)
    if found is not None and output is None:
        yield found
        return
    name = f"{card.name}{ENDING}"
    with _writable(pathlib.Path(output) if output else _cached(card).parent, is_kept) as folder:
        path = folder / (name if output else _cached(card).name)
        _remove_abandoned(folder)
        with held(path, wait=True) as waited:
            if not (waited and digest is None and path.is_file()):  # the process that it waited for has written it
                _fetch(card, spec, place, digest, found, path)
        yield path


def _fetch(card, spec, place, digest, found, path):
    """Writes a card's converted file to `path`, from `found` or from a download."""
    with tempfile.TemporaryDirectory(prefix=FETCHING, dir=path.parent) as aside:
        source = found
        if source is None and card.path is not None:  # another author's file, which is here
            check_file(card)
            source = card.path
        elif source is None:
            source = pathlib.Path(aside) / f"source{'' if card.converter else ENDING}"
            store.fetch(card.remote(digest), source, place)
        with written_aside(path) as converted:
            _write_converted(card, spec, source, converted, is_ours=found is not None or card.converter is None)


def _remove_abandoned(folder):
    """Removes the downloads in a folder whose processes were killed: those unchanged for `FETCH_ABANDONED` seconds."""
    for aside in folder.glob(f"{FETCHING}*"):
        with contextlib.suppress(OSError):  # another process may be done with it, or remove it, just now
            changed = max(path.stat().st_mtime for path in (aside, *aside.rglob("*")))
            if time.time() - changed > FETCH_ABANDONED:
                shutil.rmtree(aside)


def _write_converted(card, spec, source, path, is_ours):
    network = _plain_network(spec, len(card.classes), card.preprocessing.channels)
    if is_ours:
        network.load_weights(source)
    else:
        places = named_weights(network)
        shapes = {name: _shape(*place) for name, place in places.items()}
        arrays = convert(card.converter, source, spec, shapes)
        assign(places, arrays.__getitem__)
    network.save_weights(path)


def _found(card, place):
    """Returns the path of a card's file that is here already, or None."""
    place = store.chosen_place(place)
    own = [pathlib.Path(card.path)] if card.path is not None and not card.converter else []
    kept = [] if place is None or store.is_mirror(place) else [pathlib.Path(place) / f"{card.name}{ENDING}"]
    here = (*own, *kept, *([] if own else [_cached(card)]))
    return next((path for path in here if path.is_file()), None)


def _cached(card):
    known = (card.digest or "unpublished").partition(":")[2][:8] or "unpublished"
    return store.cache_folder() / f"{card.name}-{known}{ENDING}"


@contextlib.contextmanager
def _writable(folder, is_kept):
    """Yields `folder` once it exists and can be written to, else a temporary one, with a warning, unless `is_kept`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if is_kept:
            hint = f"{error}. Pass another as `output`, or set KERAS_HOME to another than the cache's."
            raise argument_error("output", "a folder that can be written to", str(folder), hint) from error
        warnings.warn(f"{folder} cannot be written ({error}): what is downloaded is not kept.", stacklevel=2)
        with tempfile.TemporaryDirectory() as temporary:
            yield pathlib.Path(temporary)
        return
    yield folder
