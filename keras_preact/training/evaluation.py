"""What a network is worth on test images, and the statistics of batch normalisation that it is judged with."""

import dataclasses
import itertools
import math

import keras

from keras_preact.data import ARRAYS, load
from keras_preact.data.augment import Augmentation
from keras_preact.data.batches import EvaluationBatches
from keras_preact.data.dataset import DataSet
from keras_preact.data.preparation import Preparation
from keras_preact.training import run_folder
from keras_preact.training.prefetch import Feed
from keras_preact.training.training_model import CROSSENTROPY, Crossentropy, ErrorPercent, TrainingModel

EVALUATION_BATCH = 256
OLD_STATISTICS = 0.01


def evaluate(folder, data=None, data_dir=None):
    """Measures a run's saved model on the test images again.

    Args:
        folder: The folder of a finished run.
        data: As in `train`, if not the run's.
        data_dir: As in `train`, if not the run's.

    Returns:
        {"error_percent": ..., "loss": ...}.

    Raises:
        ValueError: If `folder` holds no finished run, or the data set cannot be found.
    """
    card, network = run_folder.read_card(folder), run_folder.load_model(folder)
    data_dir = data_dir or (card.get("data_dir") if data is None else None)
    data = loaded(card["data"] if data is None else data, data_dir, card["recipe"].get("image_size"))
    seen = card["preprocessing"]  # another data set's images are normalised as the run's were
    data = dataclasses.replace(data, mean=tuple(seen["mean"]), std=tuple(seen["std"]))
    return measure(network, data)


def measure(network, data):
    """Returns {"error_percent": ..., "loss": ...} of a network of probabilities on a `DataSet`'s test images."""
    model = TrainingModel(network, Preparation(data, Augmentation()))
    model.compile(loss=Crossentropy(len(data.class_names)), weighted_metrics=evaluation_metrics())
    results = model.evaluate(EvaluationBatches(data, "test", EVALUATION_BATCH), verbose=0, return_dict=True)
    return {"error_percent": round(results["error_percent"], 4), "loss": round(results["loss"], 6)}


def loaded(data, data_dir, image_size, skip_corrupt=False):
    """Returns a `DataSet`, or the one that `data.load` finds by that name or path, files' images of `image_size`."""
    if isinstance(data, DataSet):
        return data
    size = image_size or None
    return load(data, data_dir, image_size=None if data in ARRAYS else size, skip_corrupt=skip_corrupt)


def evaluation_metrics():
    """Returns the metrics that count each image once: the error in % and the cross-entropy."""
    return [ErrorPercent(), keras.metrics.SparseCategoricalCrossentropy(name=CROSSENTROPY)]


def evaluation_data(data, devices):
    """Returns what `evaluate` reads, and in how many steps: every test image once, in full batches."""
    size = -(-EVALUATION_BATCH // devices.replicas) * devices.replicas
    batches = EvaluationBatches(data, "test", size, share=(devices.worker, devices.workers))

    def generate():
        for _ in itertools.count():
            yield from (batches[index] for index in range(len(batches)))

    return devices.dataset(generate, batches.spec()), len(batches)


def reestimate_statistics(model, batches, devices):
    """Measures the moving statistics of BN again, with the present weights: training steps of learning rate 0.

    There are as many steps as leave a hundredth of the old statistics: 44 at momentum 0.9.
    """
    momentum = model.network.spec.bn_momentum
    steps = math.ceil(math.log(OLD_STATISTICS) / math.log(momentum)) if momentum else 1
    still = type(model)(model.network, model.preparation)  # the kind that this strategy takes
    still.compile(keras.optimizers.SGD(0.0), Crossentropy(model.loss.classes), jit_compile=model.jit_compile)
    feed = Feed(batches)
    still.fit(devices.dataset(feed, batches.spec()), steps_per_epoch=steps, shuffle=False, verbose=0)
