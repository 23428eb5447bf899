"""The run folder: what it is a run of, its checkpoints, and at the end a model and its card."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_preact.data import ALIASES
from keras_preact.data.dataset import DataSet
from keras_preact.data.identity import digest
from keras_preact.errors import argument_error
from keras_preact.files import file_digest, is_aside, remove_asides, write_text
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.training import checkpoints
from keras_preact.training.recipe import Recipe
from keras_preact.types import PathLike
from keras_preact.version import __version__
from keras_preact.weights import schema
from keras_preact.weights.pretrained import read_model

CARD = "card.json"
EXPERIMENT = "experiment.json"
MODEL = "model.keras"
SAVED_MODEL = "saved_model"
CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"
WRITTEN = (SAVED_MODEL, "export", "samples", "tensorboard", MODEL, HISTORY, "card.md", "curves.png")  # beside the above
# What an option of the network is if it is left out, as the command line writes it.
USUAL = {"ordering": "preactivation", "shortcut": "identity", "layout": "stacked", "unroll": "auto", "remat": False}


class AnotherRunError(ValueError):
    """Says that a folder holds another run, or none, and in what they differ."""


def check_folder(path: PathLike, experiment: Mapping[str, Any], overwrite: bool = False) -> pathlib.Path:
    """Returns the path of a run's folder to be, whether it is new or holds the same run, which resumes.

    Args:
        path: The folder.
        experiment: What is to run, as JSON holds it.
        overwrite: Whether the folder of another run may be overwritten.

    Raises:
        AnotherRunError: A `ValueError`, if it holds another run, whose differences are named, and `overwrite` is False,
            or no run at all.
    """
    path = pathlib.Path(path)
    if not path.exists() or (path.is_dir() and all(map(is_aside, path.iterdir()))):
        return path
    if not (path / EXPERIMENT).is_file():  # exports have cards, too, and others' trainings a history
        raise _another_run(path, "a new or empty folder, or a run's folder")
    if overwrite:
        return path
    before = _experiment(path)
    if before is None:
        raise _another_run(path, "a new or empty folder", "Pass --overwrite (overwrite=True).")
    differ = list(differences(*comparable(before, json.loads(json.dumps(experiment)))))
    if differ:
        hint = f"It holds another run: {'; '.join(differ)}. Pass --overwrite (overwrite=True), or another folder."
        raise _another_run(path, "a new folder, or one of the same run, which goes on", hint)
    return path


def _another_run(path, expected, hint=""):
    return AnotherRunError(str(argument_error("output", expected, str(path), hint)))


def finished_card(path: pathlib.Path, overwrite: bool) -> dict[str, Any] | None:
    """Returns the card of a finished run that `check_folder` let pass and is not to be overwritten, else None."""
    return None if overwrite or not (path / CARD).is_file() else read_card(path, argument="output")


def remove_checkpoints(path: pathlib.Path) -> None:
    """Removes the checkpoints of a run's folder."""
    with contextlib.suppress(FileNotFoundError):  # what cannot be removed would be resumed
        shutil.rmtree(path / CHECKPOINTS)
    (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)


def make_folder(path: pathlib.Path, experiment: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the folder of a run, with those above it; another or a finished run in it is removed."""
    path.mkdir(parents=True, exist_ok=True)
    remove_asides(path, is_ours=True)
    remove_another(path, experiment, overwrite)
    write_text(path / EXPERIMENT, json.dumps(experiment, indent=2) + "\n")
    (path / CHECKPOINTS).mkdir(exist_ok=True)
    checkpoints.clean(path / CHECKPOINTS)


def remove_another(path: pathlib.Path, experiment: Mapping[str, Any], overwrite: bool) -> None:
    """Removes another or a finished run from the folder of a run, if it is to be overwritten."""
    before, now = comparable(_experiment(path) or {}, json.loads(json.dumps(experiment)))
    if overwrite and ((path / CARD).is_file() or before != now):
        (path / CARD).unlink(missing_ok=True)  # the card is written last: a folder with one holds a finished run
        remove_checkpoints(path)
        for name in WRITTEN:
            _remove(path / name)


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _experiment(path):
    try:
        return schema.read_fields(path / EXPERIMENT)
    except (OSError, ValueError):
        return None


def identity(data: DataSet) -> dict[str, Any]:
    """Returns what changes a run's result without being asked for: images, classes, backend, this package's version.

    Devices and other versions change it by rounding alone, and are on the card, process by process.
    """
    major = int(__version__.partition(".")[0])
    return {
        "data_digest": digest(data),
        "classes": list(data.class_names),
        "mean": [round(float(value), 3) for value in data.mean],
        "std": [round(float(value), 3) for value in data.std],
        "backend": keras.backend.backend(),
        "keras_preact_major": major,
    }


def _of_today(name, value):
    """Returns a field of an experiment as it is compared: a data set's name of today, options but the usual ones.

    Where a recipe is from is left out: its other fields decide the result.
    """
    if name == "data" and isinstance(value, str):
        return ALIASES.get(value, value)
    if name == "options" and isinstance(value, Mapping):
        value = {**value, "shortcut": _shortcut(value.get("shortcut", USUAL["shortcut"]))}
        usual = {**USUAL, "shortcut": _shortcut(USUAL["shortcut"])}
        return {option: chosen for option, chosen in value.items() if (option, chosen) not in usual.items()}
    if name == "recipe" and isinstance(value, Mapping):
        usual = json.loads(json.dumps(dataclasses.asdict(Recipe())))  # what an older one has no field for
        return {field: chosen for field, chosen in {**usual, **value}.items() if field != "source"}
    return value


def _shortcut(value):
    """Returns a shortcut, which has three spellings, as the dict of its name and parameters."""
    try:
        return ShortcutSpec.of(value).to_dict()
    except ValueError:  # a name of one's own, which is not registered now
        return value


def comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns two experiments, of `identity` what both have, and without usual options."""
    before, now = ({name: _of_today(name, value) for name, value in each.items()} for each in (before, now))
    sides = [each.pop("identity", None) or {} for each in (before, now)]
    both = sides[0].keys() & sides[1].keys()  # an older version knew less
    for each, identity in zip((before, now), sides):
        each["identity"] = {name: value for name, value in identity.items() if name in both}
    return before, now


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields a sentence for each field in which two dicts of plain data differ."""
    for name in sorted({*before, *now}):
        there, here = before.get(name), now.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from differences(there, here, f"{prefix}{name}.")
        elif there != here:
            yield f"{prefix}{name} is {_short(there)} there and {_short(here)} here"


def _short(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def plain_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns keywords of a network's function as JSON holds them, a `ShortcutSpec` or another spec as its fields.

    Raises:
        ValueError: If JSON cannot hold one of them.
    """
    plain = {name: _plain(value) for name, value in (options or {}).items()}
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise argument_error("model_options", "values that JSON can hold, and specs", options, str(error)) from error
    return plain


def _plain(value):
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def read_card(path: PathLike, name: str = CARD, argument: str = "run") -> dict[str, Any]:
    """Returns the card of a finished run as a dict.

    Args:
        path: The folder.
        name: The card's file.
        argument: The name of the argument that the folder was given for.

    Raises:
        ValueError: If `path` holds none, or a field that `schema.RunCard` names is missing or wrong.
    """
    card = pathlib.Path(path) / name
    if not card.is_file():
        raise argument_error(argument, f"the folder of a finished run, with a {name} in it", str(path))
    try:
        fields = schema.read_fields(card)
        if "spec" not in fields:
            schema.checked(schema.RunCard, fields)
            return fields
    except (OSError, ValueError) as error:
        raise argument_error(argument, f"a folder whose {name} is whole", str(path), str(error)) from error
    # A card of trained weights, as `keep_weights` writes them.
    hint = "It holds trained weights: pass its .weights.h5 file as weights= to build their network."
    raise argument_error(argument, "the folder of a finished run", str(path), hint)


def load_model(path: PathLike) -> ResidualNetwork:
    """Returns the trained `keras.Model` of a run folder; a `ValueError` says if it is not the one of its card."""
    check_seal(path, read_card(path))
    return read_model(pathlib.Path(path) / MODEL, "run")


def check_seal(path: PathLike, card: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if the `model.keras` in a run folder has another hash than its card says; old ones do not.

    A file that is missing is left to `read_model`, whose message says so.
    """
    file, sealed = pathlib.Path(path) / MODEL, card.get("digest")
    if sealed is not None and file.is_file() and (found := file_digest(file, sealed)) != sealed.lower():
        hint = f"Its {MODEL} has {found}: it is another, or damaged."
        raise argument_error("run", f"a folder whose {MODEL} has the hash on its card, {sealed}", str(path), hint)


def write_card(path: PathLike, card: Mapping[str, Any]) -> None:
    """Writes `card.json`, and `card.md` for people."""
    folder = pathlib.Path(path)
    text = _readable(card).encode("utf-8", "backslashreplace").decode("utf-8")  # a path may be no UTF-8
    write_text(folder / "card.md", text)
    write_text(folder / CARD, json.dumps(card, indent=2) + "\n")


def _readable(card):
    rows = []
    for name, value in card.items():
        if isinstance(value, dict):
            rows.append(f"\n## {name}\n")
            rows += [f"- {key}: {entry}" for key, entry in value.items()]
        else:
            rows.append(f"- {name}: {value}")
    return f"# {card['model']} on {card['data']}\n\n" + "\n".join(rows) + "\n"
