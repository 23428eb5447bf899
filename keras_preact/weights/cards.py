"""What is known of trained weights, as frozen data: other authors' from `cards.toml`, ours from `trained/`."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_preact.errors import argument_error, check_choice, check_number, nearest
from keras_preact.files import file_digest
from keras_preact.names import check_lines, check_name
from keras_preact.network.claims import check_parameters
from keras_preact.network.families import IMPLEMENTATIONS, network_spec
from keras_preact.network.spec import NetworkSpec
from keras_preact.types import PathLike
from keras_preact.weights.preprocessing import Preprocessing, fields_of_before
from keras_preact.weights.store import Remote, check_digest

FOLDER = pathlib.Path(__file__).parent
TRAINED = FOLDER / "trained"
WEIGHTS, CARD = "model.weights.h5", "card.json"
MODEL = "model.keras"  # of a run's folder


@dataclass(frozen=True)
class Card:
    """Describes one set of trained weights.

    Attributes:
        name: `<network>.<data set>.<recipe>`.
        network: The name of the network, as `keras_preact.list_models()` has it.
        dataset: What it was trained on.
        author: Who trained it.
        licence: Of the weights.
        recipe: How it was trained, as far as is known.
        error_percent: Top-1 error as the author printed it, in %.
        published: The numbers that the author published.
        preprocessing: A `Preprocessing`.
        classes: A name for every output.
        megabytes: Size of the weights, about.
        graph: A key of `IMPLEMENTATIONS`: how the network differs from ours; None if `spec` says all.
        spec: The `NetworkSpec` as plain data, of our own networks.
        converter: A key of `converters.CONVERTERS`, None if the file is one of ours.
        path: The file, if it came with this package or was registered.
        url: Where the file lies, else.
        member: The file's name in the zip archive at `url`, if that is one.
        file: What a folder or a mirror calls it; the last part of `url` if None.
        digest: The hash that its author published, as `sha256:...`, `sha1:...` or `md5:...`; None if there is none.
    """

    name: str
    network: str
    dataset: str
    author: str
    licence: str
    recipe: str
    error_percent: float
    published: str
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    megabytes: float
    graph: str | None = None
    spec: dict[str, Any] | None = None
    converter: str | None = None
    path: str | None = None
    url: str | None = None
    member: str | None = None
    file: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "network", "dataset"):
            check_name(name, getattr(self, name))
        for name, high in (("error_percent", 100.0), ("megabytes", math.inf)):
            object.__setattr__(self, name, check_number(name, getattr(self, name), 0.0, high))
        object.__setattr__(self, "classes", tuple(check_lines("classes", self.classes)))  # as files hold them
        if not self.classes:
            raise argument_error("classes", "one name at least", self.classes)
        if self.digest is not None:
            object.__setattr__(self, "digest", check_digest(self.digest))

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them, without the path, which is another on another machine."""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name != "path"}
        return json.loads(json.dumps(fields))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Card:
        """Returns the card of `get_config`; that of weights which came with this package knows their path again."""
        from keras_preact.weights import schema

        seen = fields_of_before(config["preprocessing"])
        card = schema.checked(cls, {**config, "preprocessing": seen, "path": None})  # newer cards may have more
        ours = _cards().get(card.name)
        return dataclasses.replace(card, path=ours.path) if ours and ours.digest == card.digest else card

    def remote(self, digest: str | None = None) -> Remote:
        """Returns the `Remote` of the file; a `ValueError` tells how to go on if neither card nor caller has a hash."""
        if self.url is None:
            hint = "Pass the folder of the run, or its model.keras."
            received = self.path or f"{self.name}, without an address"
            raise argument_error("weights", "those of a file that exists", received, hint)
        digest = digest or self.digest
        if digest is None:
            hint = (
                f"Its author published none. Read it at {self.url}, or download that file and run sha256sum; then "
                f'keras_preact.fetch_weights("{self.name}", digest="sha256:...") keeps the weights for good.'
            )
            raise argument_error("digest", f'the hash of {self.name}, "sha256:..."', None, hint)
        return Remote(self.url, digest, int(1.2e6 * self.megabytes + 1e6), self.member, self.file)


def read_card(path: PathLike, argument: str = "folder") -> Card:
    """Returns the `Card` in a folder that `keep_weights` wrote; a `ValueError` about `argument` if it holds none."""
    from keras_preact.weights import schema

    path = pathlib.Path(path)
    try:
        fields = schema.read_fields(path / CARD)
        card = schema.checked(Card, {**_with_defaults(fields), "path": str(path / WEIGHTS)})
        spec = schema.checked(NetworkSpec, fields.get("spec"), within="spec")
        if (path / WEIGHTS).is_file():
            check_parameters(spec, card.preprocessing.channels, len(card.classes), (path / WEIGHTS).stat().st_size)
        return card
    except (OSError, ValueError) as error:
        expected = f"a folder with a {CARD} of trained weights in it"
        raise argument_error(argument, expected, str(path), str(error)) from error


def kept_card(path: PathLike, argument: str = "folder") -> Card | None:
    """Returns the `Card` in a folder that `keep_weights` wrote, None if `path` is anything else."""
    return read_card(path, argument) if (pathlib.Path(path) / WEIGHTS).is_file() else None


def check_file(card: Card) -> None:
    """Raises a `ValueError` if the file of a card is gone, or has another hash than the card says."""
    if card.path is None:
        return
    if not os.path.isfile(card.path):
        raise argument_error("weights", f"a name whose file is there, as {card.name}'s was", card.path)
    if card.digest is not None and (found := file_digest(card.path, card.digest)) != card.digest:
        raise argument_error("file", f"one whose hash is {card.digest}, as its card says", found, f"Of {card.path}.")


def _with_defaults(fields):
    """Returns the fields of a card with those that its name implies."""
    name = fields.get("name")
    if not isinstance(name, str) or check_name("name", name).count(".") != 2:
        raise argument_error("name", "<network>.<data set>.<recipe>", name)
    network, dataset, _ = name.split(".")
    fields = {"network": network, "dataset": dataset, **fields}
    return fields if "classes" in fields else {**fields, "classes": _class_names(dataset)}


@functools.cache
def _class_names(dataset):
    # ImageNet's are the lemmas of its WordNet synsets, in the order of their offsets, as every author here has them.
    return tuple((FOLDER / "classes" / f"{dataset}.txt").read_text(encoding="utf-8").splitlines())


@functools.cache
def _cards():
    """Returns all cards by name: ours first."""
    cards = [read_card(path.parent) for path in sorted(TRAINED.glob(f"*/{CARD}"))]
    table = tomllib.loads((FOLDER / "cards.toml").read_text(encoding="utf-8"))
    for row in table["card"]:
        row = {**table["shared"][row["shared"]], **row}
        row["preprocessing"] = Preprocessing(**table["preprocessing"][row["preprocessing"]])
        cards.append(Card(**_with_defaults({name: value for name, value in row.items() if name != "shared"})))
    return {card.name: card for card in cards}


def register_weights(
    name: str,
    *,
    spec: NetworkSpec,
    preprocessing: Preprocessing,
    classes: Iterable[str],
    error_percent: float,
    path: PathLike | None = None,
    url: str | None = None,
    digest: str | None = None,
    converter: str | None = None,
    author: str = "",
    licence: str = "",
    recipe: str = "",
    published: str = "",
    megabytes: float | None = None,
) -> Card:
    """Adds trained weights to `list_weights()`, so that `weights=`, `evaluate` and the others take their name.

    Args:
        name: `<network>.<data set>.<recipe>`; the network is `resnet<depth>`.
        spec: The `NetworkSpec`.
        preprocessing: A `Preprocessing`.
        classes: A name for every output.
        error_percent: The test error, in %.
        path: The file, if it is here.
        url: Where it lies, if not; `digest` must be given then, and `megabytes`.
        digest: Its hash, `sha256:...`, `sha1:...` or `md5:...`; that of the file at `path` if None.
        converter: A name of `register_converter` or of `converters.CONVERTERS`; None for a `.weights.h5` file of ours.
        author, licence, recipe, published, megabytes: As in `Card`.

    Returns:
        The `Card`.

    Raises:
        ValueError: If an argument is not allowed, the file is not there, or other weights have the name.
    """
    if (path is None) == (url is None):
        raise argument_error("path, url", "one of the two", (path, url))
    if url is not None and (digest is None or megabytes is None):
        raise argument_error("digest, megabytes", "given with url", (digest, megabytes))
    _check_kinds(spec, preprocessing, classes)
    network = str(name).partition(".")[0]
    if network != f"resnet{spec.depth}":
        raise argument_error("name", f"resnet{spec.depth}.<data set>.<recipe>, as the spec is so deep", name)
    if converter is not None:
        from keras_preact.weights.converters import CONVERTERS

        check_choice("converter", converter, CONVERTERS)
    elif not str(path or url).endswith(".weights.h5"):
        raise argument_error("path, url", "a .weights.h5 file, without a converter", str(path or url))
    if path is not None:
        path = pathlib.Path(path).resolve()
        if not path.is_file():
            raise argument_error("path", "an existing file", str(path))
        digest, megabytes = digest or file_digest(path), path.stat().st_size / 1e6
    fields = dict(author=author, licence=licence, recipe=recipe, published=published, error_percent=error_percent)
    fields |= dict(name=name, classes=tuple(classes), spec=spec.to_dict(), preprocessing=preprocessing, url=url)
    fields |= dict(path=path and str(path), digest=digest, converter=converter, megabytes=megabytes)
    card = Card(**_with_defaults(fields))
    if _cards().get(card.name, card) != card:
        raise argument_error("name", "one that no other weights have", name, "Choose another name.")
    _cards()[card.name] = card
    return card


def _check_kinds(spec, preprocessing, classes):
    for argument, value, kind in (("spec", spec, NetworkSpec), ("preprocessing", preprocessing, Preprocessing)):
        if not isinstance(value, kind):
            raise argument_error(argument, f"a {kind.__name__}", value)
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise argument_error("classes", "a sequence of names, one for every output", classes)


def list_weights(model: str | None = None, data: str | None = None) -> list[str]:
    """Returns the names of all trained weights, or of those of one network or data set.

    Args:
        model: A name as `keras_preact.list_models()` has it, in any case; all if None.
        data: `"cifar10"`, `"cifar100"`, `"imagenet"` or `"digits"`; all if None.

    Raises:
        ValueError: If there are no weights of any network for `data`.
    """
    cards = _cards().values()
    if data is not None:
        check_choice("data", data, sorted({card.dataset for card in cards}))
    if model is not None:
        cards = [card for card in cards if card.network == str(model).lower()]
    return [card.name for card in cards if data in (None, card.dataset)]


def get_card(name: str) -> Card:
    """Returns the `Card` called `name`, one of `list_weights()`; a `ValueError` names the nearest if there is none."""
    return _cards()[check_choice("name", name, _cards())]


def is_ours(card: Card) -> bool:
    """Returns whether a card's weights came with this package."""
    return card.path is not None and pathlib.Path(card.path).is_relative_to(TRAINED)


def find_weights(weights: PathLike | Card | None, network: str) -> Card | pathlib.Path | None:
    """Returns what `weights=` of a builder stands for: None, a `Card`, or the `Path` of a file.

    Args:
        weights: None, the name of a card, a data set (ours, which came with this package, before others that are here,
            and those before what can be downloaded; of each, the one of the lowest error), or a path: of a
            `.weights.h5` file, of a `.keras` file, of the folder of a run, whose `model.keras` it is, or of kept
            weights, whose card it is.
        network: The network to build; a card of another is refused.

    Raises:
        ValueError: If there are no such weights; what there is for the network is listed.
    """
    if weights is None or isinstance(weights, Card):
        return weights
    ours = list_weights(network)
    if isinstance(weights, str) and weights in list_weights():
        if weights not in ours:
            raise argument_error("weights", f"those of {network}: {_listed(ours)}", weights)
        return get_card(weights)
    fitting = [get_card(name) for name in ours]
    fitting = [card for card in fitting if card.dataset == weights and (card.path or card.digest)]
    if fitting:
        return min(fitting, key=lambda card: (not is_ours(card), card.path is None, card.error_percent))
    if isinstance(weights, (str, pathlib.Path)) and os.path.exists(weights):
        return _at_path(pathlib.Path(weights), network)
    known = [*sorted({get_card(name).dataset for name in ours}), *ours]
    hint = f'Nearest: "{nearest(weights, known)}".' if known else ""
    if str(weights).endswith((".weights.h5", ".keras")):
        hint = "There is no such file."
    expected = "None, a folder of trained weights, a .weights.h5 or .keras file, a data set or a name "
    expected += f"of {network}'s: {_listed(known)}"
    raise argument_error("weights", expected, weights if isinstance(weights, str) else repr(weights), hint)


def _at_path(path, network):
    """Returns the `Card` of a folder of kept weights, or the `Path` of the file that a path stands for."""
    if (card := kept_card(path, "weights")) is not None:
        if card.network != network:
            raise argument_error("weights", f"those of {network}", str(path), f"They are of {card.network}.")
        return card
    file = path / MODEL if path.is_dir() else path
    if not file.is_file() or not file.name.endswith((".weights.h5", ".keras")):
        expected = "a .weights.h5 or .keras file, or the folder of a finished run or of kept weights"
        raise argument_error("weights", expected, str(path))
    return file


def card_spec(card: Card) -> NetworkSpec:
    """Returns the `NetworkSpec` of a card's network."""
    if card.spec is not None:
        return NetworkSpec.from_dict(card.spec)
    return network_spec(card.network, **IMPLEMENTATIONS[check_choice("graph", card.graph, IMPLEMENTATIONS)])


def _listed(names):
    return ", ".join(names) or "there are none"
