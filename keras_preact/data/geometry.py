"""Crops that need an image's own size, of Pillow images on the host: fb.resnet.torch's, and the test crop."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image


def resizes(draws: Mapping[str, np.ndarray] | None) -> bool:
    """Returns whether `draws` holds a crop that resizes."""
    return draws is not None and ("shorter_side" in draws or "attempts" in draws)


def crop_arrays(images: np.ndarray, draws: Mapping[str, np.ndarray] | None) -> np.ndarray:
    """Returns random crops of uint8 images (batch, height, width, channels), resized to the same size."""
    return np.stack(
        [_cropped(image, images.shape[1:3], drawn) for image, drawn in zip(images, rows(draws, len(images)))]
    )


def _cropped(image, size, drawn):
    """Returns the crop of an array; others than grey or RGB a channel at a time: a fourth is no alpha."""
    parts = [image] if image.shape[-1] in (1, 3) else np.split(image, image.shape[-1], axis=-1)
    return np.concatenate([pixels(crop(pillow(part), size, drawn)) for part in parts], axis=-1)


def rows(draws: Mapping[str, np.ndarray] | None, count: int) -> list[dict[str, np.ndarray]]:
    """Returns a dict of arrays whose first axis is the image as a list of `count` dicts, one an image."""
    return [{name: values[k] for name, values in (draws or {}).items()} for k in range(count)]


def pillow(image: np.ndarray) -> Image.Image:
    """Returns uint8 (height, width, 1 or 3) as a grey or RGB Pillow image."""
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def pixels(image: Image.Image) -> np.ndarray:
    """Returns a grey or RGB Pillow image as uint8 (height, width, channels)."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def crop(image: Image.Image, size: Sequence[int], drawn: Mapping[str, np.ndarray]) -> Image.Image:
    """Returns the random crop of a Pillow image that was drawn for it.

    Args:
        image: A Pillow image.
        size: (height, width) of the crop.
        drawn: `shorter_side` and `place`, or `attempts` and `place`, of `Augmentation.draw`.
    """
    if "shorter_side" in drawn:
        return _placed(resize_shorter_side(image, int(drawn["shorter_side"])), size, drawn["place"])
    box = area_box(image.size, drawn["attempts"], drawn["place"])
    if box is None:
        return centre_crop(image, size, min(size))
    # Not resize(box=box), which reads pixels around the box too.
    return image.crop(box).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def area_box(image_size: Sequence[int], attempts: np.ndarray, place: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns the box (left, top, right, bottom) of the first attempt that lies in the image, or None.

    Args:
        image_size: (width, height).
        attempts: (attempts, 3): a share of the area, an aspect of width to height, and a number in [0, 1) of which
            those below a half exchange width and height.
        place: (2,): where the box lies of all places that it can take, from 0 (top, left) to 1.
    """
    width, height = image_size
    for share, aspect, coin in attempts:
        area = share * width * height
        box_width, box_height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if coin < 0.5:
            box_width, box_height = box_height, box_width
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = int(place[0] * (height - box_height + 1)), int(place[1] * (width - box_width + 1))
            return left, top, left + box_width, top + box_height
    return None


def centre_crop(image: Image.Image, size: Sequence[int], shorter_side: int) -> Image.Image:
    """Returns the centre `size` (height, width) of an image resized to a shorter side."""
    return _placed(resize_shorter_side(image, shorter_side, size), size, None)


def resize_shorter_side(image: Image.Image, side: int, at_least: Sequence[int] = (0, 0)) -> Image.Image:
    """Returns an image resized so that its shorter side is `side` pixels, and it is `at_least` (height, width)."""
    factor = max(side / min(image.size), at_least[1] / image.width, at_least[0] / image.height)
    width, height = round(image.width * factor), round(image.height * factor)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _placed(image, size, place):
    """Returns the crop of `size` (height, width) at `place` (from 0 to 1), or in the centre if that is None."""
    free = image.height - size[0], image.width - size[1]
    top, left = (f // 2 for f in free) if place is None else (int(p * (f + 1)) for p, f in zip(place, free))
    return image.crop((left, top, left + size[1], top + size[0]))
