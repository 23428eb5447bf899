"""A whole experiment: a network, a data set and a recipe become a run folder, from start or from where it stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_preact.data.dataset import DataLike, DataSet, held_out
from keras_preact.data.folders import check_outside
from keras_preact.errors import argument_error, check_arguments
from keras_preact.files import check_local, remove_asides
from keras_preact.locks import held
from keras_preact.names import check_lines, safe_name
from keras_preact.network.families import model_key
from keras_preact.training import remote_folder, run_folder
from keras_preact.training.callback_state import check_callbacks
from keras_preact.training.evaluation import loaded
from keras_preact.training.experiment import (
    FOREIGN,
    NETWORK_OPTIONS,
    RECIPE_FIELDS,
    Experiment,
    RunOptions,
    check_backend,
    check_batch,
    check_card,
    check_precision,
    named_recipe,
    spec_of,
    split_fields,
)
from keras_preact.training.fitting import Training
from keras_preact.training.processes import Clock
from keras_preact.training.recipe import Recipe
from keras_preact.training.signals import EndingSignals
from keras_preact.training.source import Trained, find_source
from keras_preact.training.strategies import make_devices
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike
from keras_preact.weights.cards import WEIGHTS, list_weights

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

RESUMES = "The same command resumes from the last checkpoint."


def train(
    model: str = "ResNet164",
    *,
    data: DataLike = "digits",
    data_dir: PathLike | None = None,
    skip_corrupt: bool = False,
    recipe: str | Recipe = "digits",
    start: Trained | None = None,
    output: PathLike | None = None,
    overwrite: bool = False,
    strategy: Strategy = "auto",
    checkpoint_steps: int = 0,
    model_options: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = (),
    verbose: str | int = "auto",
    **fields: Any,
) -> dict[str, Any]:
    """Trains a network and writes a run folder; the same call resumes a run that stopped.

    Args:
        model: A name of `keras_preact.list_models()`, in any case.
        data: A name of `keras_preact.data.DATA_SETS`, the path of a folder of images (`class/name.png`), or a
            `DataSet`.
        data_dir: Where the data set's files are, if not where its loader looks.
        skip_corrupt: Whether image files that cannot be read are left out.
        recipe: A name of `RECIPES`, or a `Recipe`.
        start: Trained weights to begin with, of this network or of a shallower one, which is deepened (see `deepen`): a
            network, a name of `list_weights()`, the folder of a finished run, or a `.keras` or `.weights.h5` file. The
            card holds their digest, and the seconds that both took.
        output: The run folder: `model.keras`, a SavedModel, `card.json` and its readable twin `card.md`,
            `history.csv`, `curves.png`, `checkpoints/`, a few test images. `runs/<model>.<data>.<recipe>` if None. At
            a URL (`gs://bucket/run`) it is kept equal to a local copy: see `remote_folder.local_copy`.
        overwrite: Whether a run folder of something else may be overwritten.
        strategy: A name of `strategies.STRATEGIES`.
        checkpoint_steps: Steps between checkpoints within an epoch, beside those at epoch ends; 0 for none.
        model_options: Keywords for the network's function, e.g. `{"ordering": "original"}`.
        callbacks: Further `keras.callbacks.Callback`s. A resumed run gives back what Keras' own count; one of yours
            that has `state_dict()` and `load_state_dict(state)` gets its state, which JSON must be able to hold.
        verbose: As in `keras.Model.fit`; `"auto"` draws a progress bar on a terminal, else prints one line per epoch.
        **fields: Fields of `Recipe` that differ from the recipe's, e.g. `steps=200, learning_rate=0.05`, and options of
            the network as in `model_options`: `ordering="original"`, `layout="layers"`, `family="cifar"`, ...

    Returns:
        The card as a dict, with what ran and `error_percent` on the test split after the last epoch. In a worker
        that is not the first, the card holds no error: the first measures.

    Raises:
        ValueError: If an argument is not allowed; nothing is written then.
        FloatingPointError: If the loss stops being finite.
        OSError: If a file cannot be written (disk full, no permission); the last checkpoint is intact.
    """
    clock = Clock()
    check_backend()
    if not isinstance(model, str) or model in list_weights():
        received = model if isinstance(model, str) else f"a {type(model).__name__}"
        raise argument_error("model", "the name of a network", received, "Trained weights go into start=.")
    own = [name for name in inspect.signature(train).parameters if name != "fields"]
    check_arguments("train", fields, [*own, *RECIPE_FIELDS, *NETWORK_OPTIONS], FOREIGN)
    fields, options = split_fields(fields, model_options)
    name, recipe = named_recipe(recipe, **fields)
    options = run_folder.plain_options(options)
    key = model_key(model, options.get("unit"))
    run_options = RunOptions(output, overwrite, strategy, checkpoint_steps, callbacks or (), verbose, clock)
    check_callbacks(run_options.callbacks, recipe)
    check_precision(recipe.precision)
    spec_of(key, options)
    begin = None if start is None else find_source(start, "start")
    data = loaded(data, data_dir, recipe.image_size, skip_corrupt)
    place, where = data.folder or data.name, data.data_dir
    experiment = Experiment(
        key, place, recipe, options, recipe_name=name, data_dir=where, skip_corrupt=skip_corrupt, start=begin
    )
    return carry_out(experiment, data, Training, run_options)


def carry_out(
    experiment: Experiment, data: DataSet, training_class: type[Training], run_options: RunOptions
) -> dict[str, Any]:
    """Runs an experiment as `train` describes, and returns its card.

    Args:
        experiment: An `Experiment`.
        data: A `DataSet`.
        training_class: The class `Training`, or one made of it.
        run_options: A `RunOptions`, whose callbacks, as the recipe's precision, have been checked.
    """
    recipe = experiment.recipe
    data = dataclasses.replace(data, class_names=tuple(check_lines("class_names", data.class_names)))
    if len(data.class_names) < 2:
        raise argument_error("data", "of two classes at least", f"{data.name}, of {len(data.class_names)}")
    check_card(experiment, data)
    experiment = dataclasses.replace(experiment, identity=run_folder.identity(data))
    validation = data
    if recipe.validation_images:
        data, validation = held_out(data, recipe.validation_images, recipe.seed)
    recipe.check_warmup(len(data.train) // recipe.global_batch_size)
    usual = pathlib.Path("runs") / f"{experiment.model}.{safe_name(data.name)}.{experiment.recipe_name}"
    output = remote_folder.without_scheme(str(run_options.output or usual))
    _check_output(output, experiment.weights, data)
    card = _trained(experiment, data, validation, training_class, run_options, output)
    # An exception that a callback keeps (matplotlib's parser does) holds the frames of `fit`, and TensorFlow's iterator
    # with them: at the end of the process that waits for the interpreter, a minute and more.
    gc.collect()
    return card


def _trained(experiment, data, validation, training_class, run_options, output):
    """Trains in a run folder, and returns its card."""
    recipe = experiment.recipe
    with remote_folder.local_copy(output) as (folder, push):
        folder = run_folder.check_folder(folder, experiment.plain(), run_options.overwrite)
        if (finished := run_folder.finished_card(folder, run_options.overwrite)) is not None:
            remove_asides(folder)
            log.info(f"{output} holds this run, finished: {finished['error_percent']:.2f} % test error.")
            return {**finished, "folder": output}
        with EndingSignals(RESUMES) as signals:
            devices = make_devices(run_options.strategy)
            signals.install()
            signals.at_once = devices.workers > 1
            check_batch(recipe, devices)
            with _alone(output, devices), _told_what_is_left(folder, output):
                # Another process may have been there.
                run_folder.check_folder(folder, experiment.plain(), run_options.overwrite)
                finished = run_folder.finished_card(folder, run_options.overwrite)
                if finished is not None and devices.workers == 1:
                    return {**finished, "folder": output}
                with devices.scope():
                    training = training_class(experiment, data, validation, devices, folder, push, run_options)
                    with signals.deferred():
                        training.fit(signals)
                    training.finish()
                    training.check_workers()
                # As the next call reads it from the file, which has no tuples.
                card = json.loads(json.dumps(training.card())) if devices.is_chief else experiment.plain()
            devices.barrier()
    return {**card, "folder": output}


def _check_output(output, weights, data):
    """Raises a `ValueError` if a run in `output` would overwrite weights or be among the images of `data`."""
    if remote_folder.is_remote(output):
        return
    folder = check_local("output", output).resolve()
    check_outside(data.folder, output)
    # Of weights in a run's folder or a file, the name is the path, resolved; all other names are relative to no folder.
    if weights is not None and pathlib.PurePath(weights.name).is_relative_to(folder):
        raise argument_error("output", "another folder than that of the weights which the run begins with", output)
    if (folder / WEIGHTS).is_file() and not (folder / run_folder.EXPERIMENT).is_file():
        raise argument_error("output", "a new folder, or a run's", output, "It holds trained weights that were kept.")


@contextlib.contextmanager
def _told_what_is_left(folder, output):
    """Names the last checkpoint in `output`, of which `folder` is the local copy, if training stops with an error."""
    try:
        yield
    except BrokenPipeError:  # of what is shown, whose reader went
        raise
    except (FloatingPointError, OSError) as error:
        last = max((path.name for path in (folder / run_folder.CHECKPOINTS).glob("[0-9]*")), default=None)
        left = (
            f"The last good checkpoint is {output}/{run_folder.CHECKPOINTS}/{last}."
            if last
            else "There is no checkpoint."
        )
        error_class = OSError if isinstance(error, OSError) else FloatingPointError
        raise error_class(f"{str(error).removesuffix('.')}. {left}") from error


def _alone(output, devices):
    """Returns the context in which no other process trains in `output`; the first of several workers speaks for all."""
    if not devices.is_chief:
        return contextlib.nullcontext()
    return held(remote_folder.lock_path(output), "output")
