"""A network in every format asked for, checked, in one folder that appears whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_preact.errors import argument_error, check_choice
from keras_preact.exporting import onnx_graph, parity
from keras_preact.exporting.format_table import DEFAULT, FORMATS, FormatName
from keras_preact.exporting.inference import checked
from keras_preact.exporting.litert import write_litert
from keras_preact.exporting.preprocessing import fitted
from keras_preact.exporting.savedmodel import check_class_names, write_savedmodel
from keras_preact.files import check_local, check_writable, is_aside, written_aside
from keras_preact.locks import held
from keras_preact.network.model import ResidualNetwork
from keras_preact.types import PathLike
from keras_preact.version import __version__
from keras_preact.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy.typing as npt

log = logging.getLogger(__name__)

REPORT = "parity.json"


@dataclass(frozen=True)
class _Task:
    """Holds what is written, once all of it is checked."""

    network: keras.Model
    formats: tuple[str, ...]
    preprocessing: Preprocessing
    names: list[str]
    images: np.ndarray
    labels: np.ndarray | None
    calibration_images: np.ndarray | None
    card: Mapping[str, Any] | None


def export_network(
    network: ResidualNetwork,
    output: PathLike,
    formats: str | Iterable[str] | None = DEFAULT,
    *,
    preprocessing: Preprocessing,
    class_names: Sequence[object],
    sample_images: npt.ArrayLike | None,
    sample_labels: npt.ArrayLike | None = None,
    calibration_images: npt.ArrayLike | None = None,
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Writes a network as `keras_preact.export` does, from what that has found out about it.

    Args:
        network: A network with a classifier, of either layout and any dtype.
        output: The folder to write.
        formats: Some of `FORMATS`.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        sample_images: uint8 (images, height, width, channels), that the comparison is made on.
        sample_labels: Their classes, whole numbers (images,), or None: the report then has no errors.
        calibration_images: For `"litert_int8"`: as `sample_images`, but others.
        card: A dict that JSON can hold and that says what the network is, or None.
        overwrite: Whether the folder of an earlier export may be replaced.
        verbose: Whether to print the report.

    Returns, raises: As `keras_preact.export`.
    """
    formats, names = check_formats(formats), check_class_names(checked(network), class_names)
    if "onnx" in formats:
        onnx_graph.check_activation(network)
    _check_preprocessing(network, preprocessing)
    _check_card(card)
    images = _check_images("sample_images", sample_images, preprocessing)
    labels = None if sample_labels is None else _check_labels(sample_labels, images, names)
    calibration = None
    if "litert_int8" in formats:
        calibration = fitted(_check_images("calibration_images", calibration_images, preprocessing), preprocessing)
    task = _Task(network, formats, preprocessing, names, images, labels, calibration, card)
    output = check_folder(output, overwrite)
    with held(output, "output"), written_aside(output) as aside:
        check_folder(output, overwrite)  # another process may have written it
        aside.mkdir()
        report, lines = _written(task, aside)
    if verbose:
        print("\n".join([f"{output}/", *lines]))
    return report


def _check_card(card):
    """Raises a `ValueError` if a card cannot be written as JSON."""
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise argument_error("card", "a dict that JSON can hold", type(card).__name__, f"{error}.") from error


def _written(task, folder):
    """Writes the files of an export, compares them; returns the report, and the lines that show it."""
    files, seconds = {name: folder / FORMATS[name].file for name in task.formats}, {}
    for name, file in files.items():
        start = time.perf_counter()
        _write(name, task, file)
        seconds[name] = round(time.perf_counter() - start, 2)
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in task.names), encoding="utf-8")
    if task.card is not None:
        (folder / "card.json").write_text(json.dumps(task.card, indent=2) + "\n", encoding="utf-8")
    found = parity.compare(task.network, files, task.preprocessing, task.images, task.labels)
    report = _report(task.network, {name: {"write_s": seconds[name], **found[name]} for name in files})
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report, parity.table(found)


def _write(name, task, file):
    """Writes one format of `FORMATS`."""
    network, preprocessing = task.network, task.preprocessing
    if name == "savedmodel":
        write_savedmodel(network, file, preprocessing, task.names, task.card)
    elif name == "onnx":
        onnx_graph.write_onnx(network, file, preprocessing, task.names, task.card)
    else:
        write_litert(network, file, preprocessing, task.calibration_images if name == "litert_int8" else None)


def check_folder(path: PathLike, overwrite: bool) -> pathlib.Path:
    """Returns the path to export to; raises a `ValueError` if what is there may not be replaced."""
    path = check_local("output", path)
    if path.is_symlink():
        path = path.resolve()  # the folder is written where the link leads to
    if path.is_dir() and path.samefile("."):
        raise argument_error("output", "another folder than the working one, which is replaced as a whole", str(path))
    if path.exists() and not path.is_dir():
        raise argument_error("output", "a folder, new or of an earlier export", str(path), "There is a file.")
    if path.exists() and not all(map(is_aside, path.iterdir())):
        if not (path / REPORT).is_file():
            raise argument_error("output", "a new folder, or one that holds an earlier export", str(path))
        if not overwrite:
            raise argument_error("output", "a new or empty folder", str(path), "Pass --overwrite (overwrite=True).")
    check_writable("output", path.parent)
    return path


def check_formats(formats: str | Iterable[str] | None) -> tuple[FormatName, ...]:
    """Returns formats as a tuple of names, once they can be written here; those of `DEFAULT` that can be for None.

    Raises:
        ValueError, ImportError: If one cannot be written here, or all of `DEFAULT`.
    """
    if formats is None:
        problems = {name: _problem(name) for name in DEFAULT}
        formats = [name for name, problem in problems.items() if problem is None] or DEFAULT
        for name in (name for name in DEFAULT if name not in formats):
            log.warning(f"Left out {name}. {problems[name]}")
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    names = tuple(dict.fromkeys(check_choice("formats", name, FORMATS) for name in names))
    if not names:
        raise argument_error("formats", f"one at least of {', '.join(FORMATS)}", formats)
    for problem in filter(None, map(_problem, names)):
        raise problem
    return names


def _problem(name):
    """Returns the error that says why a format cannot be written here; None if it can."""
    about, backend = FORMATS[name], keras.backend.backend()
    if about.only_tensorflow and backend != "tensorflow":
        free = ", ".join(f'"{other}"' for other, row in FORMATS.items() if not row.only_tensorflow)
        hint = "Save the model as .keras and export it under KERAS_BACKEND=tensorflow."
        return argument_error("formats", f"of {free} on the {backend} backend", name, hint)
    missing = [package for package in about.needs if importlib.util.find_spec(package) is None]
    if missing:
        return ImportError(f'The format "{name}" needs {" and ".join(missing)}: pip install {" ".join(missing)}')
    return None


def _check_preprocessing(model, preprocessing):
    if not isinstance(preprocessing, Preprocessing):
        raise argument_error("preprocessing", "a keras_preact.Preprocessing", preprocessing)
    shape = model.input_shape[1:]
    if any(ours is not None and ours != theirs for ours, theirs in zip(shape, preprocessing.input_shape)):
        raise argument_error("preprocessing", f"for images of {shape}, which the model reads", preprocessing)


def _check_images(argument, images, preprocessing):
    expected = f"uint8 (images, height, width, {preprocessing.channels}), one image at least"
    if images is None:
        raise argument_error(argument, expected, images)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != preprocessing.channels or not images.size:
        raise argument_error(argument, expected, f"{images.dtype} {images.shape}")
    return images


def _check_labels(labels, images, names):
    labels = np.asarray(labels)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise argument_error(
            "sample_labels", f"one whole number per image ({len(images)})", f"{labels.dtype} {labels.shape}"
        )
    largest = max(1, len(names) - 1)  # one sigmoid output tells two classes
    if labels.min() < 0 or labels.max() > largest:
        raise argument_error("sample_labels", f"from 0 to {largest}", f"{labels.min()} to {labels.max()}")
    return labels


def _report(model, formats):
    return {
        "model": model.name,
        "dtype": model.get_config()["dtype"],
        "parameters": model.count_params(),
        "keras_preact": __version__,
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "formats": formats,
    }
