"""What a person names when a trained network is asked for: one in memory, a name, a folder or a file."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
import numpy as np

from keras_preact.data.dataset import DataSet
from keras_preact.errors import argument_error, nearest
from keras_preact.files import sha256
from keras_preact.network.claims import check_keras_file, classes_of
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.named_weights import named_weights
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.weights_files import check_whole, read_fingerprint
from keras_preact.training import run_folder
from keras_preact.weights import schema
from keras_preact.weights.cards import Card, card_spec, get_card, kept_card, list_weights
from keras_preact.weights.preprocessing import Preprocessing
from keras_preact.weights.pretrained import read_model
from keras_preact.zoo import build_network

RUN = "run.json"  # beside kept weights: the card of their run
KINDS = (
    "a network of keras_preact, a name of list_weights(), the folder of a run or of kept weights, a .keras file or a "
    ".weights.h5 file"
)

Trained: TypeAlias = str | pathlib.Path | ResidualNetwork  # what `find_source` finds trained weights by


@dataclass(frozen=True)
class Source:
    """Holds what is known of trained weights before they are loaded.

    Attributes:
        name: The network's or the card's name, or the file's path.
        model: The network's name.
        digest: SHA-256 of the file, or of the arrays in memory, in hexadecimal digits; of a card its own hash, with the
            algorithm before it, or its name if it has none.
        spec: The `NetworkSpec`.
        channels: What the network reads.
        layout: The network's.
        load: A function that returns the `ResidualNetwork`.
        size: (height, width) that the network reads; None if it reads any, or that is not known.
        preprocessing: The `Preprocessing` of the images that the weights were trained on; None if not known.
        classes: A name for every output; None if not known.
        data: The name of what the weights were trained on, or its folder; None if not known.
        data_dir: Where its files were; None if that is not known, or they were in their usual place.
        skip_corrupt: Whether image files that cannot be read were left out of the data set.
        is_run: Whether it is the folder of a run, whose data set is at hand.
        error_percent: The test error that its card states, in %; None if there is none.
        card: What is known of it, as JSON holds it: a run's card, or that of trained weights; None if there is none.
        chain: Of the training, and before it of those that it began with: a dict each of `weights`, `digest`, and,
            where they are known, `seconds` and `cpu_seconds`.
    """

    name: str
    model: str
    digest: str
    spec: NetworkSpec
    channels: int
    layout: str
    load: Callable[[], ResidualNetwork]
    size: tuple[int, int] | None = None
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    data: str | None = None
    data_dir: str | None = None
    skip_corrupt: bool = False
    is_run: bool = False
    error_percent: float | None = None
    card: dict | None = None
    chain: tuple[dict, ...] = ()

    def normalized(self, data: DataSet) -> DataSet:
        """Returns a `DataSet` that normalises as the weights' images were, if that is known and of as many channels."""
        how = self.preprocessing
        if how is None or len(how.mean) != data.image_shape[-1]:
            return data
        return dataclasses.replace(data, mean=how.mean, std=how.std)


def find_source(weights: Trained, argument: str = "weights", names: Sequence[str] = ()) -> Source:
    """Returns the `Source` of a `ResidualNetwork`, a name of `list_weights()`, a folder, or a file.

    A folder is that of a finished run, or one that `keras-preact weights keep` wrote.

    Cards, runs' folders, and networks and `.keras` files that have a card say what they were trained on, and how its
    images were prepared. No TensorFlow runs, so that a strategy can still be made.

    Args:
        weights: What a person named.
        argument: The name of the argument that it was given for.
        names: What else the caller takes: names of networks. The nearest is named.

    Raises:
        ValueError: If `weights` is none of these, or the file is not whole.
    """
    if isinstance(weights, ResidualNetwork):
        return _of_network(weights)
    if not isinstance(weights, (str, pathlib.Path)):
        raise argument_error(argument, KINDS, type(weights).__name__)
    if isinstance(weights, str) and weights in list_weights():  # a `Path` is never a name
        return _of_card(get_card(weights))
    path = pathlib.Path(weights)
    if path.is_dir():
        kept = kept_card(path, argument)
        return _of_card(kept) if kept else _of_run(path, argument)
    readers = {".keras": _of_model_file, ".weights.h5": _of_weights_file}
    for ending, reader in readers.items():
        if path.is_file() and path.name.endswith(ending):
            try:
                return reader(path.resolve())
            except Exception as error:  # zipfile, h5py and damaged JSON have many kinds
                expected = f"a whole {ending} file of a network of keras_preact"
                raise argument_error(argument, expected, str(path), str(error)) from error
    expected = f"the name of a network such as {names[0]}, {KINDS}" if names else KINDS
    raise argument_error(argument, expected, str(weights), "" if path.exists() else _nearest_names(str(weights), names))


def _nearest_names(name, others):
    """Returns a hint: the names that there are for a data set or a network, or the nearest one, also of `others`."""
    cards = map(get_card, list_weights())
    names = [card.name for card in cards if name.lower() in (card.dataset, card.network)]
    names = names or [nearest(name, [*others, *list_weights()])]
    return f"There is no such file. Nearest: {', '.join(names)}."


def _of_network(network):
    config = network.get_config()
    known = _known(network.card, config)
    return _source(network.name, network.name, _digest_of_arrays(network), config, lambda: network, **known)


def _known(card, config):
    """Returns what the card of a network's weights says of the network, which may have another head or channels."""
    if card is None or card.preprocessing.channels != config["input_shape"][-1]:
        return {}
    known = {"preprocessing": card.preprocessing.of_size(config["input_shape"][:2])}
    if classes_of(config) == len(card.classes):
        known |= {"classes": card.classes, "data": card.dataset, "error_percent": card.error_percent}
        known |= {"card": card.get_config()}
    return known


def _of_card(card):
    spec, seen = card_spec(card), card.preprocessing

    def load():
        return build_network(spec, weights=card, name=card.network, layout="stacked")

    digest, ran = card.digest or card.name, {}
    if card.path is not None and (kept := pathlib.Path(card.path).with_name(RUN)).is_file():
        ran = run_folder.read_card(kept.parent, RUN)
    return Source(
        *(card.name, card.network, digest, spec, seen.channels, "stacked", load),
        preprocessing=seen,
        classes=card.classes,
        data=card.dataset,  # in its usual place: where it lay in training was perhaps on another machine
        skip_corrupt=ran.get("skip_corrupt", False),
        error_percent=card.error_percent,
        card=card.get_config(),
        chain=_chain(card.name, digest, ran),
    )


def _chain(name, digest, card):
    """Returns the chain of trainings that a run's card tells of, the run itself last."""
    spent = {what: card[what] for what in ("seconds", "cpu_seconds") if what in card}
    return (*card.get("chain", ()), {"weights": name, "digest": digest, **spent})


def _of_run(folder, argument):
    card, path = run_folder.read_card(folder, argument=argument), folder.resolve() / run_folder.MODEL
    if not path.is_file():
        raise argument_error(argument, f"the folder of a finished run, with {run_folder.MODEL} in it", str(folder))
    run_folder.check_seal(folder, card)
    name, digest = str(folder.resolve()), sha256(path)
    seen = schema.checked(Preprocessing, card["preprocessing"], "preprocessing")
    known = {"preprocessing": seen, "classes": tuple(map(str, card["classes"]))}
    known |= {"data": card["data"], "data_dir": card.get("data_dir"), "is_run": True}
    known |= {"skip_corrupt": card.get("skip_corrupt", False), "error_percent": card["error_percent"], "card": card}
    chain = _chain(name, digest, card)
    return _source(name, card["network"]["name"], digest, card["network"], _loader(path), chain=chain, **known)


def _of_model_file(path):
    config = check_keras_file(path)["config"]
    card = config.get("card") and Card.from_config(config["card"]["config"])
    return _source(str(path), config["name"], sha256(path), config, _loader(path), **_known(card, config))


def _of_weights_file(path):
    fields = read_fingerprint(path)
    check_whole(path)
    if fields is None:
        raise ValueError("It does not say of what network.")
    classes, channels, features = fields.pop("num_classes"), fields.pop("channels"), fields.pop("features", None)
    spec = NetworkSpec.from_dict(fields)

    def load():
        top = {"include_top": False} if classes is None else {"num_classes": classes}
        if features:
            top = {"features": [*features], "tap": [*features.values()]}
        return build_network(spec, input_shape=(None, None, channels), weights=path, layout="stacked", **top)

    config = {"spec": spec.to_dict(), "input_shape": (None, None, channels), "layout": "stacked"}
    return _source(str(path), f"resnet{spec.depth}", sha256(path), config, load)


def _source(name, model, digest, config, load, **known):
    spec = NetworkSpec.from_dict(config["spec"])
    *size, channels = config["input_shape"]
    size = None if None in size else tuple(size)
    return Source(name, model, digest, spec, channels, config["layout"], load, size, **known)


def _loader(path):
    return lambda: read_model(path, "weights")


def _digest_of_arrays(network):
    """Returns the SHA-256 of a network's weights by name, the same for every layout."""
    arrays, total = {}, hashlib.sha256()
    for name, (variable, index) in sorted(named_weights(network).items(), key=lambda item: item[0]):
        if id(variable) not in arrays:
            arrays[id(variable)] = keras.ops.convert_to_numpy(variable.value)
        array = arrays[id(variable)]
        total.update(name.encode())
        total.update(np.ascontiguousarray(array if index is None else array[index]).tobytes())
    return total.hexdigest()
