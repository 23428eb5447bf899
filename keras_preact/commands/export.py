"""The verb `export`: a run's model, trained weights or a .keras file, in formats that need no Keras."""

import dataclasses
import pathlib
from typing import Literal

import numpy as np
from tyro.conf import Positional

from keras_preact.errors import argument_error
from keras_preact.exporting.format_table import FORMATS
from keras_preact.weights.cards import card_spec, get_card, kept_card, list_weights
from keras_preact.weights.preprocessing import Preprocessing as CardPreprocessing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
IMAGES = "a folder of two image files at least, to compare on"


def export(
    model: Positional[pathlib.Path],
    /,
    *,
    output: pathlib.Path | None = None,
    formats: tuple[Literal[tuple(FORMATS)], ...] = ("savedmodel", "onnx", "litert"),
    overwrite: bool = False,
    images: pathlib.Path | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    class_names: tuple[str, ...] = (),
) -> None:
    """Writes a trained model as SavedModel, ONNX and LiteRT, and compares each file with it in a fresh process.

    Args:
        model: The folder of a finished run, a .keras file, or trained weights: a name of `keras-preact weights list`
            or a folder of `keras-preact weights keep`.
        output: The folder to write; <run>/export, <file>.export or <name>.export if left out.
        formats: What to write. int8 is calibrated on 200 training images; all are compared on at most 1000 test images.
        overwrite: Replace an earlier export.
        images: For a .keras file, or where the data set of a run or of weights is not here: a folder of image files to
            compare on; half of them calibrate int8.
        mean: A .keras file only: subtracted from pixels of 0 to 255, a number per channel.
        std: A .keras file only: what they are divided by, a number per channel.
        class_names: A .keras file only: a name for each output; numbers if left out.
    """
    from keras_preact.exporting.formats import check_folder
    from keras_preact.exporting.formats import export as export_model
    from keras_preact.training import run_folder

    path = pathlib.Path(model)
    if path.suffix == ".keras":
        target = output or path.with_suffix(".export")
        check_folder(target, overwrite)
        network, given = _of_file(path, images, mean, std, class_names)
    elif (kept := _kept(path)) is not None:
        _check_left_out(mean=mean, std=std, class_names=class_names)
        target = output or pathlib.Path(f"{kept.name}.export")
        check_folder(target, overwrite)
        network, given = _of_card(kept, images)
    else:
        _check_left_out(mean=mean, std=std, class_names=class_names)
        target = output or path / "export"
        card = run_folder.read_card(path)
        check_folder(target, overwrite)
        network, given = _of_run(path, card, images)
    export_model(network, target, formats, overwrite=overwrite, **given)


def _check_left_out(**arguments):
    for name, value in arguments.items():
        if value:
            raise argument_error(name, "left out for a run or trained weights, whose card has it", value)


def _kept(path):
    """Returns the `Card` of the trained weights that `path` names, or is the folder of; None if it is neither."""
    return get_card(str(path)) if str(path) in list_weights() else kept_card(path)


def _of_card(card, folder):
    from keras_preact.zoo import build_network

    network, files = build_network(card_spec(card), weights=card, name=card.network), _files(folder)
    return network, _halves(files, card.preprocessing) if files else {}


def _of_run(path, card, folder):
    from keras_preact.exporting.preprocessing import Preprocessing
    from keras_preact.training import run_folder

    files, how = _files(folder), CardPreprocessing(**card["preprocessing"])
    network = run_folder.load_model(path)
    return network, {
        "preprocessing": Preprocessing.of(how),
        "class_names": card["classes"],
        "card": card,
        **(_halves(files, how) if files else _of_data_set(card)),
    }


def _of_data_set(card):
    """Returns images and labels of what a run was trained on."""
    from keras_preact.exporting.formats import images_of
    from keras_preact.training.evaluation import loaded

    try:
        data = loaded(card["data"], card.get("data_dir"), card["recipe"].get("image_size"))
    except (ValueError, OSError) as error:
        hint = f"The run's data cannot be read: {error}"
        raise argument_error("images", "a folder of image files to compare on, for this run", None, hint) from error
    return images_of(data)


def _of_file(path, folder, mean, std, class_names):
    from keras_preact.exporting.preprocessing import Preprocessing
    from keras_preact.training import run_folder

    if not path.is_file():
        raise argument_error("model", "the folder of a run, or an existing .keras file", str(path))
    if not (mean and std):
        hint = "A .keras file does not say how its images were normalised."
        raise argument_error("mean, std", "given with a .keras file", (mean, std), hint)
    files = _files(folder)
    if not files:
        raise argument_error("images", IMAGES, None)
    network = run_folder.read_model(path)
    shape = network.input_shape[1:]
    if None in shape:
        raise argument_error("model", "of a fixed input size", shape)
    seen = CardPreprocessing(shape[:2], mean, std, interpolation="bicubic")
    preprocessing = Preprocessing.of(seen, shape)
    return network, {
        "preprocessing": preprocessing,
        "class_names": class_names or tuple(map(str, range(network.output_shape[-1]))),
        **_halves(files, seen),
        "card": {"file": path.name, "preprocessing": dataclasses.asdict(preprocessing)},
    }


def _files(folder):
    """Returns the image files in a folder, none for None; a `ValueError` says if there are fewer than two."""
    if folder is None:
        return []
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise argument_error("images", IMAGES, str(folder))
    return files


def _halves(files, how):
    """Returns image files, cut as a card says: half to compare on, half to calibrate int8."""
    from keras_preact.training.predictor import read_image

    pixels = np.stack([read_image(file, how) for file in files])
    return {"sample_images": pixels[::2], "calibration_images": pixels[1::2]}
