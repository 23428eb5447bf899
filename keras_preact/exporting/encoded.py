"""Image files of every kind that people send: what the SavedModel's signature `encoded` is tried on."""

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image


def files(images: np.ndarray) -> dict[str, bytes]:
    """Returns image files (bytes) of uint8 images (images, height, width, 1 or 3), by the name of their kind.

    Each kind shows one of the images, in turn.
    """
    kinds: dict[str, Callable[[np.ndarray], bytes]] = {
        "png": _saved,
        "png, transparent": functools.partial(_saved, mode="RGBA", alpha=True),
        "png, palette": functools.partial(_saved, mode="P"),
        **{f"png, grey, {bits} bits": functools.partial(grey_png, bits=bits) for bits in (1, 2, 4, 8)},
        "png, grey, 16 bits": functools.partial(_saved, mode="I;16"),
        **{f"jpeg, {mode}": functools.partial(_saved, kind="jpeg", mode=mode) for mode in ("RGB", "L", "CMYK")},
        "jpeg, on its side": functools.partial(_saved, kind="jpeg", exif=on_its_side()),
    }
    return {kind: write(images[number % len(images)]) for number, (kind, write) in enumerate(kinds.items())}


def on_its_side(orientation: int = 6) -> Image.Exif:
    """Returns the EXIF data of a photo whose camera was held so; 6 for a quarter turn to the left."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def _saved(image, kind="png", mode=None, alpha=False, **options):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode or picture.mode)
    if alpha:
        picture.putalpha(picture.convert("L"))
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def grey_png(image: np.ndarray, bits: int) -> bytes:
    """Returns an image as a grey PNG file of 1, 2, 4 or 8 bits a pixel, of which Pillow writes 1 and 8 only."""
    grey = np.asarray(image).mean(axis=-1).astype("uint8") >> (8 - bits)
    each = np.unpackbits(grey[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(each.reshape(len(grey), -1), axis=-1)
    rows = np.concatenate([np.zeros((len(rows), 1), "uint8"), rows], axis=1)  # each is filtered by nothing
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], bits, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows.tobytes()), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
