"""What a finished run leaves: the model, its SavedModel, some images to try it on, and its card."""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib
import shutil
import sys
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_preact import exporting
from keras_preact.data.dataset import DataSet
from keras_preact.errors import ParityError
from keras_preact.files import file_digest, written_aside
from keras_preact.names import check_lines, command_line, dotted_name, safe_name
from keras_preact.network.model import ResidualNetwork
from keras_preact.training import run_folder
from keras_preact.training.evaluation import measure
from keras_preact.training.processes import chained, totals
from keras_preact.training.provenance import commit, device_name, versions
from keras_preact.training.strategies import read
from keras_preact.weights.cards import Card
from keras_preact.weights.preprocessing import Preprocessing

if TYPE_CHECKING:
    from keras_preact.training.experiment import Experiment
    from keras_preact.training.strategies import Devices

log = logging.getLogger(__name__)

SAMPLES = 3  # test images by which the SavedModel is compared with the network


def save(network: ResidualNetwork, data: DataSet, folder: pathlib.Path, experiment: Experiment) -> float:
    """Writes the model's files, and returns the test error of the model read back from them.

    `model.keras` is written twice, since the card in it says the error of the first one, read back.

    Args:
        network: The trained network; its `card` becomes that of the run.
        data: The `DataSet`.
        folder: The run's.
        experiment: The `Experiment`.

    Raises:
        FloatingPointError: If a weight, or the loss on the test images, is not finite; the run then has no card.
    """
    check_finite(network)
    _write_model(network, folder)
    saved = keras.models.load_model(folder / run_folder.MODEL, compile=False)
    measured = measure(saved, data)
    if not math.isfinite(measured["loss"]):
        raise FloatingPointError(f"The loss on the test images is {measured['loss']}, with finite weights.")
    error_percent = measured["error_percent"]
    size = (folder / run_folder.MODEL).stat().st_size
    network.card = saved.card = _weights_card(network, data, experiment, error_percent, size)
    _write_model(network, folder)
    _write_savedmodel(saved, data, folder / run_folder.SAVED_MODEL)
    _write_samples(data, folder / "samples")
    return error_percent


def _write_savedmodel(network, data, path):
    """Writes a SavedModel, if one can be had that computes what the network does; a warning says if not."""
    shutil.rmtree(path, ignore_errors=True)  # one that a killed process left
    if not exporting.can_export():
        return
    preprocessing = Preprocessing(**preprocessing_fields(data))
    samples = data.test.read(np.arange(min(SAMPLES, len(data.test))))
    try:
        exporting.export_savedmodel(network, path, preprocessing, data.class_names, samples)
    except ParityError as error:
        log.warning(f"The run has no {run_folder.SAVED_MODEL}/: {error}")


def check_finite(network: keras.Model) -> None:
    """Raises a `FloatingPointError` that names a variable of a network which holds values that are not finite."""
    for variable in network.variables:
        if not np.isfinite(read(variable).astype("float64")).all():
            raise FloatingPointError(f"{variable.path} holds values that are not finite at the end of the training.")


def run_card(
    experiment: Experiment,
    network: ResidualNetwork,
    data: DataSet,
    folder: pathlib.Path,
    devices: Devices,
    error_percent: float,
    processes: list[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the card of a finished run, as JSON holds it.

    Args:
        experiment: The `Experiment`.
        network: The trained network.
        data: The `DataSet`.
        folder: The run's, with `model.keras` in it.
        devices: The run's `Devices`.
        error_percent: What `save` returned.
        processes: What `Processes.plain` returned.
    """
    known = {"strategy": devices.name, "replicas": devices.replicas, "kind": devices.kind, "name": device_name()}
    return {
        **experiment.plain(),
        "data_dir": experiment.data_dir,
        "skip_corrupt": experiment.skip_corrupt,
        "error_percent": error_percent,
        "digest": file_digest(folder / run_folder.MODEL),
        **totals(processes),
        **chained(totals(processes), experiment.weights),
        "network": network.construction(),
        "classes": list(data.class_names),
        "preprocessing": preprocessing_fields(data),
        "devices": known,
        "versions": versions(),
        "commit": commit(),
        "processes": processes,
        "command": command_line(sys.argv),
    }


def _write_model(network, folder):
    with written_aside(folder / run_folder.MODEL) as aside:
        network.save(aside)


def _weights_card(network, data, experiment, error_percent, size):
    """Returns the `Card` by which a run's `model.keras` says what it was trained on, and how."""
    recipe = experiment.recipe
    return Card(
        name=dotted_name(experiment.model, data.name, experiment.recipe_name),
        network=experiment.model,
        dataset=safe_name(data.name),
        author="",
        licence="",
        recipe=f"{recipe.source}; seed {recipe.seed}",
        error_percent=error_percent,
        published=f"test error {error_percent} % after the last epoch, one run",
        preprocessing=Preprocessing(**preprocessing_fields(data)),
        classes=tuple(check_lines("class_names", data.class_names)),
        megabytes=round(size / 1e6, 1),
        spec=network.spec.to_dict(),
    )


def preprocessing_fields(data: DataSet) -> dict[str, Any]:
    """Returns what a card says of how a data set's test images became the network's input, as JSON holds it.

    Raises:
        ValueError: If a reader of the card would refuse it; called before the first step for that.
    """
    height, width, _ = data.image_shape
    seen = Preprocessing((height, width), data.mean, data.std, data.crop, data.interpolation)
    return dataclasses.asdict(seen)


def _write_samples(data, folder):
    """Writes the first test image of each of the first classes as PNG, to try predictions on; grey or RGB ones."""
    from PIL import Image

    with written_aside(folder) as aside:
        aside.mkdir()
        labels, written = list(data.test.labels), set()
        for label, class_name in list(enumerate(data.class_names))[:5]:
            if label in labels and data.image_shape[-1] in (1, 3):
                name = safe_name(class_name)
                name = f"{name}_{label}" if name.lower() in written else name
                written.add(name.lower())
                image = data.test.read(np.array([labels.index(label)]))[0]
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(aside / f"{name}.png")
