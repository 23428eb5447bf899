"""A trained network applied to image files."""

import functools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from keras_preact.data import geometry
from keras_preact.data.files import decode, threads
from keras_preact.data.folders import image_files, some
from keras_preact.errors import argument_error, check_integer
from keras_preact.network.checks import check_has_probabilities
from keras_preact.training.source import Trained, find_source
from keras_preact.types import PathLike
from keras_preact.weights.cuts import cut, normalize
from keras_preact.weights.preprocessing import Preprocessing

log = logging.getLogger(__name__)

BATCH = 256  # images that are in memory at once


@dataclass(frozen=True)
class Prediction:
    """Holds the most probable classes of an image: (name, probability), the most probable first.

    Attributes:
        path: The file.
        classes: As above; none if it cannot be read.
        problem: Why it cannot be read, a sentence; None if it can.
    """

    path: str
    classes: tuple[tuple[str, float], ...]
    problem: str | None = None


def predict(model: Trained, images: PathLike | Iterable[PathLike], top: int = 3) -> list[Prediction]:
    """Classifies image files with a trained network.

    A file that cannot be read has a `problem` in place of classes, and the others are classified all the same.

    Args:
        model: A name of `list_weights()`, the folder of a run or of kept weights, a `.keras` file of a run, or a
            network with trained weights.
        images: Paths of images in any format that Pillow reads, and of folders, whose images are taken, with those
            of their subfolders; or one path. Each image is turned upright, resized and cropped as the network's test
            images were, and made grey or RGB.
        top: How many classes to return for each.

    Returns:
        A list of `Prediction`, one per image file.

    Raises:
        ValueError: If `model` is none of these, or does not say how images are prepared and what its classes are; or
            if a path does not exist, or is a folder without an image. It is named.
    """
    source = find_source(model, "model")
    how, classes = source.preprocessing, source.classes
    if how is None or classes is None:
        hint = "Pass a name of list_weights(), the folder of a run or of kept weights, or the model.keras of a run. A "
        hint += "network that you trained with `fit` has a `predict` of its own, for data.normalized(images)."
        expected = "one that says how images are prepared, and what its classes are called"
        raise argument_error("model", expected, source.name, hint)
    top = min(check_integer("top", top), len(classes))
    paths, network, found = files_of(images), source.load(), []
    check_has_probabilities(network, source.name)
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        pixels, problems = read_images(part, how)
        rows = iter(network.predict(normalize(pixels, how.mean, how.std), verbose=0) if len(pixels) else ())
        found += [Prediction(path, *_answer(problems.get(path), rows, classes, top)) for path in part]
    return found


def _answer(problem, rows, classes, top):
    """Returns the classes of an image that has no problem, by the next of the rows, and its problem."""
    if problem is not None:
        return (), problem
    row = next(rows)
    return tuple((classes[k], float(row[k])) for k in np.argsort(-row, kind="stable")[:top]), None


def files_of(paths: PathLike | Iterable[PathLike]) -> list[str]:
    """Returns the paths of image files that are given one by one or by folders, as strings.

    Raises:
        ValueError: If one does not exist, or is a folder without an image.
    """
    found = []
    if not isinstance(paths, Iterable) and not isinstance(paths, os.PathLike):
        raise argument_error("images", "paths of files and folders", paths)
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        if not isinstance(path, (str, os.PathLike)):
            hint = "Give images in memory to preprocess_input, and its result to the network."
            raise argument_error(
                "images", "the path of a file, or of a folder of images", f"a {type(path).__name__}", hint
            )
        if not os.path.isdir(path):
            if not os.path.isfile(path):
                raise argument_error("images", "an existing file, or a folder of images", str(path))
            found.append(os.fspath(path))
            continue
        images, others = image_files(path)
        if not images:
            raise argument_error("images", "a folder with images in it", str(path))
        if others:
            log.warning(f"Left out what is no image by its name ({len(others):,}): {some(others)}.")
        found += images
    return found


def read_images(paths: Sequence[str], how: Preprocessing) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the images of files, uint8 (images, *how.input_shape), and {path: problem} of those that are left out."""
    if how.channels not in (1, 3):
        expected = "for grey or RGB images, if image files are to be read"
        raise argument_error("model", expected, f"{how.channels} channels")
    read = list(threads().map(functools.partial(_read, how=how), paths))
    problems = {path: str(image) for path, image in zip(paths, read) if isinstance(image, ValueError)}
    images = [image for image in read if not isinstance(image, ValueError)]
    return np.stack(images) if images else np.zeros((0, *how.input_shape), np.uint8), problems


def _read(path, how):
    try:
        return cut(geometry.pixels(decode(path, how.channels)), how)
    except ValueError as error:
        return error
