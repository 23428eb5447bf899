"""A run's model applied to image files."""

import pathlib
from dataclasses import dataclass

import numpy as np

from keras_preact.data import geometry
from keras_preact.data.dataset import normalize
from keras_preact.data.files import open_image
from keras_preact.errors import argument_error, check_integer
from keras_preact.training import run


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
    card = run.read_card(folder)
    top = min(check_integer("top", top), len(card["classes"]))
    preprocessing = card["preprocessing"]
    channels = card["network"]["input_shape"][-1]
    size, crop = preprocessing["size"], preprocessing.get("crop", 1.0)
    images = np.stack([read_image(path, size, channels, crop) for path in image_paths])
    images = normalize(images, preprocessing["mean"], preprocessing["deviation"])
    probabilities = run.load_model(folder).predict(images, verbose=0)
    return [
        Prediction(str(path), tuple((card["classes"][k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top]))
        for path, row in zip(image_paths, probabilities)
    ]


def read_image(path, size, channels, crop=1.0):
    """Returns an image file as uint8 (height, width, channels).

    Args:
        path: The file's path.
        size: (height, width) of the crop from its centre.
        channels: 1 or 3.
        crop: Share of the resized image's shorter side that the crop keeps.
    """
    if not pathlib.Path(path).is_file():
        raise argument_error("image", "an existing file", str(path))
    if channels not in (1, 3):
        raise argument_error(
            "run", "of a model for grey or RGB images, if files are to be predicted", f"{channels} channels"
        )
    try:
        image = open_image(path, channels)
    except ValueError as error:
        raise argument_error("image", "an image file", str(path), str(error.__cause__)) from error
    return geometry.pixels(geometry.centre_crop(image, size, round(min(size) / crop)))
