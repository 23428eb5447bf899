"""What is done to training images: `Augmentation`, and the random numbers that it takes, drawn on the host.

The host draws for each image; `preparation.py` applies on the device what can be done to images of one size, and
`geometry.py` on the host what needs the image file's own size. So what happens to an image depends on no backend,
device or strategy, and no random state has to be saved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from keras_preact.errors import argument_error, check_choice, check_flag, check_integer, check_number

PAD_VALUES = ("mean", "black", "reflect")
ASPECTS = (3 / 4, 4 / 3)
ATTEMPTS = 10

_CHECKS: dict[str, Callable[[str, object], object]] = {
    **dict.fromkeys(("crop_padding", "cutout"), partial(check_integer, minimum=0)),
    **dict.fromkeys(("lighting", "mixup", "cutmix"), partial(check_number, low=0.0)),
    "colour": partial(check_number, low=0.0, high=1.0),
    "flip": check_flag,
}
HOST_DRAWS = ("shorter_side", "attempts", "place")


@dataclass(frozen=True)
class Augmentation:
    """Says how training images are varied; by default not at all."""

    crop_padding: int = 0
    """Pixels around an image from which a crop of its size is taken."""
    pad_value: str = "mean"
    """What these pixels are: mean (0 after normalising, as in the paper and its Torch code), black or reflect."""
    flip: bool = False
    """Mirror half of the images."""
    scale: tuple[int, ...] = ()
    """Smallest and largest shorter side, in pixels, to which an image is resized before a random crop."""
    area: tuple[float, ...] = ()
    """Smallest and largest share of an image's area that a crop of aspect 3/4 to 4/3 covers before it is resized."""
    colour: float = 0.0
    """Brightness, contrast and saturation are each multiplied by a factor in [1 - colour, 1 + colour]."""
    lighting: float = 0.0
    """Std of the shifts along the principal components of ImageNet's colours."""
    cutout: int = 0
    """Side, in pixels, of a square set to the mean colour; its centre is anywhere in the image."""
    mixup: float = 0.0
    """Both parameters of the beta distribution of the share with which an image is blended into another."""
    cutmix: float = 0.0
    """Both parameters of the beta distribution of the area share that a box keeps of its image."""

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        check_choice("pad_value", self.pad_value, PAD_VALUES)
        _check_range(self, "scale", lambda value: check_integer("scale", value))
        _check_range(self, "area", lambda value: check_number("area", value, 0.0, 1.0))
        if self.scale and self.area:
            raise argument_error("area", "left out with `scale`: each decides the crop", self.area)

    @property
    def mixes(self) -> bool:
        """Whether an image's label becomes two."""
        return bool(self.mixup or self.cutmix)

    @property
    def resizes(self) -> bool:
        """Whether images are resized, which the host does."""
        return bool(self.scale or self.area)

    def check(self, image_shape: tuple[int, ...]) -> None:
        """Raises a `ValueError` if images of `image_shape` (height, width, channels) cannot be varied so."""
        height, width, channels = image_shape
        for name in ("colour", "lighting"):
            if getattr(self, name) and channels != 3:
                raise argument_error(name, f"0 for images of {channels} channel(s)", getattr(self, name))
        if self.pad_value == "reflect" and self.crop_padding >= min(height, width):
            raise argument_error("crop_padding", f"below {min(height, width)} to reflect", self.crop_padding)
        if self.cutout > (largest := 2 * max(height, width) - 2):
            expected = f"at most {largest} for images of {height}x{width}: nothing would be left of any"
            raise argument_error("cutout", expected, self.cutout)
        if self.scale and self.scale[0] < max(height, width):
            raise argument_error("scale", f"at least {max(height, width)}, the side of the crop", self.scale)

    def draw(self, rng: np.random.Generator, count: int, image_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Returns what happens to each of `count` images, a dict of arrays whose first axis is the image.

        Args:
            rng: A `numpy.random.Generator`.
            count: How many images.
            image_shape: (height, width, channels) of the images that the network sees.

        Returns:
            Of these, what the augmentation takes: `shorter_side` int32 (count,) in pixels, `attempts` float64 (count,
            10, 3) of area share, aspect and coin, `place` float64 (count, 2) in [0, 1) from top left to bottom right;
            `corner` int32 (count, 2), `mirror` uint8 (count,) (1: flipped), `factors` float32 (count, 3) of brightness,
            contrast and saturation, `lighting` float32 (count, 3), `hole` int32 (count, 2) (the centre), `own` float32
            (count,) (the image's share after mixup), `box` int32 (count, 4) (top, left, bottom, right of cutmix).
        """
        height, width, _ = image_shape
        sides = np.array([height, width], np.int32)
        drawn = {}
        if self.scale:
            drawn["shorter_side"] = rng.integers(self.scale[0], self.scale[1] + 1, count, np.int32)
        if self.area:
            lows, highs = zip(self.area, ASPECTS, (0.0, 1.0))
            drawn["attempts"] = rng.uniform(lows, highs, (count, ATTEMPTS, 3))
        if self.resizes:
            drawn["place"] = rng.random((count, 2))
        if self.crop_padding:
            drawn["corner"] = rng.integers(2 * self.crop_padding + 1, size=(count, 2), dtype=np.int32)
        if self.flip:
            drawn["mirror"] = (rng.random(count) < 0.5).astype(np.uint8)  # Keras adds replicas up: no bool
        if self.colour:
            drawn["factors"] = rng.uniform(1 - self.colour, 1 + self.colour, (count, 3)).astype(np.float32)
        if self.lighting:
            drawn["lighting"] = rng.normal(0.0, self.lighting, (count, 3)).astype(np.float32)
        if self.cutout:
            drawn["hole"] = rng.integers(sides, size=(count, 2), dtype=np.int32)
        return drawn | self._draw_mixes(rng, count, sides)

    def _draw_mixes(self, rng, count, sides):
        """Returns `own` and `box`; with both mixup and cutmix an image gets one of them, by a coin."""
        drawn = {}
        blended = rng.random(count) < 0.5 if self.mixup and self.cutmix else np.full(count, bool(self.mixup))
        if self.mixup:
            drawn["own"] = np.where(blended, rng.beta(self.mixup, self.mixup, count), 1.0).astype(np.float32)
        if self.cutmix:
            kept = np.where(blended, 1.0, rng.beta(self.cutmix, self.cutmix, count))
            halves = (np.sqrt(1.0 - kept)[:, None] * sides / 2).astype(np.int32)
            centres = rng.integers(sides, size=(count, 2), dtype=np.int32)
            corners = np.clip(centres - halves, 0, sides), np.clip(centres + halves, 0, sides)
            drawn["box"] = np.concatenate(corners, axis=1).astype(np.int32)
        return drawn


def _check_range(augmentation, name, check):
    values = getattr(augmentation, name)
    if not isinstance(values, (tuple, list)) or len(values) not in (0, 2):
        raise argument_error(name, "(), or (smallest, largest)", values)
    values = tuple(check(value) for value in values)
    if values and not 0 < values[0] <= values[1]:
        raise argument_error(name, "(smallest, largest), above 0", values)
    object.__setattr__(augmentation, name, values)
