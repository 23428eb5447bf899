"""SavedModels of both layouts and every precision, and the images of any size that they take."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from products import diagonals
from small_exports import FIVE, GIVEN, RGB, assert_close, expected, network, photographs, png

import keras_preact
from keras_preact.data.files import FileSplit
from keras_preact.exporting import (
    Preprocessing,
    export_savedmodel,
    parity,
    savedmodel,
)
from keras_preact.exporting.inference import inference_weights, outputs, stacked
from keras_preact.exporting.preprocessing import cut, prepared, resized
from keras_preact.exporting.savedmodel import write_savedmodel
from keras_preact.training.predictor import read_images


@pytest.mark.parametrize(("layout", "dtype"), diagonals(("layers", "stacked"), ("float32", "mixed_bfloat16"), every=2))
def test_a_savedmodel_of_either_layout_and_of_half_precision(layout, dtype, tmp_path):
    model, images = network(layout, dtype), photographs(5, 20, 28)
    export_savedmodel(model, tmp_path / "saved", RGB, FIVE, images)
    loaded = tf.saved_model.load(tmp_path / "saved")
    served, ours = loaded.serve(tf.constant(images)), expected(model, images)
    if dtype == "float32":
        assert_close(served, ours)
    else:  # a compiled function's operations are rounded elsewhere than eager ones, so both have errors of that size
        exact = network(layout, "float32")
        exact.set_weights(model.get_weights())
        for name, right in expected(exact, images).items():
            error, own_error = (np.abs(values[name] - right).max() for values in (served, ours))
            assert 0 < error < 1.5 * own_error < 0.05 * np.abs(right).max(), name
    jpeg = loaded.signatures["encoded"](encoded=tf.constant([png(images[0], "jpeg")]))
    decoded = np.asarray(Image.open(io.BytesIO(png(images[0], "jpeg"))))[None]
    np.testing.assert_allclose(jpeg["logits"], loaded.serve(images=decoded)["logits"], atol=1e-5)


def test_a_savedmodel_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    model, other = network(units=(1, 1, 1)), network(units=(1, 1, 1))
    other.set_weights([weight + 0.01 for weight in other.get_weights()])
    monkeypatch.setattr(savedmodel, "write_savedmodel", lambda _, *rest: write_savedmodel(other, *rest))
    with pytest.raises(parity.ParityError, match="The SavedModel differs"):
        export_savedmodel(model, tmp_path / "saved", RGB, FIVE, photographs())
    assert not list(tmp_path.iterdir())


def test_a_savedmodel_refuses_images_of_other_channels(tmp_path):
    """Three grey images hold as many numbers as one of three channels."""
    write_savedmodel(network(units=(1, 1, 1)), tmp_path / "saved", RGB, FIVE)
    serve = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    for shape in ((3, 16, 16, 1), (3, 20, 20, 1)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(images=tf.zeros(shape, tf.uint8))


def test_no_images_have_no_answers(tmp_path):
    write_savedmodel(network(), tmp_path / "saved", RGB, FIVE)
    loaded = tf.saved_model.load(tmp_path / "saved")
    given = [loaded.serve(tf.zeros((0, *size, 3), tf.uint8)) for size in ((16, 16), (20, 30), (0, 0))]
    for answers in (*given, loaded.serve_encoded(tf.zeros((0,), tf.string))):
        assert {name: tuple(value.shape) for name, value in answers.items()} == {
            "probabilities": (0, 5),
            "logits": (0, 5),
            "features": (0, 6),
        }


def test_files_are_cut_even_if_they_have_the_networks_size(tmp_path):
    """As those of a data set are; pixels of that size may have been cut already."""
    model, image = network(units=(1, 1, 1)), photographs(1)
    preprocessing = Preprocessing(RGB.size, RGB.mean, RGB.std, 0.8)
    report = keras_preact.export(
        model, tmp_path / "export", "savedmodel", **{**GIVEN, "preprocessing": preprocessing, "verbose": False}
    )
    assert report["formats"]["savedmodel"]["encoded_difference"] <= 1e-5
    loaded = tf.saved_model.load(tmp_path / "export" / "saved_model")
    assert_close(loaded.serve(tf.constant(image)), expected(model, image))
    centre = cut(image, preprocessing)
    assert np.abs(centre - image).max() > 10
    assert_close(loaded.serve_encoded(tf.constant([png(image[0])])), expected(model, centre))


@pytest.mark.parametrize(
    "dtype", ["mixed_bfloat16", *(pytest.param(dtype, marks=pytest.mark.long) for dtype in ("bfloat16", "float16"))]
)
def test_a_savedmodel_of_half_precision_answers_in_numbers_that_numpy_has(dtype, tmp_path):
    model = stacked(network(units=(1, 1, 1)), dtype)
    report = keras_preact.export(model, tmp_path / "export", "savedmodel", **{**GIVEN, "verbose": False})
    assert report["formats"]["savedmodel"]["probability_difference"] <= 2e-2
    loaded = tf.saved_model.load(tmp_path / "export" / "saved_model")
    assert {value.dtype for value in loaded.serve(tf.constant(photographs())).values()} == {tf.float32}
    assert parity.tolerance(model) > parity.tolerance(network(units=(1, 1, 1)))


def test_half_precision_rounds_where_the_model_does():
    model, images = network(dtype="mixed_bfloat16"), prepared(photographs(), RGB)
    found = outputs(model, inference_weights(model), images)["probabilities"]
    np.testing.assert_array_equal(found, model(images, training=False))


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.6])
@pytest.mark.parametrize("shape", [(16, 16, 3), (12, 18, 3)])
@pytest.mark.parametrize("size", [(48, 33), (33, 47), (20, 10), (12, 18)])
def test_images_of_any_size_are_cut_as_data_sets_of_files_are_read(size, shape, crop, tmp_path):
    images, paths = photographs(2, *size), [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, images):
        path.write_bytes(png(image))
    how = Preprocessing(shape[:2], RGB.mean, RGB.std, crop)
    files = FileSplit(paths, [0, 0], shape, round(min(shape[:2]) / crop)).read([0, 1])
    np.testing.assert_array_equal(read_images(paths, how)[0], files)
    traced = tf.function(
        lambda images: resized(images, how), input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)]
    )
    wanted = images if size == shape[:2] else files  # what has the network's size stays
    np.testing.assert_allclose(traced(images), wanted, atol=1)  # half a level may be rounded to the other side
    np.testing.assert_array_equal(resized(images, how), traced(images))


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (1.0,)},
        {"std": (0.0,) * 3},
        {"size": (16, 16, 3)},
        {"crop": 0.0},
        {"crop": 1.1},
        {"interpolation": "cubic"},
    ],
)
def test_preprocessing_must_make_sense(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Preprocessing(**{"size": (16, 16), "mean": (0.0,) * 3, "std": (1.0,) * 3, **values})


def test_a_savedmodel_costs_1001_layers_what_it_costs_164(tmp_path):
    sizes = []
    for build in (keras_preact.ResNet164, keras_preact.ResNet1001):
        model = build()
        write_savedmodel(model, tmp_path / model.name, Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3), range(10))
        sizes.append((tmp_path / model.name / "saved_model.pb").stat().st_size)
    assert sizes[1] < 1.02 * sizes[0] < 1e6
