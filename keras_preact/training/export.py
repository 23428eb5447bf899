"""`export`: whatever names a trained network, in formats that need no Keras."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.data.files import spread
from keras_preact.data.folders import image_files, some
from keras_preact.errors import argument_error, check_integer
from keras_preact.exporting import onnx_graph
from keras_preact.exporting.formats import check_folder, check_formats, export_network
from keras_preact.exporting.inference import checked
from keras_preact.training.evaluation import check_classes, data_of
from keras_preact.training.predictor import read_images
from keras_preact.training.source import Trained, find_source
from keras_preact.types import PathLike
from keras_preact.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    import numpy.typing as npt

log = logging.getLogger(__name__)

TEST_IMAGES, CALIBRATION_IMAGES = 1000, 200
IMAGES = "a folder of two image files at least, to compare on"


def export(
    model: Trained,
    output: PathLike | None = None,
    formats: str | Iterable[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    image_size: int | None = None,
    class_names: Sequence[str] = (),
    images: PathLike | None = None,
    data_dir: PathLike | None = None,
    sample_images: npt.ArrayLike | None = None,
    sample_labels: npt.ArrayLike | None = None,
    calibration_images: npt.ArrayLike | None = None,
    card: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Writes a model in formats that need no Keras, runs each file in a fresh process, and compares it with the model.

    All take any number of uint8 images, and return `probabilities`, `logits` and `features` (the averaged last
    activation). The SavedModel resizes, and takes image files too; ONNX and LiteRT take images of the model's size.

    Args:
        model: A network with a classifier, of either layout and any dtype, a name of `list_weights()`, the folder of a
            run or of kept weights, or a `.keras` or `.weights.h5` file. ONNX and LiteRT are float32 files.
        output: The folder to write: `saved_model/`, `model.onnx`, `model.tflite`, `model.int8.tflite`,
            `class_names.txt`, `card.json`, and `parity.json`, the report. `<run>/export`, `<file>.export` or
            `<name>.export` if None.
        formats: Some of `FORMATS`. If None, those of SavedModel, ONNX and LiteRT that can be written here; what the
            others need is said.
        preprocessing: A `Preprocessing`, if not that of the model's card.
        mean: In place of `preprocessing`, for a model that does not say it: subtracted from pixels of 0 to 255, a
            number per channel.
        std: What they are then divided by, a number per channel.
        image_size: Side of the square images that the files take, of a `.weights.h5` file, which does not say it.
        class_names: A name for each output, if not those of the card.
        images: A folder of image files to compare on, in place of the data set that the model was trained on; half of
            them calibrate int8. Of more than 2,000 it takes so many, evenly spread. Files that cannot be read are left
            out.
        data_dir: Where the data set's files are, if not where the run found them.
        sample_images: Images to compare on as an array: real ones, uint8 (images, height, width, channels).
        sample_labels: Their classes, whole numbers (images,), or None: the report then has no errors.
        calibration_images: For `"litert_int8"`: as `sample_images`, but others, whose signals give int8 its ranges;
            a hundred or more.
        card: A dict that JSON can hold and that says what the model is, if not what is known of it.
        overwrite: Whether the folder of an earlier export may be replaced.
        verbose: Whether to print the report.

    Returns:
        The report as a dict. It has, for each format, what `parity.compare` returns and the seconds of writing.

    Raises:
        ValueError: If an argument is not allowed; nothing is written then.
        ImportError: If the packages of a format that was asked for are missing; they are named.
        ParityError: If a file does not agree with the model; nothing of the export is kept then.
    """
    chosen = check_formats(formats)
    source = find_source(checked(model) if isinstance(model, keras.Model) else model, "model")
    _check_preparation(source, preprocessing, mean, std, image_size)
    _check_images(source, images, sample_images, sample_labels)
    output = check_folder(output or _usual_folder(source), overwrite)
    data = _data(source, data_dir) if images is None and sample_images is None else None
    network = checked(source.load())
    if formats is None and "onnx" in chosen and len(chosen) > 1:
        chosen = _without_onnx(network, chosen)
    how = preprocessing or _preprocessing_of(source, network, mean, std, image_size)
    given = dict(sample_images=sample_images, sample_labels=sample_labels, calibration_images=calibration_images)
    if sample_images is None:
        found = _halves(images, how) if data is None else _samples(data, "litert_int8" in chosen)
        given = {**found, **{name: value for name, value in given.items() if value is not None}}
    names = list(map(str, _first(class_names, source.classes, range(network.output_shape[-1]))))
    return export_network(
        network,
        output,
        chosen,
        preprocessing=how,
        class_names=names,
        card=_card(source, how, names) if card is None else card,
        overwrite=overwrite,
        verbose=verbose,
        **given,
    )


def _first(*choices):
    """Returns the first that is not None, and not empty."""
    return next(choice for choice in choices if choice is not None and len(choice))


def _without_onnx(network, formats):
    """Returns formats without ONNX, and says so, if that does not know the activation of the classifier."""
    try:
        onnx_graph.check_activation(network)
    except ValueError as error:
        log.warning(f"Left out onnx. {error}")
        return tuple(name for name in formats if name != "onnx")
    return formats


def _check_preparation(source, preprocessing, mean, std, image_size):
    """Raises a `ValueError` unless it is said once how images are prepared."""
    is_known = source.preprocessing is not None or preprocessing is not None
    for name, value in (("mean", mean), ("std", std)):
        if not hasattr(value, "__len__"):
            raise argument_error(name, "a sequence of numbers, one per channel", value)
        if is_known and len(value):
            raise argument_error(name, "left out where a card or `preprocessing` says it", value)
        if len(value) not in (0, source.channels):
            raise argument_error(name, f"one number for each of the {source.channels} channel(s)", value)
    if not is_known and not (len(mean) and len(std)):
        expected = "a Preprocessing, or mean and std, for a model that does not say how its images were normalised"
        raise argument_error("preprocessing", expected, None, "On the command line: --mean and --std.")
    if preprocessing is not None and image_size is not None:
        raise argument_error("image_size", "left out with `preprocessing`, which says it", image_size)


def _check_images(source, images, sample_images, sample_labels):
    """Raises a `ValueError` unless there is one place to take the images from that are compared on."""
    if sample_images is not None:
        if images is not None:
            raise argument_error("images", "left out with sample_images", str(images))
        return
    if sample_labels is not None:
        raise argument_error("sample_labels", "left out without sample_images", "labels alone")
    if images is None:
        if source.data is None:
            raise argument_error("images", f"{IMAGES}, or sample_images, an array", None)
    elif not isinstance(images, (str, os.PathLike)):
        hint = "Arrays are for sample_images=."
        raise argument_error("images", "the path of a folder of image files", f"a {type(images).__name__}", hint)
    elif not os.path.isdir(images):
        raise argument_error("images", IMAGES, str(images), "There is no such folder.")


def _usual_folder(source):
    """Returns where the export of a `Source` is written if nothing is said."""
    path = pathlib.Path(source.name)
    if source.is_run:
        return path / "export"
    for ending in (".keras", ".weights.h5"):
        path = path.with_name(path.name.removesuffix(ending))
    return path.with_name(f"{path.name}.export")


def _preprocessing_of(source, network, mean, std, image_size):
    """Returns the `Preprocessing` of a network: its card's, for its own input size, or that of `mean` and `std`."""
    size = network.input_shape[1:3]
    if image_size is not None:
        side = check_integer("image_size", image_size)
        if size != (None, None):
            raise argument_error("image_size", "left out where the network has a size", image_size)
        size = (side, side)
    if source.preprocessing is not None:
        return source.preprocessing.of_size(size)
    if None in size:
        expected = "given for a network that takes images of any size"
        raise argument_error("image_size", expected, image_size, "On the command line: --image-size.")
    return Preprocessing(size, mean, std)


def _card(source, how, names):
    """Returns what is known of a `Source` and what its files do, as JSON holds it; None of a network without a card."""
    path = pathlib.Path(source.name)
    if source.card is not None:
        return {**source.card, "preprocessing": dataclasses.asdict(how), "classes": names}
    return {"file": path.name, "preprocessing": dataclasses.asdict(how)} if path.is_file() else None


def _data(source, data_dir):
    """Returns the `DataSet` that a `Source` was trained on."""
    try:
        data = data_of(source, data_dir)
    except (ValueError, OSError) as error:
        hint = f"The run's data cannot be read: {error}"
        raise argument_error("images", "a folder of image files to compare on, for this model", None, hint) from error
    check_classes(source, data)
    return data


def _samples(data, calibrates):
    """Returns images of a data set to compare on, their labels, and others to calibrate int8 with, if that is done."""
    tested = spread(len(data.test), TEST_IMAGES)
    found = {"sample_images": data.test.read(tested), "sample_labels": data.test.labels[tested]}
    others = {"calibration_images": data.train.read(spread(len(data.train), CALIBRATION_IMAGES))} if calibrates else {}
    return found | others


def _halves(folder, how):
    """Returns image files in a folder, cut as `how` says: half to compare on, half to calibrate int8."""
    found, _ = image_files(folder)
    files = [found[index] for index in spread(len(found), 2 * TEST_IMAGES)]
    pixels, problems = read_images(files, how)
    told = some(f"{path}: {problem}" for path, problem in problems.items())
    if len(pixels) < 2:
        raise argument_error("images", IMAGES, str(folder), told)
    if problems:
        log.warning(f"Left out {len(problems):,} of {len(files):,} files, which cannot be read. {told}")
    return {"sample_images": pixels[::2], "calibration_images": pixels[1::2]}
