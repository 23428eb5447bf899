"""A small network to export, images for it, and what Keras gives for them."""

import io

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_preact
from keras_preact.exporting import (
    Preprocessing,
)
from keras_preact.exporting.preprocessing import prepared
from keras_preact.network.spec import NetworkSpec

RGB = Preprocessing((16, 16), (110.0, 120.0, 130.0), (50.0, 60.0, 70.0))


FIVE = ("a", "b", "c", "d", "e")


def photographs(count=6, height=16, width=16, seed=0):
    """Smooth uint8 images, whose borders and channels differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).astype("float32")
    return np.asarray(tf.image.resize(coarse, (height, width), "bicubic")).clip(0, 255).astype("uint8")


def network(layout="stacked", dtype=None, **fields):
    """Returns a small network whose weights no symmetry hides and whose BNs have statistics."""
    spec = {"units": (1, 7, 2), "widths": (4, 4, 6), "stem": {"width": 4}, "unit": "basic", **fields}
    keras.utils.set_random_seed(0)
    model = keras_preact.build_network(
        NetworkSpec(**spec), input_shape=RGB.input_shape, num_classes=5, layout=layout, dtype=dtype
    )
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name.endswith(("gamma", "beta", "bias")):
            variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    for _ in range(3):
        model(prepared(photographs(8, seed=2), RGB), training=True)
    return model


def expected(model, images, preprocessing=RGB):
    outputs = [model.output, model.get_layer("pool").output]
    values = keras.Model(model.input, outputs)(prepared(images, preprocessing), training=False)
    probabilities, features = (np.asarray(tf.cast(value, tf.float64)) for value in values)
    kernel, bias = model.get_layer("predictions").get_weights()
    return {"probabilities": probabilities, "logits": features @ kernel + bias, "features": features}


def assert_close(found, wanted, bound=1e-5):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(np.asarray(found[name]) - value).max() <= bound * max(1.0, np.abs(value).max()), name


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))


def png(image, kind="png"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


GIVEN = {"preprocessing": RGB, "class_names": FIVE, "sample_images": photographs()}


def export_onnx(model, path, **arguments):
    return keras_preact.export(model, path, "onnx", **{**GIVEN, "verbose": False, **arguments})
