"""A finished run as a folder of trained weights, `<model>.<data set>.<recipe>`, and its error measured again."""

import dataclasses
import json
import math
import pathlib
import shutil
from typing import Literal

from keras_preact.errors import argument_error, check_choice
from keras_preact.files import check_local, check_writable, file_digest, write_text, written_aside
from keras_preact.locks import held
from keras_preact.names import command_line, dotted_name
from keras_preact.network.weights_files import halve_kernels
from keras_preact.training import evaluation, run_folder
from keras_preact.training.source import RUN, Trained, find_source
from keras_preact.types import PathLike
from keras_preact.weights.cards import CARD, TRAINED, WEIGHTS, get_card, is_ours, kept_card, list_weights


def keep_weights(
    run: PathLike,
    output: PathLike = TRAINED,
    data_dir: PathLike | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    author: str = "",
    licence: str = "",
) -> pathlib.Path:
    """Writes what is worth keeping of a finished run: the weights without the optimizer's state, card, history.

    The card states the error of the file, computed in float32. It is measured again on the run's data set, unless run
    and file are in float32.

    Args:
        run: The folder of a finished run, or one that this function wrote, to be rounded.
        output: The folder in which to make `<model>.<data set>.<recipe>`.
        data_dir: Where the data set's files are, if not where the run found them.
        dtype: How convolution kernels are stored; `"float16"` halves the file.
        overwrite: Whether trained weights of that name may be replaced.
        author: Whom the card names as the one who trained them; if empty, whom the card of kept weights does.
        licence: Of the weights, as the card states it; likewise.

    Returns:
        The path of the new folder.

    Raises:
        ValueError: If `run` holds no finished run, `output` something of that name, which is not weights that
            may be overwritten, or `dtype` is neither, or float32 for weights that are kept already.
    """
    check_choice("dtype", dtype, ("float32", "float16"))
    output = check_local("output", output)
    folder = pathlib.Path(run)
    kept = kept_card(folder, "run")
    if kept and dtype == "float32":
        raise argument_error("dtype", "float16 for weights that are kept already", dtype, "Or copy their folder.")
    card = run_folder.read_card(folder, RUN if kept else CARD)
    if not (folder / run_folder.HISTORY).is_file():
        raise argument_error("run", f"a folder with {run_folder.HISTORY} in it", str(run))
    # Of a folder of images the data set's name is the folder's.
    name = dotted_name(card["model"], pathlib.PurePath(card["data"]).name, card["recipe"]["name"])
    path = output / name
    _check_new(path, overwrite)
    network = find_source(folder).load() if kept else run_folder.load_model(folder)
    with held(path), written_aside(path) as aside:
        _check_new(path, overwrite)  # another process may have written it
        aside.mkdir()
        network.save_weights(aside / WEIGHTS)
        if dtype == "float16":
            halve_kernels(aside / WEIGHTS)
        about = {"name": name, "author": author, "licence": licence}
        if kept:
            about = {**about, "author": author or kept.author, "licence": licence or kept.licence}
        _write_card(aside, about, card, card["error_percent"], dtype)
        if (_precision(card), dtype) != ("float32", "float32"):
            data = evaluation.data_of(find_source(folder), data_dir)
            error_percent = evaluation.evaluate_source(find_source(aside), data)["error_percent"]
            _write_card(aside, about, card, error_percent, dtype)
        program, _, arguments = card.get("command", "").partition(" ")
        command = f"{command_line([program])} {arguments}".strip()  # older cards say where the program lay
        write_text(aside / RUN, json.dumps({**card, "command": command}, indent=2) + "\n")
        shutil.copyfile(folder / run_folder.HISTORY, aside / run_folder.HISTORY)
    return path


def _check_new(path, overwrite):
    """Raises a `ValueError` if a folder of kept weights may not be written at `path`."""
    output, name = str(path.parent), path.name
    if path.exists() and not (path / WEIGHTS).is_file():
        raise argument_error("output", f"a folder in which {name} is new, or trained weights", output)
    if path.exists() and not overwrite:
        hint = "Pass --overwrite (overwrite=True), or another folder."
        raise argument_error("output", f"a folder in which {name} is new", output, hint)
    check_writable("output", path.parent)


def _write_card(folder, about, run, error_percent, dtype):
    """Writes the `Card` of a run's weights, which lie in `folder`.

    Args:
        folder: A path.
        about: The card's name, author and licence.
        run: The run's card.
        error_percent: In float32.
        dtype: That of the kernels in the file.
    """
    recipe, precision = run["recipe"], _precision(run)
    how = "" if dtype == "float32" else f", kernels rounded to {dtype},"
    if (precision, dtype) != ("float32", "float32"):
        how += f" in float32 ({run['error_percent']} % in {precision}, as trained)"
    fields = {
        **about,
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
        agrees: Whether they differ by one image at most, and the loss is finite.
    """

    name: str
    published_percent: float
    error_percent: float
    agrees: bool


def verify(what: Trained, data_dir: PathLike | None = None, skip_corrupt: bool = False) -> Verified:
    """Measures the error of trained weights again, and compares it to what their card states.

    Args:
        what: A name of `list_weights()`, the folder of a run or of kept weights, a `.keras` file of a run, or a network
            with trained weights.
        data_dir: The folder in which to look for the data set; of weights trained on a folder of images, that folder.
        skip_corrupt: As in `train`; where the weights were trained so, it is so here.

    Returns:
        A `Verified`.

    Raises:
        ValueError: If `what` is none of these, its file is not the card's, or the data set is not at hand.
    """
    source = find_source(what, "what")
    if source.error_percent is None:
        hint = "A file of weights alone states none."
        raise argument_error("what", "a trained network whose card states its error", source.name, hint)
    data = evaluation.data_of(source, data_dir, skip_corrupt)
    measured = evaluation.evaluate_source(source, data)
    differs = abs(source.error_percent - measured["error_percent"]) > 100 / len(data.test) + 1e-3
    agrees = math.isfinite(measured["loss"]) and not differs
    return Verified(pathlib.PurePath(source.name).name, source.error_percent, measured["error_percent"], agrees)


def _precision(run):
    return run["recipe"].get("precision", "float32")  # runs of before have none


def own_weights() -> list[str]:
    """Returns the names of the weights that came with this package."""
    return [name for name in list_weights() if is_ours(get_card(name))]
