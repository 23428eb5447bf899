"""`card.json` read with suspicion: what one must hold is a dataclass, and whatever is wrong with it is one sentence.

pydantic holds the JSON to the types of the dataclass, and each class itself to its own rules. Nothing else imports it,
and `import keras_preact` does not import this file: cards are read by functions that do.
"""

import functools
import json
import pathlib
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pydantic

from keras_preact import bounds
from keras_preact.errors import argument_error, check_number
from keras_preact.names import check_lines, check_name
from keras_preact.network.spec import NetworkSpec
from keras_preact.weights.preprocessing import Preprocessing, fields_of_before
from keras_preact.weights.store import check_digest

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class RunRecipe:
    """Describes what a run's card must say of its recipe; it says more."""

    name: str
    source: str
    seed: int
    image_size: int = 0

    def __post_init__(self) -> None:
        check_name("name", self.name)


@dataclass(frozen=True)
class RunNetwork:
    """Describes what a run's card must say of its network: part of the configuration in `model.keras`."""

    name: str
    spec: NetworkSpec
    input_shape: tuple[int | None, int | None, int]
    layout: str
    num_classes: int | None = None


@dataclass(frozen=True)
class Training:
    """Describes one of the trainings that a run began with, as its card tells of them."""

    weights: str
    digest: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu_seconds"):
            check_number(name, getattr(self, name), low=0.0)


@dataclass(frozen=True)
class RunCard:
    """Describes what the card of a run must hold; it holds more. `digest` seals `model.keras`; old cards have none."""

    model: str
    data: str
    recipe: RunRecipe
    error_percent: float
    network: RunNetwork
    classes: tuple[str | int, ...]
    preprocessing: Preprocessing
    data_dir: str | None = None
    skip_corrupt: bool = False
    digest: str | None = None
    command: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    chain: tuple[Training, ...] = ()
    images_per_second: float | None = None
    data_wait_percent: float | None = None

    def __post_init__(self) -> None:
        check_name("model", self.model)
        check_number("error_percent", self.error_percent, 0.0, 100.0)
        check_lines("classes", self.classes)
        *sides, channels = self.network.input_shape
        if self.network.num_classes not in (None, len(self.classes)):
            raise argument_error("classes", f"{self.network.num_classes}, as the network has", len(self.classes))
        if self.preprocessing.channels != channels:
            raise argument_error("preprocessing.mean", f"{channels} numbers", self.preprocessing.mean)
        if any(side not in (None, own) for side, own in zip(sides, self.preprocessing.size)):
            raise argument_error("preprocessing.size", f"{tuple(sides)}, as the network reads", self.preprocessing.size)
        if self.digest is not None:
            check_digest(self.digest)


def read_fields(path: pathlib.Path) -> dict[str, Any]:
    """Returns the fields of a `card.json`; a `ValueError` or an `OSError` says why there are none."""
    size = path.stat().st_size
    if size > bounds.CARD_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes, above {bounds.CARD_BYTES:,}.")
    try:
        fields = json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path.name} has lists within lists without end.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path.name} holds no fields by name.")
    if isinstance(seen := fields.get("preprocessing"), dict):
        fields["preprocessing"] = fields_of_before(seen)
    return fields


def checked(card_class: type[Kind], fields: object, within: str = "") -> Kind:
    """Returns fields of JSON as an object of `card_class`; a `ValueError` names the first that is missing or wrong.

    Args:
        card_class: A dataclass. Fields that it does not have are passed over.
        fields: A dict as `json.loads` returns it.
        within: What stands before the fields' names.
    """
    try:
        text = json.dumps(fields, ensure_ascii=False).encode(errors="replace")  # paths may have bytes that are no text
        adapter: pydantic.TypeAdapter[Kind] = _adapter(cast("Any", card_class))
        return adapter.validate_json(text, strict=True)
    except RecursionError as error:
        raise ValueError("It has lists within lists without end.") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([*filter(None, [within]), *map(str, first["loc"])])
        found = "" if first["type"] in ("missing", "value_error") else f", not {repr(first['input'])[:100]}"
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {what}{found}" if where else what) from error


@functools.cache
def _adapter(card_class):
    return pydantic.TypeAdapter(card_class)
