"""What is done to images before a trained network sees them, and names for what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_preact import bounds
from keras_preact.errors import argument_error, check_integer, check_integers, check_number
from keras_preact.weights.cuts import check_scale, check_transform, cut, normalize

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

    from keras_preact.weights.cards import Card


@dataclass(frozen=True)
class Preprocessing:
    """Says how images of 0 to 255 become a network's input. Channels are in the order red, green, blue.

    Attributes:
        size: (height, width) in pixels that the network sees.
        mean: Per channel, 0 to 255, subtracted.
        std: Per channel, 0 to 255, divided by.
        crop: Share of the resized image's shorter side that the crop from its centre keeps.
        interpolation: One of `cuts.INTERPOLATIONS`.
        transform: One of `cuts.TRANSFORMS`: whose code resizes and cuts.

    Raises:
        ValueError: If a number is missing, not finite, not in its range, or beyond `bounds.SIDE`.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bicubic"
    transform: str = "ours"

    def __post_init__(self) -> None:
        size = check_integers("size", self.size)
        if len(size) != 2:
            raise argument_error("size", "(height, width)", self.size)
        object.__setattr__(self, "size", size)
        for name in ("mean", "std"):
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), Iterable):
                raise argument_error(name, "a sequence of numbers, one per channel", getattr(self, name))
            object.__setattr__(self, name, tuple(check_number(name, value) for value in getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.std):
            raise argument_error("std", f"one number per channel, as mean has ({len(self.mean)})", self.std)
        if min(self.std) <= 0.0:
            raise argument_error("std", "positive", self.std)
        object.__setattr__(self, "crop", check_number("crop", self.crop))
        if not 0.0 < self.crop <= 1.0:
            raise argument_error("crop", "above 0 and at most 1", self.crop)
        if max(size) / self.crop > bounds.SIDE:
            received = f"{max(size) / self.crop:g}"
            raise argument_error("size / crop", f"at most {bounds.SIDE} pixels along a side", received)
        check_transform(self.transform, self.interpolation)

    @property
    def channels(self) -> int:
        """How many channels the network reads."""
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.size, self.channels)

    def of_size(self, size: Sequence[int | None]) -> Preprocessing:
        """Returns it for a network that reads images of another (height, width); None for a side of any length."""
        height, width = (ours or theirs for ours, theirs in zip(size, self.size))
        return dataclasses.replace(self, size=(height, width))


def fields_of_before(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `Preprocessing` as a card has them, with the names and the default of older cards."""
    fields = {("std" if name == "deviation" else name): value for name, value in fields.items()}
    return {"interpolation": "bilinear", **fields}


def preprocess_input(images: np.ndarray | Iterable[npt.ArrayLike], card: Card | keras.Model) -> np.ndarray:
    """Returns images as the network of a card was evaluated on: resized, cropped, normalised.

    The shorter side is resized to `size / crop`, and the centre is cut out, to the pixel as the card's author does it:
    see `cuts.TRANSFORMS`. Images that have the network's size already are only normalised. Whole numbers are resized
    as whole numbers, whatever their type, as those of files are.

    Args:
        images: (batch, height, width, channels) or a list of (height, width, channels), from 0 to 255, RGB or, for a
            card of one channel, grey.
        card: A `Card`, a network whose weights have one (`model.card`), or the dict that `train` and `finetune` return.

    Returns:
        float32 (batch, *card.preprocessing.size, channels), or of the network's own size if it has one.

    Raises:
        ValueError: If the images have another rank or number of channels, no pixels, or values outside 0 to 255, or
            `card` is none.
    """
    how = _of_card(card, "preprocessing")
    if (shape := getattr(card, "input_shape", None)) is not None:  # a network's, which may be another than the card's
        how = how.of_size(shape[1:3])
        if shape[-1] != how.channels:
            expected = f"a network of {how.channels} channels, as its card"
            hint = "For others the card has no mean and std: take those of your own images, as DataSet.normalized does."
            raise argument_error("card", expected, f"{card.name}, of {shape[-1]}", hint)
    if not hasattr(images, "__iter__"):
        raise argument_error("images", "(batch, height, width, channels) or a list of images", images)
    try:
        arrays = [np.asarray(image) for image in images]
    except (TypeError, ValueError, NotImplementedError) as error:  # a tensor in a graph
        hint = "In a graph: keras.layers.Resizing, and (images - mean) / std with those of card.preprocessing."
        raise argument_error("images", "arrays", type(images).__name__, hint) from error
    arrays = [_checked(image, how) for image in arrays]
    if not arrays:
        raise argument_error("images", "one image at least", "none")
    check_scale(max(arrays, key=np.max))  # others may be dark
    return normalize(np.stack([_prepared(image, how) for image in arrays]), how.mean, how.std)


def _of_card(card, field):
    """Returns a field of a `Card`, or of a model's; a `ValueError` says if there is none."""
    if isinstance(card, Mapping) and "preprocessing" in card and "classes" in card:  # of a run
        return tuple(map(str, card["classes"])) if field == "classes" else Preprocessing(**card["preprocessing"])
    found = getattr(card, "card", card)
    if not hasattr(found, field):
        hint = "get_card takes a name of list_weights(). Of a model that you trained with `fit` you want "
        hint += "data.normalized(images) and data.class_names."
        received = type(card).__name__ if found is card else f"{card.name}, a model without a card"
        raise argument_error("card", "a Card, a model that has one, or what `train` returned", received, hint)
    return getattr(found, field)


def _checked(image, how):
    if image.ndim != 3 or image.shape[-1] != how.channels or not image.size:
        expected = f"(batch, height, width, {how.channels}), {'RGB' if how.channels == 3 else 'channels last'}"
        is_grey = how.channels == 3 and image.ndim == 3 and image.shape[-1] == 1
        hint = "Repeat the channel of grey images: np.repeat(image, 3, axis=-1)." if is_grey else ""
        raise argument_error("images", expected, f"an image of shape {image.shape}", hint)
    if image.dtype.kind not in "uif":
        raise argument_error("images", "numbers from 0 to 255", f"values of type {image.dtype}")
    if not (image.min() >= 0 and image.max() <= 255):
        raise argument_error("images", "numbers from 0 to 255", f"{image.min()} to {image.max()} as {image.dtype}")
    return image


def _prepared(image, how):
    if image.shape[:2] != how.size:
        is_whole = image.dtype.kind != "f" or bool((image == np.rint(image)).all())
        image = cut(image.astype("uint8" if is_whole else "float32"), how)
    return image.astype("float32")


def decode_predictions(
    probabilities: npt.ArrayLike, card: Card | keras.Model, top: int = 5
) -> list[list[tuple[str, float]]]:
    """Returns the names of the most probable classes.

    Args:
        probabilities: (batch, classes), what the network of the card returns.
        card: A `Card`, a network whose weights have one (`model.card`), or the dict that `train` and `finetune` return.
        top: How many to name for each image.

    Returns:
        A list of one list an image, of (name, probability), the most probable first.

    Raises:
        ValueError: If there are not as many numbers as the card has classes, or they are not finite, `top` is no whole
            number, or `card` is none.
    """
    classes = _of_card(card, "classes")
    try:
        numbers = np.asarray(probabilities, "float64")
    except (TypeError, ValueError) as error:
        expected = f"(batch, {len(classes)}) finite numbers"
        raise argument_error("probabilities", expected, type(probabilities).__name__, str(error)) from error
    if numbers.ndim != 2 or numbers.shape[1] != len(classes):
        hint = "A model with a new head has classes of its own."
        raise argument_error("probabilities", f"(batch, {len(classes)})", numbers.shape, hint)
    if not np.isfinite(numbers).all():
        raise argument_error("probabilities", "finite numbers", numbers[~np.isfinite(numbers).all(axis=1)][0].tolist())
    top = min(check_integer("top", top), len(classes))
    best = np.argsort(-numbers, axis=1, kind="stable")[:, :top]
    return [[(classes[index], float(row[index])) for index in order] for row, order in zip(numbers, best)]
