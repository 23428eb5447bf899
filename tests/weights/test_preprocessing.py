"""What is served is what was trained on, and a card's images are its author's, to the pixel."""

import dataclasses
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits as scikit_learns

import keras_preact
from keras_preact import exporting
from keras_preact.data import from_arrays, load
from keras_preact.exporting import preprocessing as in_graph
from keras_preact.training.finish import preprocessing_fields
from keras_preact.training.predictor import read_images
from keras_preact.training.recipes import RECIPES
from keras_preact.weights import cuts
from keras_preact.weights.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
SIZES = [(50, 75), (91, 60), (31, 24), (25, 24), (24, 25), (100, 237), (30, 30)]


def photograph(height, width):
    return RNG.integers(256, size=(height, width, 3), dtype=np.uint8)


def in_every_way(image, how):
    """Returns an image cut by NumPy and Pillow, by Keras, and by a graph that learns the size when it runs."""
    signature = [tf.TensorSpec((None, None, None, how.channels), tf.uint8)]
    traced = tf.function(lambda images: in_graph.cut(images, how), input_signature=signature)
    eager = keras.ops.convert_to_numpy(in_graph.cut(image[None], how))[0]
    return cuts.cut(image, how).astype("float64"), eager, traced(image[None]).numpy()[0]


def torchvisions(image, size, shorter, interpolation):
    """`Resize(shorter)` and `CenterCrop(size)` of torchvision, line by line."""
    height, width = image.shape[:2]
    new = (shorter, int(shorter * height / width)) if width <= height else (int(shorter * width / height), shorter)
    resized = np.asarray(Image.fromarray(image).resize(new, interpolation))
    top, left = round((new[1] - size) / 2.0), round((new[0] - size) / 2.0)
    return resized[top : top + size, left : left + size]


@pytest.mark.parametrize("crop", [0.95, 0.9, 0.875, 1.0])
@pytest.mark.parametrize("shape", SIZES)
def test_timms_cards_have_timms_pixels(shape, crop):
    image, how = photograph(*shape), Preprocessing((24, 24), (0.0,) * 3, (1.0,) * 3, crop, "bicubic", "timm")
    expected = torchvisions(image, 24, int(24 // crop), Image.Resampling.BICUBIC)
    prepared, *served = in_every_way(image, how)
    np.testing.assert_array_equal(prepared, expected)
    for found in served:  # in float32, where Pillow's weights have 22 bits: a half may be rounded to the other side
        assert np.abs(found - expected).max() <= 1
        assert np.mean(found != expected) < 0.01


def test_timms_photograph_has_a_shorter_side_of_235():
    card, image = keras_preact.get_card("resnet50.imagenet.timm_a1h"), photograph(500, 333)
    expected = torchvisions(image, 224, 235, Image.Resampling.BICUBIC)
    np.testing.assert_allclose(keras_preact.preprocess_input(image[None], card)[0], expected / 127.5 - 1.0, atol=1e-6)


# What OpenCV 5.0.0 makes of two images, cut to 8 x 8 as osmr's code does it (size / crop, 9.14, is rounded up).
OPENCV = (
    "7a9f465d82a791658aa0486d83a850668bb0496e93aa5176799e655c81a69d64899f476c82a74f658aaf486d92a95075789d575b80a5"
    "a863889e466b81a64e6489ae476c91a84f74779c4a5a7fa4b462879dbc6a80a54d6388ad466b90a74e73769b49597ea3b361869cbb69"
    "7fa44c6288ac456a8fa64d72759a54587da2a660859bae687fa34b6186ac57698ea54d71749960577ca1985f849ba0677ea34a6186ab"
    "63698ea44c7173986c567ba08b5e839a93667da1496085aa6e688da34b6f",
    "2a476c5f848eac4a618f537882a76b84aa48637da2989ec480a5325277678280a55f678c52777fa0807da9466b7a9fa0919674974753"
    "7d668b769b67698e5a757a9f947a9f456a7e606f9495688d5b577c648971967c638b587e799e9d72984d79436873789d618664567b6c"
    "886e93915e83577c7aa2b167a7486d584f74769c59837853766b906f9499557a5f7b80a57196af4368604c717f9a597e8d4b70698e6e"
    "9aad4b6c5e8372797594ae3967744b697da25c81953f65728d769bc23b60",
)


@pytest.mark.parametrize(("shape", "pixels"), [((19, 26), OPENCV[0]), ((9, 31), OPENCV[1])])
def test_osmrs_cards_have_opencvs_pixels(shape, pixels):
    image = (np.arange(3 * shape[0] * shape[1]).reshape(*shape, 3) * 37 % 251).astype("uint8")
    how = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, 0.875, "bilinear", "osmr")
    expected = np.frombuffer(bytes.fromhex(pixels), np.uint8).reshape(8, 8, 3)
    for found in in_every_way(image, how):
        np.testing.assert_array_equal(found, expected)
    unrounded = cuts.cut(image.astype("float32"), how)
    np.testing.assert_allclose(unrounded, expected, atol=1.1)


@pytest.mark.parametrize("shape", SIZES)
def test_keras_cards_have_tf_slims_pixels(shape):
    """`preprocess_for_eval` of TF-slim's inception_preprocessing."""
    image, how = photograph(*shape), Preprocessing((24, 24), (0.0,) * 3, (1.0,) * 3, 0.875, "bilinear", "slim")
    expected = tf.image.central_crop(tf.cast(image, tf.float32) / 255.0, central_fraction=0.875)
    expected = tf.compat.v1.image.resize_bilinear(expected[None], (24, 24), align_corners=False)[0]
    for found in in_every_way(image, how):
        np.testing.assert_allclose(found, 255.0 * expected, atol=1e-3)


def test_the_graph_normalizes_as_arrays_are_normalized():
    images, how = photograph(9, 7)[None], Preprocessing((9, 7), (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))
    expected = (images.astype("float64") - how.mean) / how.std
    card = dataclasses.replace(keras_preact.get_card("resnet164.cifar10.modern_cifar"), preprocessing=how)
    arrays = keras_preact.preprocess_input(images, card)
    np.testing.assert_allclose(arrays, expected, rtol=1e-6, atol=1e-6)
    traced = tf.function(lambda images: in_graph.normalized(images, how))
    for found in (in_graph.normalized(images, how), traced(images), in_graph.prepared(images, how)):
        np.testing.assert_allclose(found, arrays, rtol=3e-7, atol=3e-7)


def test_there_is_one_class_whose_default_is_how_image_files_are_resized():
    assert exporting.Preprocessing is keras_preact.Preprocessing is Preprocessing
    assert (
        Preprocessing((8, 8), (0.0,), (1.0,)).interpolation
        == from_arrays(*[np.ones((2, 8, 8)), [0, 1]] * 2).interpolation
    )


def test_images_are_prepared_for_the_size_of_the_network():
    network = keras_preact.ResNet164(weights="digits", input_shape=(24, 24, 1))
    images = np.random.default_rng(0).integers(256, size=(2, 24, 24, 1), dtype=np.uint8)
    expected = (images - np.float32(network.card.preprocessing.mean)) / np.float32(network.card.preprocessing.std)
    np.testing.assert_allclose(keras_preact.preprocess_input(images, network), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="`card` must be a network of 1 channels, as its card"):
        keras_preact.preprocess_input(images, keras_preact.ResNet164(weights="digits", input_shape=(24, 24, 3)))


def test_each_card_is_cut_as_its_author_does():
    for name in keras_preact.list_weights(data="imagenet"):
        author = name.split(".")[2]
        transform = keras_preact.get_card(name).preprocessing.transform
        assert transform == {"keras_applications": "slim", "timm_a1h": "timm"}.get(author, "osmr")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": "tim"}, r'transform.*Nearest: "timm"'),
        ({"transform": "osmr", "interpolation": "bicubic"}, r'interpolation.*"bilinear" with transform="osmr"'),
    ],
)
def test_a_wrong_transform_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing((8, 8), (0.0,), (1.0,), **fields)


# Each data set, and the files that its test images are made of.


def digits(folder, image_size):
    data, scans = load("digits"), np.rint(scikit_learns().data.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    bilinear = [np.asarray(Image.fromarray(scan).resize((16, 16), Image.Resampling.BILINEAR)) for scan in scans]
    places = {image.tobytes(): number for number, image in enumerate(bilinear)}
    return data, [scans[places[image.tobytes()]] for image in data.test.images]


def arrays(folder, image_size):
    images = RNG.integers(256, size=(6, 12, 18, 3), dtype=np.uint8)
    return from_arrays(images, np.arange(6) % 2, images, np.arange(6) % 2), images


def written(folder, split, shapes):
    """Writes images of two classes; returns those of a split in the order in which they are read."""
    images = [photograph(*shape) for shape in shapes]
    for number, image in enumerate(images):
        path = folder / split / "ab"[2 * number // len(images)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return images


def folder_of_one_size(folder, image_size):
    written(folder, "train", [(30, 26)] * 4)
    images = written(folder, "test", [(30, 26)] * 4)
    return load(str(folder), image_size=image_size), images


def folder_of_many_sizes(folder, image_size):
    written(folder, "train", SIZES[:4])
    images = written(folder, "test", [*SIZES, (image_size or 24,) * 2])
    return load(str(folder), image_size=image_size or (24, 30)), images


def imagenet(folder, image_size):
    written(folder, "train", SIZES[:4])
    images = written(folder, "val", [*SIZES[:3], (224, 224)])
    return load("imagenet", folder, image_size=image_size), images


DATA = {each.__name__: each for each in (digits, arrays, folder_of_one_size, folder_of_many_sizes, imagenet)}
RECIPE_SIZES = sorted({recipe.image_size or None for recipe in RECIPES.values()}, key=bool)
CASES = [
    (name, size) for name in DATA for size in RECIPE_SIZES if size is None or name not in ("digits", "arrays")
]  # those two have a size of their own


@pytest.mark.parametrize(("name", "image_size"), CASES)
def test_what_is_served_is_what_was_trained_on(name, image_size, tmp_path):
    """By `predict`, by the SavedModel, and by the weights when they are kept: of every data set, at a recipe's size."""
    data, originals = DATA[name](tmp_path / "data", image_size)
    how = Preprocessing(**preprocessing_fields(data))
    seen = data.test.read(np.arange(len(data.test)))
    different = pixels = 0
    for original, expected in zip(originals[:40], seen):
        file = tmp_path / "image.png"
        file.write_bytes(png(original))
        np.testing.assert_array_equal(read_images([file], how)[0][0], expected)
        original = original[..., None] if original.ndim == 2 else original
        for found in in_every_way(original, how):
            assert np.abs(found - expected).max() <= 1
            different, pixels = different + (found != expected).sum(), pixels + expected.size
        if original.shape != data.image_shape:
            card = dataclasses.replace(keras_preact.get_card("resnet164.digits.digits"), preprocessing=how)
            prepared = keras_preact.preprocess_input([original], card)[0]
            np.testing.assert_array_equal(prepared, data.normalized(expected))
    assert different <= 0.002 * pixels


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def test_the_digits_card_says_how_they_were_enlarged():
    card, data = keras_preact.get_card("resnet164.digits.digits"), load("digits")
    assert card.preprocessing == Preprocessing(**preprocessing_fields(data))
    assert card.preprocessing.interpolation == data.interpolation == "bilinear"
