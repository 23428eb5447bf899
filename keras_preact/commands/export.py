"""The verb `export`: a run's model, or a .keras file, in formats that need no Keras."""

import dataclasses
import pathlib
from typing import Literal

import numpy as np
from tyro.conf import Positional

from keras_preact.errors import argument_error
from keras_preact.exporting.formats import FORMATS, check_folder
from keras_preact.exporting.formats import export as export_model
from keras_preact.exporting.preprocessing import Preprocessing
from keras_preact.training import run
from keras_preact.training.evaluation import loaded

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
TEST_IMAGES, CALIBRATION_IMAGES = 1000, 200


def export(
    model: Positional[pathlib.Path],
    /,
    *,
    output: pathlib.Path | None = None,
    formats: tuple[Literal[tuple(FORMATS)], ...] = ("savedmodel", "onnx", "litert"),
    overwrite: bool = False,
    images: pathlib.Path | None = None,
    mean: tuple[float, ...] = (),
    deviation: tuple[float, ...] = (),
    class_names: tuple[str, ...] = (),
) -> None:
    """Writes a trained model as SavedModel, ONNX and LiteRT, and compares each file with it in a fresh process.

    Args:
        model: The folder of a finished run, or a .keras file.
        output: The folder to write; <run>/export, or <file>.export, if left out.
        formats: What to write. int8 is calibrated on 200 of the run's training images; all are compared on at
            most 1000 test images.
        overwrite: Replace an earlier export.
        images: A .keras file only: a folder of image files to compare on; half of them calibrate int8.
        mean: A .keras file only: subtracted from pixels of 0 to 255, a number per channel.
        deviation: A .keras file only: what they are divided by, a number per channel.
        class_names: A .keras file only: a name for each output; numbers if left out.
    """
    path = pathlib.Path(model)
    if path.suffix == ".keras":
        target = output or path.with_suffix(".export")
        check_folder(target, overwrite)
        network, given = _of_file(path, images, mean, deviation, class_names)
    else:
        for name, value in (("images", images), ("mean", mean), ("deviation", deviation), ("class_names", class_names)):
            if value:
                raise argument_error(name, "left out for a run, whose card has it", value)
        target = output or path / "export"
        card = run.read_card(path)
        check_folder(target, overwrite)
        network, given = _of_run(path, card)
    export_model(network, target, formats, overwrite=overwrite, **given)


def _of_run(path, card):
    data = loaded(card["data"], card.get("data_dir"), card["recipe"].get("image_size"))
    tested = _evenly(len(data.test), TEST_IMAGES)
    preprocessing = card["preprocessing"]
    shape, crop = (*preprocessing["size"], data.image_shape[-1]), preprocessing.get("crop", 1.0)
    return run.load_model(path), {
        "preprocessing": Preprocessing(shape, preprocessing["mean"], preprocessing["deviation"], crop),
        "class_names": card["classes"],
        "sample_images": data.test.read(tested),
        "sample_labels": data.test.labels[tested],
        "calibration_images": data.train.read(_evenly(len(data.train), CALIBRATION_IMAGES)),
        "card": card,
    }


def _evenly(length, count):
    """Returns at most `count` positions of 0 to `length` - 1, evenly spread: folders come class by class."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))


def _of_file(path, folder, mean, deviation, class_names):
    if not path.is_file():
        raise argument_error("model", "the folder of a run, or an existing .keras file", str(path))
    if not (mean and deviation):
        hint = "A .keras file does not say how its images were normalised."
        raise argument_error("mean, deviation", "given with a .keras file", (mean, deviation), hint)
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES) if folder and folder.is_dir() else []
    if len(files) < 2:
        raise argument_error("images", "a folder of two image files at least, to compare on", folder and str(folder))
    network = run.read_model(path)
    shape = network.input_shape[1:]
    if None in shape:
        raise argument_error("model", "of a fixed input size", shape)
    preprocessing = Preprocessing(shape, mean, deviation)
    pixels = _read(files, shape)
    return network, {
        "preprocessing": preprocessing,
        "class_names": class_names or tuple(map(str, range(network.output_shape[-1]))),
        "sample_images": pixels[::2],
        "calibration_images": pixels[1::2],
        "card": {"file": path.name, "preprocessing": dataclasses.asdict(preprocessing)},
    }


def _read(files, shape):
    """Returns image files as uint8 (images, height, width, channels) of `shape`."""
    from keras_preact.training.predictor import read_image

    height, width, channels = shape
    return np.stack([read_image(file, (height, width), channels) for file in files])
