"""On torch, networks are built, fitted, saved and loaded; all else is refused, and the refusal names the backend."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.exporting import Preprocessing
from keras_preact.laboratory.sweep import sweep
from keras_preact.laboratory.sweep.hypermodel import PreActHyperModel

PROGRAM = pathlib.Path(__file__).parents[1] / "programs" / "torch_backend.py"


@pytest.mark.parity
def test_torch_fits_and_keeps_what_tensorflow_began(tmp_path):
    """Needs torch, which the extra `parity` brings."""
    images = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype("float32")
    model = keras_preact.ResNet(29, input_shape=(16, 16, 1))
    model.save_weights(tmp_path / "tensorflow.weights.h5")
    expected = {"probabilities": model.predict(images, verbose=0), **keras_preact.evaluate(model, "digits")}
    np.savez(tmp_path / "expected.npz", images=images, **expected)
    done = subprocess.run([sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("torch: done")
    other = keras.models.load_model(tmp_path / "torch.keras")
    again = keras_preact.ResNet(29, weights=tmp_path / "torch.weights.h5", input_shape=(16, 16, 1))
    np.testing.assert_allclose(other.predict(images, verbose=0), again.predict(images, verbose=0), atol=1e-6)
    assert type(other.optimizer) is keras.optimizers.SGD
    other.fit(images, np.arange(len(images)), verbose=0)
    assert int(other.optimizer.iterations) == 3


@pytest.fixture
def torch(monkeypatch):
    """Lets the package believe that torch is Keras' backend."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")


RUNS = '"tensorflow" or "jax" for a run'
IMAGES = np.zeros((1, 8, 8, 3), "uint8")
REFUSED = {
    "train": (lambda model, path: keras_preact.train("ResNet11", output=path), RUNS),
    "finetune": (lambda model, path: keras_preact.finetune(model, "digits", output=path), RUNS),
    "sweep": (lambda model, path: sweep({"depth": [8]}, output=path), RUNS),
    "PreActHyperModel": (lambda model, path: PreActHyperModel(), RUNS),
    "reproduce_table": (lambda model, path: keras_preact.reproduce_table("table1", output=path), RUNS),
    "analyze": (lambda model, path: keras_preact.analyze(model, IMAGES), "one of tensorflow, jax"),
    "explain": (lambda model, path: keras_preact.explain(model, path.with_suffix(".html")), "one of tensorflow, jax"),
    "frozen_function": (lambda model, path: keras_preact.frozen_function(model), '"tensorflow" to freeze a network'),
    **{
        f"export {name}": (
            lambda model, path, name=name: keras_preact.export(
                model,
                path,
                name,
                preprocessing=Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3),
                class_names=list("abcd"),
                sample_images=IMAGES,
            ),
            '"onnx" on the torch backend',
        )
        for name in ("savedmodel", "litert", "litert_int8")
    },
}


@pytest.fixture(scope="module")
def model():
    return keras_preact.ResNet(11, input_shape=(8, 8, 3), num_classes=4)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_done_on_torch_is_refused_by_name(what, model, tmp_path, torch):
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message) as refused:
        call(model, tmp_path / "output")
    assert "torch" in str(refused.value)
    assert not list(tmp_path.iterdir())
