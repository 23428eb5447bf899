"""Run by `test_torch.py`: builds, fits, saves and loads networks on torch, from weights that TensorFlow wrote."""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.exporting import Preprocessing

folder = pathlib.Path(sys.argv[1])
with np.load(folder / "expected.npz") as file:
    images, expected, loss = file["images"], file["probabilities"], float(file["loss"])
labels = np.arange(len(images)) % expected.shape[1]


def network(layout, file, **options):
    """Returns the network of a weights file."""
    return keras_preact.ResNet(29, input_shape=(16, 16, 1), layout=layout, weights=folder / file, **options)


def fitted(layout, **options):
    """Returns a network of the file's weights after two steps on torch, and its losses."""
    model = network(layout, "tensorflow.weights.h5", **options)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "sparse_categorical_crossentropy")
    losses = model.fit(images, labels, batch_size=len(images), epochs=2, shuffle=False, verbose=0).history["loss"]
    assert losses[1] < losses[0]
    return model, model.predict(images, verbose=0)


assert keras_preact.evaluate(network("stacked", "tensorflow.weights.h5"), "digits")["loss"] == pytest.approx(loss)
stacked, after = fitted("stacked")
for layout, options in (("layers", {}), ("stacked", {"remat": True})):
    np.testing.assert_allclose(fitted(layout, **options)[1], after, atol=1e-4)

stacked.save(folder / "torch.keras")
again = keras.models.load_model(folder / "torch.keras")
np.testing.assert_array_equal(again.predict(images, verbose=0), after)
assert int(again.optimizer.iterations) == 2
stacked.save_weights(folder / "torch.weights.h5")
np.testing.assert_allclose(network("layers", "torch.weights.h5").predict(images, verbose=0), after, atol=1e-5)

preprocessing, names = Preprocessing((16, 16), (127.5,), (60.0,)), [f"class {number}" for number in range(10)]
samples = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), "uint8")
given = {"preprocessing": preprocessing, "class_names": names, "sample_images": samples, "verbose": False}
report = keras_preact.export(stacked, folder / "export", "onnx", **given)
assert report["formats"]["onnx"]["probability_difference"] < 1e-5

dropped = keras_preact.ResNet(11, input_shape=(16, 16, 1), stochastic_depth=0.5)
outputs = [keras.ops.convert_to_numpy(dropped(images, training=True)) for _ in range(4)]
assert any(np.abs(output - outputs[0]).max() > 1e-4 for output in outputs), "nothing is drawn"

with pytest.raises(ValueError, match="Received: backend='torch'"):
    keras_preact.train("ResNet11", output=folder / "run")
assert not (folder / "run").exists()
print("torch: done")
