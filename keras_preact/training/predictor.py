"""A trained network applied to image files."""

import pathlib
from dataclasses import dataclass

import numpy as np

from keras_preact.data import geometry
from keras_preact.data.files import open_image
from keras_preact.errors import argument_error, check_integer
from keras_preact.training.source import find_source
from keras_preact.weights.cuts import cut, normalize


@dataclass(frozen=True)
class Prediction:
    """Holds the most probable classes of an image: (name, probability), the most probable first."""

    path: str
    classes: tuple[tuple[str, float], ...]


def predict(model, image_paths, top=3):
    """Classifies image files with a trained network.

    Args:
        model: A name of `list_weights()`, the folder of a run or of kept weights, a `.keras` file of a run, or a
            network with trained weights.
        image_paths: Paths of images in any format that Pillow reads; each is resized and cropped as the network's test
            images were, and made grey or RGB.
        top: How many classes to return for each.

    Returns:
        A list of `Prediction`, one per path.

    Raises:
        ValueError: If `model` is none of these, or does not say how images are prepared and what its classes are; or
            if a file is no image. It is named.
    """
    source = find_source(model, "model")
    how, classes = source.preprocessing, source.classes
    if how is None or classes is None:
        hint = "Pass a name of list_weights(), the folder of a run or of kept weights, or a .keras file of a run."
        expected = "one that says how images are prepared, and what its classes are called"
        raise argument_error("model", expected, source.name, hint)
    top = min(check_integer("top", top), len(classes))
    images = np.stack([read_image(path, how) for path in image_paths])
    probabilities = source.load().predict(normalize(images, how.mean, how.std), verbose=0)
    return [
        Prediction(str(path), tuple((classes[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top]))
        for path, row in zip(image_paths, probabilities)
    ]


def read_image(path, how):
    """Returns an image file as uint8 (height, width, channels), resized and cut as a card's `Preprocessing` says."""
    if not pathlib.Path(path).is_file():
        raise argument_error("image", "an existing file", str(path))
    if how.channels not in (1, 3):
        raise argument_error(
            "model", "for grey or RGB images, if files are to be predicted", f"{how.channels} channels"
        )
    try:
        image = open_image(path, how.channels)
    except ValueError as error:
        raise argument_error("image", "an image file", str(path), str(error.__cause__)) from error
    return cut(geometry.pixels(image), how)
