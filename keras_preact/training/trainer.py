"""A whole experiment: a network, a data set and a recipe become a run folder."""

import dataclasses
import importlib.metadata
import pathlib
import platform
import sys
import time

import keras

from keras_preact import export
from keras_preact.data import load
from keras_preact.data.augment import Augmentation
from keras_preact.data.batches import TrainingBatches
from keras_preact.errors import argument_error
from keras_preact.files import written_aside
from keras_preact.training import run
from keras_preact.training.optimizers import make_optimizer, make_schedule
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import get_recipe
from keras_preact.training.strategies import check_batch, make_devices
from keras_preact.version import __version__
from keras_preact.zoo import get_model, model_key

EVALUATION_BATCH = 256


@keras.saving.register_keras_serializable(package="keras_preact")
class ErrorPercent(keras.metrics.MeanMetricWrapper):
    """Counts images whose most probable class is not their label, in % of all: the paper's test error."""

    def __init__(self, name="error_percent", dtype=None):
        super().__init__(_error_percent, name=name, dtype=dtype)

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype}


def _error_percent(labels, probabilities):
    return 100.0 * (1.0 - keras.metrics.sparse_categorical_accuracy(labels, probabilities))


def train(
    model="ResNet164",
    *,
    data="digits",
    recipe="digits",
    output=None,
    overwrite=False,
    strategy="auto",
    model_options=None,
    verbose="auto",
):
    """Trains a network from its start and writes a run folder; prints what it does and where things lie.

    Args:
        model: A name of `keras_preact.list_models()`, in any case.
        data: A name of `keras_preact.data.DATA_SETS`.
        recipe: A name of `RECIPES`, or a `Recipe`.
        output: The run folder: `model.keras`, a SavedModel, `card.json` and its readable twin `card.md`,
            `history.csv`, `curves.png`, a few test images. `runs/<model>.<data>.<recipe>` if None.
        overwrite: Whether a run folder that exists may be overwritten.
        strategy: A name of `strategies.STRATEGIES`.
        model_options: Keywords for the network's function, e.g. `{"ordering": "original"}`.
        verbose: As in `keras.Model.fit`; `"auto"` draws a progress bar on a terminal, else a line an epoch.

    Returns:
        The card, a dict: what ran, with what, and `error_percent` on the test split after the last epoch.

    Raises:
        ValueError: If an argument is not allowed; nothing is written then.
        FloatingPointError: If the loss stops being finite.
    """
    start = time.perf_counter()
    key = model_key(model)
    name = recipe if isinstance(recipe, str) else "custom"
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(recipe, Recipe):
        raise argument_error("recipe", "the name of a recipe, or a Recipe", recipe)
    data = load(data)
    folder = run.check_folder(output or pathlib.Path("runs") / f"{key}.{data.name}.{name}", overwrite)
    devices = make_devices(strategy)
    check_batch(recipe.global_batch_size, recipe.global_batch_size, devices.replicas)
    check_batch(len(data.test), EVALUATION_BATCH, devices.replicas)
    keras.utils.set_random_seed(recipe.seed)
    augmentation = Augmentation(crop_padding=recipe.crop_padding, flip=recipe.flip)
    batches = TrainingBatches(data, recipe.global_batch_size, recipe.seed, augmentation)
    with devices.scope():
        network = _network(key, data, recipe, model_options or {}, devices, len(batches))
    run.make_folder(folder)
    print(
        f"{network.name}, {network.count_params():,} parameters, on {data.name}: {len(data.train):,} training"
        f" and {len(data.test):,} test images; {devices.replicas} x {devices.kind} ({devices.name})"
    )
    fit_seconds = _fit(network, batches, recipe, folder, verbose)
    card = {
        "model": key,
        "data": data.name,
        "error_percent": _save(network, data, folder),
        "seconds": round(time.perf_counter() - start, 1),
        "images_per_second": round(recipe.epochs * len(batches) * recipe.global_batch_size / fit_seconds, 1),
        "recipe": {"name": name, **dataclasses.asdict(recipe)},
        "network": network.get_config(),
        "classes": list(data.class_names),
        "preprocessing": {"size": data.image_shape[:2], "mean": data.mean, "deviation": data.deviation},
        "devices": {"strategy": devices.name, "replicas": devices.replicas, "kind": devices.kind},
        "versions": _versions(),
        "command": " ".join(sys.argv),
    }
    run.write_card(folder, card)
    return {**card, "folder": str(folder)}


def evaluate(folder):
    """Measures a run's saved model on its data set's test split again; returns {"error_percent": ..., "loss": ...}."""
    card = run.read_card(folder)
    return _measured(run.load_model(folder), load(card["data"]))


def _network(key, data, recipe, options, devices, steps_per_epoch):
    """Returns the compiled network; to be called in the strategy's scope."""
    arguments = {
        "input_shape": data.image_shape,
        "num_classes": len(data.class_names),
        "dtype": recipe.precision,
        "bn_synchronized": recipe.bn_synchronized,
        **options,
    }
    network = get_model(key, **arguments)
    network.compile(
        make_optimizer(recipe, steps_per_epoch),
        _loss(recipe, len(data.class_names)),
        metrics=[ErrorPercent()],
        jit_compile=False if devices.strategy is not None else "auto",  # Keras cannot do XLA under a strategy
    )
    return network


def _fit(network, batches, recipe, folder, verbose):
    """Trains the network, and returns the seconds it took."""
    if verbose == "auto":
        verbose = 1 if sys.stdout.isatty() else 2
    data, start = batches.data, time.perf_counter()
    network.fit(
        batches.prepared(),
        epochs=recipe.epochs,
        shuffle=False,  # the batches have their own order
        validation_data=(data.normalized(data.test.images), data.test.labels),
        validation_batch_size=EVALUATION_BATCH,
        callbacks=[run.StopOnNonFiniteLoss(make_schedule(recipe, len(batches))), run.RunFiles(folder)],
        verbose=verbose,
    )
    return time.perf_counter() - start


def _loss(recipe, classes):
    if not recipe.label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy()
    return SmoothedCrossentropy(classes, recipe.label_smoothing)


@keras.saving.register_keras_serializable(package="keras_preact")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of whole-number labels, of which a share is spread over all classes."""

    def __init__(self, classes, label_smoothing, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes, self.label_smoothing = classes, label_smoothing

    def call(self, y_true, y_pred):
        labels = keras.ops.one_hot(keras.ops.reshape(y_true, (-1,)), self.classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(labels, y_pred, label_smoothing=self.label_smoothing)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "label_smoothing": self.label_smoothing}


def _save(network, data, folder):
    """Writes the model's files, and returns the test error of the model read back from them."""
    with written_aside(folder / run.MODEL) as aside:
        network.save(aside)
    saved = keras.models.load_model(folder / run.MODEL, compile=False)
    error_percent = _measured(saved, data)["error_percent"]
    preprocessing = export.Preprocessing(data.image_shape, data.mean, data.deviation)
    if export.can_export():
        export.export_savedmodel(saved, folder / run.SAVED_MODEL, preprocessing, data.class_names, data.test.images[:3])
    _write_samples(data, folder / "samples")
    return error_percent


def _measured(model, data):
    model.compile(loss="sparse_categorical_crossentropy", metrics=[ErrorPercent()])
    images = data.normalized(data.test.images)
    loss, error = model.evaluate(images, data.test.labels, batch_size=EVALUATION_BATCH, verbose=0)
    return {"error_percent": round(float(error), 4), "loss": round(float(loss), 6)}


def _write_samples(data, folder):
    """Writes the first test image of each of the first classes as PNG, to try predictions on."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for label, name in list(enumerate(data.class_names))[:5]:
        image = data.test.images[list(data.test.labels).index(label)]
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"{name}.png")


def _versions():
    names = ("keras", keras.backend.backend(), "numpy")
    return {
        "keras_preact": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }
