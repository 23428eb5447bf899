"""A finished run as a folder of trained weights, `<model>.<data set>.<recipe>`, and its error measured again."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np

from keras_preact.data import DATA_SETS, load
from keras_preact.errors import argument_error
from keras_preact.files import file_digest, write_text, written_aside
from keras_preact.names import command_line, dotted_name
from keras_preact.training import evaluation, run_folder
from keras_preact.weights.cards import (
    CARD,
    TRAINED,
    WEIGHTS,
    card_spec,
    check_file,
    get_card,
    list_weights,
    read_card,
)
from keras_preact.weights.preprocessing import preprocess_input
from keras_preact.zoo import build_network

RUN = "run.json"  # the card of the run, as the trainer wrote it
BATCH = 256


def keep(folder, output=TRAINED, data_dir=None):
    """Writes what is worth keeping of a finished run: the weights without the optimizer's state, card, history.

    The card states the error in float32, in which weights are used: that of a run in another precision is measured
    again, on the run's data set.

    Args:
        folder: The folder of a finished run.
        output: The folder in which to make `<model>.<data set>.<recipe>`; one of that name is replaced.
        data_dir: Where the data set's files are, if not where the run found them.

    Returns:
        The path of the new folder.

    Raises:
        ValueError: If `folder` holds no finished run, or `output` something else of that name.
    """
    folder, card = pathlib.Path(folder), run_folder.read_card(folder)
    network = run_folder.load_model(folder)
    # Of a folder of images the data set's name is the folder's.
    name = dotted_name(card["model"], pathlib.PurePath(card["data"]).name, card["recipe"]["name"])
    path = pathlib.Path(output) / name
    if path.exists() and not (path / WEIGHTS).is_file():
        raise argument_error("output", f"a folder in which {name} is new, or trained weights", str(output))
    with written_aside(path) as aside:
        aside.mkdir()
        network.save_weights(aside / WEIGHTS)
        _write_card(aside, name, card, card["error_percent"])
        if _precision(card) != "float32":
            data = _data_of(card, data_dir)
            _write_card(aside, name, card, _error_percent(read_card(aside), data.test))
        command = command_line(card.get("command", "").split(" "))  # older cards say where the program lay
        write_text(aside / RUN, json.dumps({**card, "command": command}, indent=2) + "\n")
        shutil.copyfile(folder / run_folder.HISTORY, aside / run_folder.HISTORY)
    return path


def _write_card(folder, name, run, error_percent):
    """Writes the `Card` of a run's weights, which lie in `folder`.

    Args:
        folder: A path.
        name: The weights'.
        run: The run's card.
        error_percent: In float32.
    """
    recipe, precision = run["recipe"], _precision(run)
    how = "" if precision == "float32" else f" in float32 ({run['error_percent']} % in {precision}, as trained)"
    fields = {
        "name": name,
        "author": "keras_preact",
        "licence": "Apache-2.0",
        "recipe": f"{recipe['source']}; seed {recipe['seed']}",
        "error_percent": error_percent,
        "published": f"test error {error_percent} %{how} after the last epoch, one run",
        "preprocessing": run["preprocessing"],
        "classes": list(map(str, run["classes"])),
        "megabytes": round((folder / WEIGHTS).stat().st_size / 1e6, 1),
        "spec": run["network"]["spec"],
        "digest": file_digest(folder / WEIGHTS),
    }
    write_text(folder / CARD, json.dumps(fields, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Verified:
    """Holds what `verify` found.

    Attributes:
        name: Of the run or the card.
        published_percent: The error that run or card states, in %.
        error_percent: The error measured now, in %.
        agrees: Whether they differ by one image at most.
    """

    name: str
    published_percent: float
    error_percent: float
    agrees: bool


def verify(what, data_dir=None):
    """Measures the error of trained weights again, and compares it to what their card states.

    Args:
        what: The folder of a finished run, a folder that `keep` wrote, or a name of `list_weights()`.
        data_dir: The folder in which to look for the data set; of weights trained on a folder of images, that folder.

    Returns:
        A `Verified`.

    Raises:
        ValueError: If there is no such folder or name, the file is not the card's, or the data set is not at hand.
    """
    path = pathlib.Path(what)
    if (path / run_folder.MODEL).is_file():
        stated = run_folder.read_card(path)
        run_folder.check_seal(path, stated)
        data = _data_of(stated, data_dir)
        measured = evaluation.evaluate(path, data)["error_percent"]
        return _verified(path.name, stated["error_percent"], measured, len(data.test))
    card = read_card(path) if path.is_dir() else get_card(str(what))
    check_file(card)
    if card.dataset in DATA_SETS or data_dir is None:
        data = load(card.dataset, data_dir=data_dir)
    else:
        data = load(data_dir, image_size=card.preprocessing.size)
    return _verified(card.name, card.error_percent, _error_percent(card, data.test), len(data.test))


def _precision(run):
    return run["recipe"].get("precision", "float32")  # runs of before have none


def _data_of(run, data_dir):
    """Returns the data set of a run, by its card."""
    return evaluation.loaded(run["data"], data_dir or run.get("data_dir"), run["recipe"].get("image_size"))


def _verified(name, published, measured, images):
    agrees = abs(published - measured) <= 100 / images + 1e-3
    return Verified(name, published, round(measured, 4), agrees)


def _error_percent(card, split):
    """Returns the error of a card's network on the images of a split, in %."""
    model = build_network(card_spec(card), weights=card)
    wrong = 0
    for start in range(0, len(split), BATCH):
        indices = np.arange(start, min(start + BATCH, len(split)))
        probabilities = model.predict(preprocess_input(split.read(indices), card), verbose=0)
        wrong += int(np.sum(np.argmax(probabilities, axis=1) != split.labels[indices]))
    return 100 * wrong / len(split)


def own_weights():
    """Returns the names of the weights that came with this package."""
    return [name for name in list_weights() if get_card(name).path is not None]
