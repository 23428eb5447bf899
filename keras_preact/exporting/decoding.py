"""Image files in a TensorFlow graph, to the pixel as `data.files` reads them, for SavedModels.

JPEG, PNG, BMP, GIF and WebP, of which GIF's transparent pixels are black, and WebP's orientation is not looked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from keras_preact import bounds
from keras_preact.exporting.preprocessing import cut
from keras_preact.weights import cuts

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_preact.weights.preprocessing import Preprocessing

PNG, JPEG, RIFF, WEBP = b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"WEBP"  # how the files begin; WEBP at the byte 8
BMP = b"BM"
PNG_BITS = 24  # the byte that says how many bits a value has
GREY = (19595, 38470, 7471)  # of 65536: the weights of red, green and blue in Pillow's grey
EXIF_OF_JPEG, EXIF_OF_PNG = b"Exif\0\0", b"eXIf"  # what stands before the tags
HEAD = 1 << 17  # bytes in which they are looked for
ORIENTATION = 0x112


def cut_files(files: tf.Tensor, preprocessing: Preprocessing) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the images of files as the network's were cut, and which files are whole images.

    Args:
        files: Strings (batch,).
        preprocessing: A `Preprocessing` of 1 or 3 channels.

    Returns:
        float32 (batch, *input_shape) of 0 to 255, zeros for what is no whole image, and bool (batch,).
    """
    import tensorflow as tf

    shape = preprocessing.input_shape
    count = tf.size(files, tf.int64)

    @tf.autograph.experimental.do_not_convert
    def read(place, file):
        image = decoded(file, shape[-1])
        _, _, resized, _ = cuts.plan(preprocessing, tf.cast(tf.shape(image)[:2], "float64"), keras.ops)
        # As `cuts.cut` refuses what is too long and thin.
        most = tf.constant(bounds.SIDE**2, resized.dtype)
        with tf.control_dependencies([tf.debugging.assert_less_equal(tf.reduce_prod(resized), most)]):
            image = cut(tf.identity(image)[None], preprocessing)[0]
        return place, tf.ensure_shape(image, shape)

    # A data set, as nothing else in a graph goes on after an error; and one image more, as there may be none.
    images = tf.data.Dataset.from_tensor_slices(files).enumerate().map(read, num_parallel_calls=tf.data.AUTOTUNE)
    last = tf.data.Dataset.from_tensors((count, tf.zeros(shape)))
    places, images = images.ignore_errors().concatenate(last).batch(count + 1).get_single_element()
    places, sizes = places[:, None], tf.concat([[count + 1], tf.constant(shape, tf.int64)], 0)
    whole = tf.scatter_nd(places, tf.ones_like(places[:, 0]), [count + 1]) > 0
    return tf.ensure_shape(tf.scatter_nd(places, images, sizes)[:-1], (None, *shape)), whole[:-1]


def decoded(file: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns the pixels of an image file, uint8 (height, width, channels), as data sets of files are read.

    What is transparent lies on white, and the image is turned as its EXIF orientation says.
    """
    import tensorflow as tf

    def jpeg():
        return tf.io.decode_jpeg(file, 3, dct_method="INTEGER_ACCURATE")  # as Pillow decodes

    def other():
        return tf.io.decode_image(file, 3, expand_animations=False)

    is_png, is_jpeg = (tf.strings.substr(file, 0, len(begins)) == begins for begins in (PNG, JPEG))
    is_bmp = tf.strings.substr(file, 0, len(BMP)) == BMP
    kinds = [(is_png, lambda: _png_on_white(file)), (is_jpeg, jpeg), (is_bmp, lambda: _bmp(file))]
    if hasattr(tf.io, "decode_webp"):  # older TensorFlow has none
        is_webp = (tf.strings.substr(file, 0, 4) == RIFF) & (tf.strings.substr(file, 8, 4) == WEBP)
        kinds.append((is_webp, lambda: _webp_on_white(file)))
    rgb = tf.ensure_shape(tf.case(kinds, default=other), (None, None, 3))
    exif = tf.where(is_png, EXIF_OF_PNG, EXIF_OF_JPEG)
    rgb = _turned(rgb, tf.where(is_png | is_jpeg, _orientation(file, exif), 1))
    if channels == 3:
        return rgb
    # Pillow's grey. TensorFlow's own is another, of another formula, and it has none of CMYK.
    weighted = tf.reduce_sum(tf.cast(rgb, tf.int32) * GREY, axis=-1, keepdims=True)
    return tf.cast((weighted + 32768) // 65536, tf.uint8)


def _png_on_white(file):
    import tensorflow as tf

    pixels = tf.cast(tf.io.decode_png(file, 4), tf.int32)
    opacity = pixels[..., 3:]
    # Of fewer than 8 bits, TensorFlow gives what is nowhere transparent their highest number as opacity.
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(file, PNG_BITS, 1), tf.uint8)[0], tf.int32)
    opacity = tf.where(tf.reduce_all(opacity == tf.bitwise.left_shift(1, bits) - 1), 255, opacity)
    return _on_white(pixels[..., :3], opacity)


def _bmp(file):
    """Returns the pixels of a BMP; of 8 bits they are places in a palette, which TensorFlow takes for grey."""
    import tensorflow as tf

    def number(place, kind):
        return tf.cast(tf.io.decode_raw(tf.strings.substr(file, place, kind.size), kind)[0], tf.int32)

    def coloured():
        begin = 14 + number(14, tf.int32)  # after two headers
        palette = tf.io.decode_raw(tf.strings.substr(file, begin, number(10, tf.int32) - begin), tf.uint8)
        palette = tf.reshape(palette, (-1, 4))[:, 2::-1]  # blue, green, red, and nothing
        return tf.gather(palette, tf.cast(tf.io.decode_bmp(file)[..., 0], tf.int32))

    return tf.cond(number(28, tf.uint16) == 8, coloured, lambda: tf.io.decode_image(file, 3, expand_animations=False))


def _webp_on_white(file):
    import tensorflow as tf

    pixels = tf.cast(tf.io.decode_webp(file)[0], tf.int32)  # the first of its frames, of 3 channels or 4
    pixels = tf.concat([pixels, tf.fill(tf.concat([tf.shape(pixels)[:2], [1]], 0), 255)], -1)
    return _on_white(pixels[..., :3], pixels[..., 3:4])


def _on_white(pixels, opacity):
    """Returns pixels laid on white, uint8, with the whole numbers of Pillow's `alpha_composite`."""
    import tensorflow as tf

    sums = (pixels * opacity + 255 * (255 - opacity) + 128) * 128
    return tf.cast((sums // 256 + sums) // 32768, tf.uint8)


def _turned(image, orientation):
    """Returns an image (height, width, channels) upright."""
    import tensorflow as tf

    def on_its_side():
        return tf.transpose(image, (1, 0, 2))

    turns = [
        lambda: image,
        lambda: image[:, ::-1],
        lambda: image[::-1, ::-1],
        lambda: image[::-1],
        on_its_side,
        lambda: on_its_side()[:, ::-1],
        lambda: on_its_side()[::-1, ::-1],
        lambda: on_its_side()[::-1],
    ]
    return tf.ensure_shape(tf.switch_case(orientation - 1, turns, default=turns[0]), (None, None, 3))


def _orientation(file, exif):
    """Returns the EXIF orientation of a file, int32; 1 where there are no tags that begin after the bytes `exif`.

    Tags are a table of 12 bytes each: number, type, count, value. The first bytes say the order of all bytes, and where
    the table is.
    """
    import tensorflow as tf

    parts = tf.strings.split(tf.strings.substr(file, 0, HEAD), exif, maxsplit=1)
    found = tf.cast(tf.io.decode_raw(parts[-1], tf.uint8), tf.int64)
    found = tf.concat([found, tf.zeros(8, tf.int64)], 0)  # there may be nothing
    is_little = found[0] == ord("I")

    def numbers(digits):
        worth = [256**place for place in range(digits.shape[-1])]
        return tf.reduce_sum(digits * tf.where(is_little, tf.constant(worth, tf.int64), worth[::-1]), -1)

    start = tf.minimum(numbers(tf.ensure_shape(found[4:8], 4)), tf.size(found, tf.int64) - 2)
    length = 12 * numbers(tf.ensure_shape(found[start : start + 2], 2))
    table = found[start + 2 :][:length]
    table = tf.reshape(table[: 12 * (tf.size(table) // 12)], (-1, 12))
    values = tf.boolean_mask(numbers(table[:, 8:10]), numbers(table[:, :2]) == ORIENTATION)
    is_there = (tf.size(parts) > 1) & (tf.size(values) > 0)
    return tf.cast(tf.where(is_there, tf.concat([values, [1]], 0)[0], 1), tf.int32)
