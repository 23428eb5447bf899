"""The augmentations that the device applies, as functions of a whole batch and of what was drawn for each image.

They are made of `keras.ops` on static image shapes, so that they run eagerly, in TensorFlow graphs, under XLA and on
JAX; the batch may be of unknown size. Images are float32 (batch, height, width, channels).
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_preact.types import Tensor

# Of RGB in 0 to 1 over ImageNet (Krizhevsky et al. 2012), as in fb.resnet.torch.
EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], "float32")
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], "float32")
LUMA = np.array([0.299, 0.587, 0.114], "float32")


def crop(images: Tensor, corner: Tensor, padding: int, pad_value: str, mean: np.ndarray | Sequence[float]) -> Tensor:
    """Returns crops of the images' own size out of the images with `padding` pixels around them.

    Args:
        images: 0 to 255.
        corner: int32 (batch, 2): top and left of the crop, from 0 to 2 * padding.
        padding: Pixels.
        pad_value: `"mean"`, `"black"` or `"reflect"`.
        mean: Per channel, 0 to 255.
    """
    _, height, width, channels = images.shape
    rows = corner[:, :1] + ops.arange(height, dtype="int32") - padding
    columns = corner[:, 1:] + ops.arange(width, dtype="int32") - padding
    if pad_value == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    inside = _outer(ops.logical_and, _between(rows, 0, height), _between(columns, 0, width))
    rows, columns = ops.clip(rows, 0, height - 1), ops.clip(columns, 0, width - 1)
    first = ops.arange(ops.shape(images)[0], dtype="int32")[:, None] * height
    # One look-up a pixel; a look-up a row and then a column, or a product with one-hot matrices, took longer.
    pixels = _outer(ops.add, (first + rows) * width, columns)
    cropped = ops.take(ops.reshape(images, (-1, channels)), pixels, axis=0)
    if pad_value == "reflect":
        return cropped
    outside = mean if pad_value == "mean" else np.zeros(channels, "float32")
    return ops.where(inside[..., None], cropped, ops.convert_to_tensor(outside, "float32"))


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Returns the images, of which those with 1 in `mirrored`, uint8 (batch,), have left and right exchanged."""
    return ops.where(ops.cast(mirrored, "bool")[:, None, None, None], ops.flip(images, axis=2), images)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Returns images blended with black, with their mean grey and with their own grey, as fb.resnet.torch does.

    It does so in a random order. The order changes nothing, since none of the three clips: the weights of the grey
    sum to 1, so saturation keeps every pixel's grey, and brightness only scales it.

    Args:
        images: RGB, of any unit.
        factors: float32 (batch, 3): of brightness, contrast and saturation.
    """
    brightness, contrast, saturation = (factors[:, k][:, None, None, None] for k in range(3))
    grey = ops.sum(images * LUMA, axis=-1, keepdims=True)
    mean_grey = ops.mean(grey, axis=(1, 2), keepdims=True)
    saturated = saturation * images + (1.0 - saturation) * grey
    return brightness * (contrast * saturated + (1.0 - contrast) * mean_grey)


def light(images: Tensor, amounts: Tensor) -> Tensor:
    """Returns RGB images of 0 to 255 shifted by `amounts` (batch, 3) of the principal components of their colours."""
    shifts = ops.matmul(amounts * EIGENVALUES, EIGENVECTORS.T)
    return images + 255.0 * shifts[:, None, None, :]


def cut_out(images: Tensor, hole: Tensor, side: int) -> Tensor:
    """Returns normalised images with 0 in squares of `side` pixels whose centres are `hole` int32 (batch, 2)."""
    _, height, width, _ = images.shape
    starts = hole - side // 2
    rows = _between(ops.arange(height, dtype="int32"), starts[:, :1], starts[:, :1] + side)
    columns = _between(ops.arange(width, dtype="int32"), starts[:, 1:], starts[:, 1:] + side)
    return ops.where(_outer(ops.logical_and, rows, columns)[..., None], 0.0, images)


def resize(images: Tensor, side: int) -> Tensor:
    """Returns images of `side` x `side` pixels, bilinear with antialiasing: every pixel counts in a smaller image."""
    return ops.image.resize(images, (side, side), interpolation="bilinear", antialias=True)


def mix(
    images: Tensor, labels: Tensor | None, own: Tensor | None = None, box: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Returns images of which a share (mixup), or a box (cutmix), is their neighbour's, and labels in these shares.

    Images 0 and 1 are neighbours, 2 and 3, and so on. As batches are in random order that is a random partner, and
    one that every replica of a strategy has at hand.

    Args:
        images: An even number.
        labels: float32 (batch, classes), or None.
        own: float32 (batch,): an image's own share, or None for 1.
        box: int32 (batch, 4): top, left, bottom, right of what is the neighbour's, or None for none.
    """
    _, height, width, _ = images.shape
    other_images = _neighbours(images)
    share: Tensor = 1.0  # the image's own share of its pixels
    if own is not None:
        images, share = _blend(images, other_images, own[:, None, None, None]), own
    if box is not None:
        rows = _between(ops.arange(height, dtype="int32"), box[:, 0:1], box[:, 2:3])
        columns = _between(ops.arange(width, dtype="int32"), box[:, 1:2], box[:, 3:4])
        images = ops.where(_outer(ops.logical_and, rows, columns)[..., None], other_images, images)
        pixels = ops.cast((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]), "float32")
        share = share * (1.0 - pixels / (height * width))
    if labels is not None and (own is not None or box is not None):
        labels = _blend(labels, _neighbours(labels), share[:, None])
    return images, labels


def _neighbours(values):
    shape = tuple(values.shape[1:])
    pairs = ops.reshape(values, (-1, 2, *shape))
    return ops.reshape(ops.flip(pairs, axis=1), (-1, *shape))


def _blend(first, second, share):
    return share * first + (1.0 - share) * second


def _between(values, low, high):
    return ops.logical_and(values >= low, values < high)


def _outer(operation, rows, columns):
    """Returns `operation` of rows (batch, height) and columns (batch, width): (batch, height, width)."""
    return operation(rows[:, :, None], columns[:, None, :])


def _reflected(positions, size):
    positions = ops.absolute(positions)
    return ops.where(positions >= size, 2 * (size - 1) - positions, positions)
