"""What a data set is: images, labels, names, and how its pixels are normalised."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from keras_preact.data import geometry
from keras_preact.errors import argument_error
from keras_preact.weights.cuts import check_scale, normalize

log = logging.getLogger(__name__)

CLASSES = 1_000_000  # that labels without names may stand for; ImageNet's largest list has 21,841

if TYPE_CHECKING:
    import numpy.typing as npt


class Split(Protocol):
    """What the images of a training or a test split are: an `ArraySplit`, a `FileSplit` or a `Subset`.

    Attributes:
        labels: int32 (images,).
    """

    labels: np.ndarray

    def __len__(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of what `read` returns."""

    def read(self, indices: np.ndarray | Sequence[int], draws: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Returns the images at `indices`, uint8 (images, *image_shape), cropped as `draws` says."""


class ArraySplit:
    """Holds the images of a split in memory.

    Args:
        images: uint8 (images, height, width, channels), 0 to 255.
        labels: Whole numbers (images,), from 0.

    Raises:
        ValueError: If dtypes or sizes are others, or there is no image.
    """

    def __init__(self, images: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        self.images, self.labels = np.asarray(images), check_labels(labels)
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            received = f"{self.images.dtype.name} {self.images.shape}"
            raise argument_error("images", "uint8 (images, height, width, channels)", received)
        if len(self.images) != len(self.labels) or not len(self.images):
            raise argument_error("labels", f"one per image ({len(self.images)}), and one at least", len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.images.shape[1:]

    def read(self, indices: np.ndarray | Sequence[int], draws: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Returns the images at `indices`, uint8; with `shorter_side` or `attempts` in `draws`, crops of them."""
        images = self.images[indices]
        if not geometry.resizes(draws):
            return images
        return geometry.crop_arrays(images, draws)


def check_labels(labels: npt.ArrayLike, argument: str = "labels") -> np.ndarray:
    """Returns labels as int32 (images,).

    Args:
        labels: Whole numbers (images,) or (images, 1).
        argument: The name in errors.

    Raises:
        ValueError: If they are of another dtype or shape, or a number is too large for int32.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        received = f"{labels.dtype.name} {labels.shape}"
        raise argument_error(argument, "whole numbers (images,), from 0, not one-hot", received)
    span = np.iinfo(np.int32)
    if labels.size and (labels.min() < span.min or labels.max() > span.max):
        raise argument_error(argument, f"from 0 to {span.max:,}", f"{labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


@dataclass(frozen=True)
class DataSet:
    """Holds what a network is trained and tested on.

    Attributes:
        name: What it is called.
        train: The training split, a `Split`.
        test: The test split.
        class_names: One per label.
        mean: Per channel, of the training images, 0 to 255.
        std: Per channel, of the training images, 0 to 255.
        folder: The path that `load` takes to load a folder of images again; None for a named data set, and for arrays.
        crop: Share of a resized test image's shorter side that the crop from its centre keeps.
        interpolation: How images of other sizes were, or are, resized to these: one of `cuts.INTERPOLATIONS`.
        data_dir: Where the files of a named data set lie; None for its usual places.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str | None = None
    crop: float = 1.0
    interpolation: str = "bicubic"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            labels = getattr(self, name).labels
            if labels.min() < 0 or labels.max() >= len(self.class_names):
                span = f"{labels.min()} to {labels.max()}"
                raise argument_error(f"{name} labels", f"from 0 to {len(self.class_names) - 1}", span)
        if self.test.image_shape != self.image_shape:
            raise argument_error(
                "test images", f"of the training images' shape {self.image_shape}", self.test.image_shape
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.image_shape[-1]:
                raise argument_error(name, f"one number per channel ({self.image_shape[-1]})", getattr(self, name))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of the images that a network sees."""
        return tuple(self.train.image_shape)

    def normalized(self, images: npt.ArrayLike) -> np.ndarray:
        """Returns images as float32 with the training split's mean 0 and std 1 per channel.

        Args:
            images: (..., channels), from 0 to 255.

        Raises:
            ValueError: If they have other channels, are no array, or floats of 0 to 1.
        """
        try:
            images = np.asarray(images)
        except (TypeError, ValueError, NotImplementedError) as error:  # a tensor in a graph
            hint = "In a graph: (images - data.mean) / data.std."
            raise argument_error("images", "an array", type(images).__name__, hint) from error
        if images.shape[-1:] != self.image_shape[-1:]:
            raise argument_error("images", f"of {self.image_shape[-1]} channel(s), which come last", images.shape)
        check_scale(images)
        return normalize(images, self.mean, self.std)


DataLike: TypeAlias = str | os.PathLike[str] | DataSet  # by name, or by the path of its folder


def resized(data: DataSet, side: int, name: str) -> DataSet:
    """Returns a `DataSet` of arrays with its images resized to `side` x `side` pixels by Pillow, bilinearly.

    Args:
        data: A `DataSet` of `ArraySplit`s.
        side: Pixels.
        name: What to call it.
    """
    from PIL import Image

    def smaller(split):
        size, how = (side, side), Image.Resampling.BILINEAR  # of which every pixel takes part on the way down
        images = [geometry.pixels(geometry.pillow(image).resize(size, how)) for image in split.images]
        return ArraySplit(np.stack(images), split.labels)

    train, test = smaller(data.train), smaller(data.test)
    mean, std = measure(train.images)
    return replace(data, name=name, train=train, test=test, mean=mean, std=std, interpolation="bilinear")


def from_arrays(
    train_images: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test_images: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    class_names: Iterable[str] | None = None,
    name: str = "arrays",
) -> DataSet:
    """Returns the `DataSet` of arrays, with the mean and std of its training images.

    Args:
        train_images: (images, height, width, channels), or (images, height, width) for grey ones: whole numbers of 0 to
            255, or floats of 0 to 1, which are rounded to 1/255.
        train_labels: Whole numbers (images,), from 0.
        test_images: As `train_images`.
        test_labels: As `train_labels`.
        class_names: One per label; the labels themselves if None, which are then below 1,000,000.
        name: What to call it.

    Raises:
        ValueError: If an array is none of these, holds NaN, or a label has no name.
    """
    train = ArraySplit(check_images(train_images, "train_images"), check_labels(train_labels, "train_labels"))
    test = ArraySplit(check_images(test_images, "test_images"), check_labels(test_labels, "test_labels"))
    if class_names is None:
        for argument, split in (("train_labels", train), ("test_labels", test)):
            if (highest := int(split.labels.max())) >= CLASSES:
                hint = "Number the classes from 0: numpy.searchsorted(numpy.unique(train_labels), labels) does so."
                raise argument_error(argument, f"below {CLASSES:,} without class_names", highest, hint)
        unseen = np.setdiff1d(np.arange(train.labels.max() + 1), train.labels)
        if unseen.size:
            log.warning(f"No training image has the label {unseen[0]}: are labels counted from 0?")
        class_names = tuple(str(label) for label in range(max(train.labels.max(), test.labels.max()) + 1))
    mean, std = measure(train.images)
    return DataSet(name, train, test, tuple(class_names), mean, std)


def measure(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std per channel, 0 to 255, of uint8 images, as tuples of floats."""
    levels = np.arange(256)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        shares = np.bincount(images[..., channel].ravel(), minlength=256) / (images.size / images.shape[-1])
        means.append(float(shares @ levels))
        stds.append(float(np.sqrt(shares @ (levels - means[-1]) ** 2)) or 1.0)
    return tuple(means), tuple(stds)


def check_images(images: npt.ArrayLike, argument: str = "images") -> np.ndarray:
    """Returns images as uint8 (images, height, width, channels) of 0 to 255.

    Args:
        images: (images, height, width[, channels]): whole numbers of 0 to 255, or floats of 0 to 1.
        argument: The name in errors.

    Raises:
        ValueError: If they are of another dtype, size or range, or NaN; the first such image is named.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size:
        raise argument_error(argument, "(images, height, width, channels), one image at least", images.shape)
    if images.shape[1] in (1, 3) and min(images.shape[2:]) > 4:
        hint = "Channels come last: pass numpy.moveaxis(images, 1, -1)."
        raise argument_error(argument, "(images, height, width, channels)", images.shape, hint)
    is_float = np.issubdtype(images.dtype, np.floating)
    if not is_float and not np.issubdtype(images.dtype, np.integer):
        raise argument_error(argument, "uint8 of 0 to 255, or floats of 0 to 1", images.dtype.name)
    low, high = images.min(), images.max()
    if is_float and not np.isfinite([low, high]).all():
        first = int(np.argmin(np.isfinite(images).all(axis=(1, 2, 3))))
        raise argument_error(argument, "finite", f"NaN or infinity in image {first}")
    span, top = f"{images.dtype.name} from {low:g} to {high:g}", 1 if is_float else 255
    if low < 0 or high > top:
        hint = 'Are they of 0 to 255? Pass images.astype("uint8").' if is_float else ""
        raise argument_error(argument, f"of 0 to {top} as {images.dtype.name}", span, hint)
    if is_float:
        return np.rint(images * 255).astype(np.uint8)
    if high == 1:
        raise argument_error(
            argument, "of 0 to 255 as whole numbers", span, "Are they of 0 to 1? Multiply by 255 first."
        )
    return images.astype(np.uint8)


class Subset:
    """Holds some images of a split.

    Args:
        split: An `ArraySplit` or a `FileSplit`.
        indices: Which, a sequence of positions in it.
    """

    def __init__(self, split: Split, indices: npt.ArrayLike) -> None:
        self.split, self.indices = split, np.asarray(indices)
        self.labels, self.image_shape = split.labels[self.indices], split.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: np.ndarray | Sequence[int], draws: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Returns the images at `indices` of these, as the split does."""
        return self.split.read(self.indices[indices], draws)


def is_in_memory(split: Split) -> bool:
    """Returns whether the images of a split, or of the one that it is a part of, are an array."""
    return is_in_memory(split.split) if isinstance(split, Subset) else isinstance(split, ArraySplit)


def held_out(data: DataSet, count: int, seed: int) -> tuple[DataSet, DataSet]:
    """Returns two data sets: `data` without `count` of its training images, and those as the test split.

    Args:
        data: A `DataSet`.
        count: Images to hold out.
        seed: Decides which.

    Raises:
        ValueError: If none would be left.
    """
    if not 0 < count < len(data.train):
        raise argument_error("validation_images", f"below the {len(data.train)} training images", count)
    order = np.random.default_rng(seed).permutation(len(data.train))
    return replace(data, train=Subset(data.train, np.sort(order[count:]))), replace(
        data, test=Subset(data.train, np.sort(order[:count]))
    )
