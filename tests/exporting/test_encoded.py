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
from keras_preact.exporting import Preprocessing, decoding, encoded, parity
from keras_preact.training.predictor import read_images


def photographs(count, height, width):
    """Smooth uint8 images in colour."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse])


def saved(picture, kind="png", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def check_pixels(contents, channels):
    decoded = decoding.decoded(tf.constant(contents), channels).numpy()
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, geometry.pixels(open_image(io.BytesIO(contents), channels)))
    return decoded


def test_files_of_a_network_of_unequal_sides_are_read_for_comparison_as_predict_reads_them(tmp_path):
    """One of them, on its side, is of another size than the others."""
    how = Preprocessing((12, 8), (110.0, 120.0, 130.0), (50.0, 60.0, 70.0))
    sent = encoded.files(photographs(2, 12, 8))
    for number, contents in enumerate(sent.values()):
        (tmp_path / f"{number}").write_bytes(contents)
    expected, _ = read_images([str(tmp_path / f"{number}") for number in range(len(sent))], how)
    np.testing.assert_allclose(parity._as_read(sent, how).astype(int), expected, atol=1)


def test_what_is_too_long_and_thin_is_no_image():
    how = Preprocessing((32, 32), (110.0, 120.0, 130.0), (50.0, 60.0, 70.0))
    files = [saved(Image.new("RGB", size, (40, 80, 120))) for size in ((16, 16), (1, 20_000), (1, 500))]
    images, whole = decoding.cut_files(tf.constant(files), how)
    assert whole.numpy().tolist() == [True, False, True]
    assert images.numpy().max(axis=(1, 2, 3)).tolist() == [120, 0, 120]


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
SEE_THROUGH = PICTURE.convert("RGBA")
SEE_THROUGH.putalpha(PICTURE.convert("L"))
# Two tags, of which the second is the orientation, 6.
TABLE = {
    order: order + struct.pack(f"{mark}IH" + 2 * "HHIHH", 8, 2, 0x10F, 3, 1, 9, 0, 0x112, 3, 1, 6, 0)
    for order, mark in ((b"II*\0", "<"), (b"MM\0*", ">"))
}


def deep_png(picture):
    """Returns a picture as a PNG file of three channels of 16 bits, which Pillow does not write."""
    pixels = np.asarray(picture).astype(">u2") * 257 + 3
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 16, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def cut_exif(count):
    return b"Exif\0\0" + TABLE[b"MM\0*"][:count]


def with_comment(contents):
    """Returns a JPEG file with a comment before all that it has."""
    comment = b"\xff\xfe" + struct.pack(">H", 3002) + bytes(range(250)) * 12
    return contents[:2] + comment + contents[2:]


WEBP = {
    "webp": saved(PICTURE, "webp", quality=80),
    "webp, transparent": saved(SEE_THROUGH, "webp", lossless=True, exact=True),
}
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
    "bmp, grey": saved(PICTURE.convert("L"), "bmp"),
    "bmp, palette": saved(PICTURE.quantize(16), "bmp"),
    "gif": saved(PICTURE.quantize(16), "gif"),
    **(WEBP if hasattr(tf.io, "decode_webp") else {}),  # older TensorFlow has none
    "png, 16 bits": deep_png(PICTURE),
    **{f"jpeg, turned, {k}": saved(PICTURE, "jpeg", exif=encoded.on_its_side(k)) for k in range(1, 9)},
    **{f"png, turned, {k}": saved(PICTURE, exif=encoded.on_its_side(k)) for k in (3, 6)},
    "jpeg, turned, little-endian": saved(PICTURE, "jpeg", exif=b"Exif\0\0" + TABLE[b"II*\0"]),
    "jpeg, turned, after a comment": with_comment(saved(PICTURE, "jpeg", exif=encoded.on_its_side(8))),
    "jpeg, an orientation that is none": saved(PICTURE, "jpeg", exif=encoded.on_its_side(77)),
    **{f"jpeg, EXIF cut after {k}": saved(PICTURE, "jpeg", exif=cut_exif(k)) for k in (0, 3, 8, 11, 20)},
}


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning:PIL")  # of Pillow, which shows the image all the same
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
