"""What a network is worth on test images, and the statistics of batch normalisation that it is judged with."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import math
import os
from typing import Any

import keras

from keras_preact.data import ALIASES, DATA_SETS, has_own_size, load
from keras_preact.data.augment import Augmentation
from keras_preact.data.batches import EvaluationBatches, TrainingBatches
from keras_preact.data.dataset import DataLike, DataSet
from keras_preact.data.files import FileSplit
from keras_preact.data.preparation import Preparation
from keras_preact.errors import argument_error
from keras_preact.network.checks import check_classifier, check_has_probabilities
from keras_preact.training.prefetch import Feed
from keras_preact.training.source import Source, Trained, find_source
from keras_preact.training.strategies import Devices
from keras_preact.training.training_model import Crossentropy, ErrorPercent, MeanCrossentropy, TrainingModel
from keras_preact.types import PathLike
from keras_preact.weights.cuts import cut

log = logging.getLogger(__name__)

EVALUATION_BATCH = 256  # images at most
OLD_STATISTICS = 0.01


def evaluate(
    model: Trained, data: DataLike | None = None, data_dir: PathLike | None = None, skip_corrupt: bool = False
) -> dict[str, float]:
    """Measures a trained network on test images.

    Args:
        model: A name of `list_weights()`, the folder of a run or of kept weights, a `.keras` or `.weights.h5` file, or
            a network.
        data: As in `train`; if None, what the network was trained on. Its images are normalised as the network's were,
            where that is known.
        data_dir: As in `train`, if the files are not where the run found them.
        skip_corrupt: As in `train`; where the network was trained so, it is so here.

    Returns:
        {"error_percent": ..., "loss": ...}.

    Raises:
        ValueError: If `model` is none of these, the data set cannot be found, or it has other classes or channels.
    """
    source = find_source(model, "model")
    if data is None:
        return evaluate_source(source, data_of(source, data_dir, skip_corrupt))
    return evaluate_source(source, fitting_data(source, data, data_dir, skip_corrupt))


def data_of(source: Source, data_dir: PathLike | None = None, skip_corrupt: bool = False) -> DataSet:
    """Returns the `DataSet` that weights were trained on.

    Args:
        source: A `Source`.
        data_dir: Where its files are, if not where the run found them; of a folder of images, that folder.
        skip_corrupt: Whether image files that cannot be read are left out, though they were not in training.

    Raises:
        ValueError: If the source does not say what it was trained on, or the data set is not there.
    """
    if source.data is None:
        raise argument_error("data", "given with a network that does not say what it was trained on", None)
    if source.data not in (*DATA_SETS, *ALIASES):  # a folder of images
        folder = source.data if data_dir is None else data_dir
        if not os.path.isdir(folder):
            expected = f"the folder of the images that {source.name} was trained on"
            hint = f"Its card calls them {source.data}. On the command line: --data-dir DIR."
            raise argument_error("data_dir", expected, data_dir and str(data_dir), hint)
        return fitting_data(source, folder, None, skip_corrupt)
    return fitting_data(source, source.data, data_dir or source.data_dir, skip_corrupt)


def fitting_data(
    source: Source, data: DataLike, data_dir: PathLike | None = None, skip_corrupt: bool = False
) -> DataSet:
    """Returns a data set, its image files resized and cut as those that a `Source` was trained on, if that is known."""
    how = source.preprocessing
    size = source.size if how is None else how.size
    if source.skip_corrupt and not isinstance(data, DataSet):  # of its own images, and of other folders
        skip_corrupt = skip_corrupt or data == source.data or data not in (*DATA_SETS, *ALIASES)
    data = loaded(data, data_dir, size, skip_corrupt)
    if how is None or not isinstance(data.test, FileSplit) or how.size != data.image_shape[:2]:
        return data
    if (how.transform, how.crop, how.interpolation) == ("ours", data.crop, data.interpolation):
        return data
    return dataclasses.replace(data, test=data.test.with_cut(functools.partial(cut, how=how)))


def evaluate_source(source: Source, data: DataSet) -> dict[str, float]:
    """Returns the error and the loss of a `Source` on a `DataSet`, as `evaluate` does."""
    network = source.load()
    check_classifier(network, source.name)
    check_has_probabilities(network, source.name)
    expected = (len(data.class_names), data.image_shape[-1])
    if (found := (network.output_shape[-1], source.channels)) != expected:
        received = "{}: {} classes and {} channels".format(data.name, *expected)
        raise argument_error("data", "of {} classes and images of {} channel(s), as the model".format(*found), received)
    check_classes(source, data)
    sides, size = network.input_shape[1:3], data.image_shape[:2]
    if any(side not in (None, found) for side, found in zip(sides, size)):
        received = "{}: {}x{}".format(data.name, *size)
        raise argument_error("data", "of images of {}x{}, as the model".format(*sides), received)
    return measure(network, source.normalized(data))


def check_classes(source: Source, data: DataSet) -> None:
    """Raises a `ValueError` if a class has another place in `data`, or others are there; warns if all names differ."""
    trained, found = source.classes, data.class_names
    if trained is None or tuple(trained) == tuple(found):
        return
    if len(trained) != len(found):
        raise argument_error("data", f"of the {len(trained)} classes that {source.name} was trained on", len(found))
    ours, theirs = next(pair for pair in zip(trained, found) if pair[0] != pair[1])
    if set(trained) & set(found):
        hint = "Give it the same classes in the same order: a class is known by its place."
        raise argument_error("data", f"of the classes that {source.name} was trained on, as {ours!r}", theirs, hint)
    log.warning(f"The classes of {data.name} have other names than those of {source.name}: {theirs!r} and {ours!r}.")


def measure(network: keras.Model, data: DataSet) -> dict[str, float]:
    """Returns {"error_percent": ..., "loss": ...} of a network of probabilities on a `DataSet`'s test images."""
    model = TrainingModel(network, Preparation(data, Augmentation()))
    model.compile(loss=Crossentropy(len(data.class_names)), weighted_metrics=evaluation_metrics())
    results = model.evaluate(EvaluationBatches(data, "test", batch_size(len(data.test))), verbose=0, return_dict=True)
    return {"error_percent": round(results["error_percent"], 4), "loss": round(results["loss"], 6)}


def loaded(
    data: DataLike, data_dir: PathLike | None, image_size: int | tuple[int, int] | None, skip_corrupt: bool = False
) -> DataSet:
    """Returns a `DataSet`, or the one that `data.load` finds by that name or path, files' images of `image_size`."""
    if isinstance(data, DataSet):
        for name, value in (("data_dir", data_dir), ("skip_corrupt", skip_corrupt or None)):
            if value is not None:
                raise argument_error(name, "left out with a DataSet, which is loaded already", str(value))
        return data
    if not isinstance(data, (str, os.PathLike)):
        hint = "keras_preact.from_arrays makes a DataSet of arrays."
        raise argument_error("data", "a name, a folder of images or a DataSet", f"a {type(data).__name__}", hint)
    size = image_size or None
    return load(data, data_dir, image_size=None if has_own_size(data) else size, skip_corrupt=skip_corrupt)


def evaluation_metrics() -> list[keras.metrics.Metric]:
    """Returns the metrics that count each image once: the error in % and the cross-entropy."""
    return [ErrorPercent(), MeanCrossentropy()]


def batch_size(count: int, replicas: int = 1) -> int:
    """Returns how many images are evaluated at a time, so that few are computed twice to fill the last batch up.

    Args:
        count: All images.
        replicas: The size is a multiple of it.
    """
    batches = -(-count // EVALUATION_BATCH)
    return -(-count // (batches * replicas)) * replicas


def evaluation_data(data: DataSet, devices: Devices) -> tuple[Any, int]:
    """Returns what `evaluate` reads, and in how many steps: every test image once, in full batches."""
    size = batch_size(len(data.test), devices.replicas)
    batches = EvaluationBatches(data, "test", size, share=(devices.worker, devices.workers))
    if keras.backend.backend() != "tensorflow":  # of a generator Keras sees the first two again, and not the last
        return batches, len(batches)

    def generate():
        for _ in itertools.count():
            yield from (batches[index] for index in range(len(batches)))

    return devices.dataset(generate, batches.spec()), len(batches)


def reestimate_statistics(model: TrainingModel, batches: TrainingBatches, devices: Devices) -> None:
    """Measures the moving statistics of BN again, with the present weights: training steps of learning rate 0.

    There are as many steps as leave a hundredth of the old statistics: 44 at momentum 0.9.
    """
    momentum = model.network.spec.bn_momentum
    steps = math.ceil(math.log(OLD_STATISTICS) / math.log(momentum)) if momentum else 1
    still = type(model)(model.network, model.preparation)  # the kind that this strategy takes
    still.compile(keras.optimizers.SGD(0.0), Crossentropy(model.loss.classes), jit_compile=model.jit_compile)
    feed = Feed(batches)
    with devices.own_errors():
        still.fit(devices.dataset(feed, batches.spec()), steps_per_epoch=steps, shuffle=False, verbose=0)
