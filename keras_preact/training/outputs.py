"""What a finished run leaves: the model, its SavedModel, some images to try it on; and the versions that made it."""

import importlib.metadata
import platform

import keras
import numpy as np

from keras_preact import exporting
from keras_preact.files import written_aside
from keras_preact.training import run
from keras_preact.training.evaluation import measure
from keras_preact.version import __version__


def save(network, data, folder):
    """Writes the model's files, and returns the test error of the model read back from them."""
    with written_aside(folder / run.MODEL) as aside:
        network.save(aside)
    saved = keras.models.load_model(folder / run.MODEL, compile=False)
    error_percent = measure(saved, data)["error_percent"]
    preprocessing = exporting.Preprocessing(data.image_shape, data.mean, data.deviation, data.crop)
    if exporting.can_export():
        samples = data.test.read(np.arange(3))
        exporting.export_savedmodel(saved, folder / run.SAVED_MODEL, preprocessing, data.class_names, samples)
    _write_samples(data, folder / "samples")
    return error_percent


def preprocessing_fields(data):
    """Returns what a card says of how a data set's test images became the network's input."""
    fields = {"size": data.image_shape[:2], "mean": data.mean, "deviation": data.deviation}
    return {**fields, "crop": data.crop, "interpolation": "bicubic"}


def _write_samples(data, folder):
    """Writes the first test image of each of the first classes as PNG, to try predictions on."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    labels = list(data.test.labels)
    for label, name in list(enumerate(data.class_names))[:5]:
        if label in labels:
            image = data.test.read(np.array([labels.index(label)]))[0]
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"{name}.png")


def versions():
    """Returns the versions of this package, Python, Keras, its backend and NumPy, by name."""
    names = ("keras", keras.backend.backend(), "numpy")
    return {
        "keras_preact": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
