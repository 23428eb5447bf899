"""Image files in the SavedModel's signature `encoded`: their pixels are those that data sets of files are read as."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_preact.data import geometry
from keras_preact.data.files import open_image
from keras_preact.exporting import encoded, savedmodel


def photographs(count, height, width):
    """Smooth uint8 images in colour."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse])


def saved(picture, kind="png", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def check_pixels(contents, channels):
    decoded = savedmodel._decoded(tf.constant(contents), channels).numpy()
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, geometry.pixels(open_image(io.BytesIO(contents), channels)))
    return decoded


KINDS = encoded.files(photographs(1, 8, 8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_pillows_pixels(kind, channels):
    contents = encoded.files(photographs(len(KINDS), 45, 67))[kind]
    assert check_pixels(contents, channels).std() > 5  # of 255


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_of_few_bits_is_what_was_written(bits):
    levels = np.arange(2**bits).repeat(3)[None].repeat(2, 0)
    contents = encoded.grey_png((levels << (8 - bits)).astype("uint8")[..., None], bits)
    assert contents[24] == bits
    np.testing.assert_array_equal(check_pixels(contents, 1)[..., 0], levels * 255 // (2**bits - 1))


def with_chunk(contents, name, data):
    """Returns a PNG file with one chunk more before its pixels."""
    place = contents.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return contents[:place] + chunk + contents[place:]


PICTURE = Image.fromarray(photographs(1, 30, 41)[0])
OTHERS = {
    "jpeg, progressive": saved(PICTURE, "jpeg", progressive=True, quality=95),
    "jpeg, 4:4:4": saved(PICTURE, "jpeg", subsampling=0),
    "jpeg, CMYK, progressive": saved(PICTURE.convert("CMYK"), "jpeg", progressive=True),
    "png, palette of 4": saved(PICTURE.quantize(4)),
    "png, palette of 2": saved(PICTURE.quantize(2)),
    "png, palette, transparent": saved(PICTURE.quantize(4), transparency=bytes([255, 0, 90, 255])),
    "png, colour that is transparent": saved(PICTURE, transparency=PICTURE.getpixel((0, 0))),
    "png, a bit, one is transparent": with_chunk(saved(PICTURE.convert("1")), b"tRNS", struct.pack(">H", 1)),
    "png, grey and opacity": saved(PICTURE.convert("LA")),
    "bmp": saved(PICTURE, "bmp"),
    "gif": saved(PICTURE.quantize(16), "gif"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_too(kind, channels):
    check_pixels(OTHERS[kind], channels)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_in_a_png_lies_on_white_as_in_predict(mode, channels):
    picture = PICTURE.convert(mode)
    picture.putalpha(Image.fromarray(photographs(2, 30, 41)[1, ..., 0]))
    check_pixels(saved(picture), channels)
