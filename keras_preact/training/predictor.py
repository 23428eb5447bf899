"""A run's model applied to image files."""

import pathlib
from dataclasses import dataclass

import numpy as np

from keras_preact.data import geometry
from keras_preact.data.dataset import normalize
from keras_preact.data.files import open_image
from keras_preact.errors import argument_error, check_integer
from keras_preact.training import run_folder
from keras_preact.weights.cuts import cut
from keras_preact.weights.preprocessing import Preprocessing


@dataclass(frozen=True)
class Prediction:
    """Holds the most probable classes of an image: (name, probability), the most probable first."""

    path: str
    classes: tuple[tuple[str, float], ...]


def predict(folder, image_paths, top=3):
    """Classifies image files with the model of a run.

    Args:
        folder: The folder of a finished run.
        image_paths: Paths of images in any format that Pillow reads; each is resized and cropped as the run's test
            images were, and made grey or RGB.
        top: How many classes to return for each.

    Returns:
        A list of `Prediction`, one per path.

    Raises:
        ValueError: If the folder holds no finished run, or a file is no image; it is named.
    """
    card = run_folder.read_card(folder)
    top = min(check_integer("top", top), len(card["classes"]))
    how = Preprocessing(**card["preprocessing"])
    images = np.stack([read_image(path, how) for path in image_paths])
    images = normalize(images, how.mean, how.std)
    probabilities = run_folder.load_model(folder).predict(images, verbose=0)
    return [
        Prediction(str(path), tuple((card["classes"][k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top]))
        for path, row in zip(image_paths, probabilities)
    ]


def read_image(path, how):
    """Returns an image file as uint8 (height, width, channels), resized and cut as a card's `Preprocessing` says."""
    if not pathlib.Path(path).is_file():
        raise argument_error("image", "an existing file", str(path))
    if how.channels not in (1, 3):
        raise argument_error(
            "run", "of a model for grey or RGB images, if files are to be predicted", f"{how.channels} channels"
        )
    try:
        image = open_image(path, how.channels)
    except ValueError as error:
        raise argument_error("image", "an image file", str(path), str(error.__cause__)) from error
    return cut(geometry.pixels(image), how, how.size)
