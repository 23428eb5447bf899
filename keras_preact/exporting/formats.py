"""`export`: a model in every format asked for, checked, in one folder that appears whole or not at all."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import time

import keras
import numpy as np

from keras_preact.data import DATA_SETS, load
from keras_preact.data.files import spread
from keras_preact.errors import argument_error, check_choice
from keras_preact.exporting import onnx_graph, parity
from keras_preact.exporting.format_table import FORMATS
from keras_preact.exporting.inference import checked
from keras_preact.exporting.litert import write_litert
from keras_preact.exporting.preprocessing import Preprocessing
from keras_preact.exporting.savedmodel import check_class_names, write_savedmodel
from keras_preact.files import is_aside, written_aside
from keras_preact.locks import held
from keras_preact.version import __version__

REPORT = "parity.json"
TEST_IMAGES, CALIBRATION_IMAGES = 1000, 200


def export(
    model,
    path,
    formats=("savedmodel", "onnx", "litert"),
    *,
    preprocessing=None,
    class_names=None,
    sample_images=None,
    sample_labels=None,
    calibration_images=None,
    card=None,
    overwrite=False,
    verbose=True,
):
    """Writes a model in formats that need no Keras, runs each file in a fresh process, and compares it with the model.

    All take any number of uint8 images, and return `probabilities`, `logits` and `features` (the averaged last
    activation). The SavedModel resizes, and takes image files too; ONNX and LiteRT take images of the model's size.

    Args:
        model: A network with a classifier, of either layout and any dtype. ONNX and LiteRT are float32 files.
        path: The folder to write: `saved_model/`, `model.onnx`, `model.tflite`, `model.int8.tflite`,
            `class_names.txt`, `card.json`, and `parity.json`, the report.
        formats: Some of `FORMATS`.
        preprocessing: A `Preprocessing`. If None, `model.card` says it, as it does `class_names` and `card`.
        class_names: A name for each output.
        sample_images: Real images, uint8 (images, height, width, channels), that the comparison is made on. If None,
            test images of the data set that `model.card` names, with their labels; its training images calibrate int8.
        sample_labels: Their classes, whole numbers (images,), or None: the report then has no errors.
        calibration_images: For `"litert_int8"`: as `sample_images`, but others, whose signals give int8 its ranges;
            a hundred or more.
        card: A dict that JSON can hold and that says what the model is, or None.
        overwrite: Whether the folder of an earlier export may be replaced.
        verbose: Whether to print the report.

    Returns:
        The report as a dict. It has, for each format, what `parity.compare` returns and the seconds of writing.

    Raises:
        ValueError: If an argument is not allowed; nothing is written then.
        ImportError: If a format's packages are missing; the extra that has them is named.
        ParityError: If a file does not agree with the model; nothing of the export is kept then.
    """
    formats = _check_formats(formats)
    known = _known_of_card(checked(model))
    preprocessing, card = preprocessing or known.get("preprocessing"), card or known.get("card")
    names = check_class_names(model, known.get("class_names") if class_names is None else class_names)
    if "onnx" in formats:
        onnx_graph.check_activation(model)
    _check_preprocessing(model, preprocessing)
    if sample_images is None and known:
        known |= _images_of_card(model.card)
        sample_images, sample_labels = known["sample_images"], known["sample_labels"]
        calibration_images = known["calibration_images"] if calibration_images is None else calibration_images
    images, labels = _check_images("sample_images", sample_images, preprocessing), None
    if sample_labels is not None:
        labels = _check_labels(sample_labels, images, names)
    if "litert_int8" in formats:
        calibration_images = _check_images("calibration_images", calibration_images, preprocessing)
        calibration_images = preprocessing.fitted(calibration_images)
    path = check_folder(path, overwrite)
    writers = {
        "savedmodel": lambda file: write_savedmodel(model, file, preprocessing, names, card),
        "onnx": lambda file: onnx_graph.write_onnx(model, file, preprocessing, names, card),
        "litert": lambda file: write_litert(model, file, preprocessing),
        "litert_int8": lambda file: write_litert(model, file, preprocessing, calibration_images),
    }
    with held(path, "path"), written_aside(path) as aside:
        aside.mkdir()
        files, seconds = {name: aside / FORMATS[name].file for name in formats}, {}
        for name, file in files.items():
            start = time.perf_counter()
            writers[name](file)
            seconds[name] = round(time.perf_counter() - start, 2)
        (aside / "class_names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if card is not None:
            (aside / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        found = parity.compare(model, files, preprocessing, images, labels)
        report = _report(model, {name: {"write_s": seconds[name], **found[name]} for name in formats})
        (aside / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if verbose:
        print("\n".join([f"{path}/", *parity.table(found)]))
    return report


def _known_of_card(model):
    """Returns the arguments of `export` that a network's card says, if it has one, of the same classes and channels."""
    card, shape = model.card, model.input_shape[1:]
    if card is None or (card.preprocessing.channels, len(card.classes)) != (shape[-1], model.output_shape[-1]):
        return {}
    seen = card.preprocessing
    shape = tuple(ours or theirs for ours, theirs in zip(shape, seen.input_shape))
    return {
        "preprocessing": Preprocessing.of(seen, shape),
        "class_names": card.classes,
        "card": {name: value for name, value in dataclasses.asdict(card).items() if name != "path"},
    }


def _images_of_card(card):
    if card.dataset not in DATA_SETS:
        raise argument_error("sample_images", f"given with weights for {card.dataset}", None)
    return images_of(load(card.dataset))


def images_of(data):
    """Returns the arguments of `export` that a `DataSet` has: test images, their labels, and some training images."""
    tested = spread(len(data.test), TEST_IMAGES)
    return {
        "sample_images": data.test.read(tested),
        "sample_labels": data.test.labels[tested],
        "calibration_images": data.train.read(spread(len(data.train), CALIBRATION_IMAGES)),
    }


def check_folder(path, overwrite):
    """Returns the path to export to; raises a `ValueError` if what is there may not be replaced."""
    path = pathlib.Path(path)
    if path.exists() and not path.is_dir():
        raise argument_error("path", "a folder, new or of an earlier export", str(path), "There is a file.")
    if path.exists() and not all(map(is_aside, path.iterdir())):
        if not (path / REPORT).is_file():
            raise argument_error("path", "a new folder, or one that holds an earlier export", str(path))
        if not overwrite:
            raise argument_error("path", "a new or empty folder", str(path), "Pass --overwrite (overwrite=True).")
    return path


def _check_formats(formats):
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    names = tuple(dict.fromkeys(check_choice("formats", name, FORMATS) for name in names))
    if not names:
        raise argument_error("formats", f"one at least of {', '.join(FORMATS)}", formats)
    backend = keras.backend.backend()
    for name in names:
        if FORMATS[name].only_tensorflow and backend != "tensorflow":
            free = ", ".join(f'"{other}"' for other, about in FORMATS.items() if not about.only_tensorflow)
            hint = "Save the model as .keras and export it under KERAS_BACKEND=tensorflow."
            raise argument_error("formats", f"of {free} on the {backend} backend", name, hint)
        for package in FORMATS[name].needs:
            if importlib.util.find_spec(package) is None:
                what = f"keras_preact[{FORMATS[name].extra}]" if FORMATS[name].extra else package
                raise ImportError(f'The format "{name}" needs {package}. Install it: pip install "{what}"')
    return names


def _check_preprocessing(model, preprocessing):
    if not isinstance(preprocessing, Preprocessing):
        raise argument_error("preprocessing", "a keras_preact.exporting.Preprocessing", preprocessing)
    shape = model.input_shape[1:]
    if any(ours is not None and ours != theirs for ours, theirs in zip(shape, preprocessing.image_shape)):
        raise argument_error("preprocessing.image_shape", f"{shape}, which the model reads", preprocessing.image_shape)


def _check_images(argument, images, preprocessing):
    expected = f"uint8 (images, height, width, {preprocessing.image_shape[-1]}), one image at least"
    if images is None:
        raise argument_error(argument, expected, images)
    images = np.asarray(images)
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] != preprocessing.image_shape[-1]
        or not images.size
    ):
        raise argument_error(argument, expected, f"{images.dtype} {images.shape}")
    return images


def _check_labels(labels, images, names):
    labels = np.asarray(labels)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise argument_error(
            "sample_labels", f"one whole number per image ({len(images)})", f"{labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise argument_error("sample_labels", f"from 0 to {len(names) - 1}", f"{labels.min()} to {labels.max()}")
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
