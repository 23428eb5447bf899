"""A whole experiment: a network, a data set and a recipe become a run folder, from start or from where it stopped."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import inspect
import logging
import pathlib
import sys

import keras
import numpy as np

from keras_preact.data.batches import TrainingBatches
from keras_preact.data.dataset import ArraySplit, held_out
from keras_preact.data.preparation import Preparation
from keras_preact.errors import check_arguments
from keras_preact.files import file_digest, remove_asides
from keras_preact.locks import held
from keras_preact.names import check_lines, command_line, safe_name
from keras_preact.network.deepening import deepen
from keras_preact.network.families import model_key
from keras_preact.training import callbacks as own
from keras_preact.training import checkpoints, finish, remote_folder, run_folder
from keras_preact.training.evaluation import evaluation_data, evaluation_metrics, loaded, reestimate_statistics
from keras_preact.training.experiment import (
    Experiment,
    RunOptions,
    check_backend,
    check_batch,
    check_card,
    check_precision,
    named_recipe,
)
from keras_preact.training.levels import begin_with, check_levels, level_at, levels_of, of_depth
from keras_preact.training.muon import Muon
from keras_preact.training.optimizers import RecipeSGD, make_optimizer, make_schedule
from keras_preact.training.prefetch import Feed
from keras_preact.training.processes import Clock, Processes, chained, totals
from keras_preact.training.provenance import commit, device_name, versions
from keras_preact.training.recipe import Recipe
from keras_preact.training.signals import EndingSignals
from keras_preact.training.source import find_source
from keras_preact.training.strategies import make_devices, read
from keras_preact.training.training_model import Crossentropy, MultiWorkerModel, TrainingModel, loss_dtype
from keras_preact.zoo import get_model

log = logging.getLogger(__name__)

RESUMES = "The same command resumes from the last checkpoint."
RESIDENT_BYTES = 1 << 30  # a data set up to here lives on an accelerator


def train(
    model="ResNet164",
    *,
    data="digits",
    data_dir=None,
    skip_corrupt=False,
    recipe="digits",
    start=None,
    output=None,
    overwrite=False,
    strategy="auto",
    checkpoint_steps=0,
    model_options=None,
    callbacks=(),
    verbose="auto",
    **fields,
):
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
        callbacks: Further `keras.callbacks.Callback`s.
        verbose: As in `keras.Model.fit`; `"auto"` draws a progress bar on a terminal, else prints one line per epoch.
        **fields: Fields of `Recipe` that differ from the recipe's, e.g. `steps=200, learning_rate=0.05`.

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
    key = model_key(model)
    own = [name for name in inspect.signature(train).parameters if name != "fields"]
    check_arguments("train", fields, [*own, *(field.name for field in dataclasses.fields(Recipe))])
    name, recipe = named_recipe(recipe, **fields)
    options = run_folder.plain_options(model_options)
    data = loaded(data, data_dir, recipe.image_size, skip_corrupt)
    where, begin = str(data_dir) if data_dir else None, None if start is None else find_source(start)
    experiment = Experiment(key, data.folder or data.name, where, name, recipe, options, start=begin)
    run_options = RunOptions(output, overwrite, strategy, checkpoint_steps, callbacks, verbose, clock)
    return carry_out(experiment, data, Training, run_options)


def carry_out(experiment, data, kind, run_options):
    """Runs an experiment as `train` describes, and returns its card.

    Args:
        experiment: An `Experiment`.
        data: A `DataSet`.
        kind: The class `Training`, or one made of it.
        run_options: A `RunOptions`.
    """
    recipe = experiment.recipe
    check_precision(recipe.precision)
    data = dataclasses.replace(data, class_names=tuple(check_lines("class_names", data.class_names)))
    check_card(experiment, data)
    experiment = dataclasses.replace(experiment, identity=run_folder.identity(data))
    validation = data
    if recipe.validation_images:
        data, validation = held_out(data, recipe.validation_images, recipe.seed)
    usual = pathlib.Path("runs") / f"{experiment.key}.{safe_name(data.name)}.{experiment.recipe_name}"
    output = remote_folder.without_scheme(str(run_options.output or usual))
    with remote_folder.local_copy(output) as (folder, keep):
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
                run_folder.check_folder(
                    folder, experiment.plain(), run_options.overwrite
                )  # another may have been there
                with devices.scope():
                    training = kind(experiment, data, validation, devices, folder, keep, run_options)
                    with signals.deferred():
                        training.fit(signals)
                    training.finish()
                    training.check_workers()
                card = training.card() if devices.is_chief else experiment.plain()
            devices.barrier()
    return {**card, "folder": output}


class Training:
    """Builds and trains one experiment's network; a helper of `train`, in the scope of its devices.

    Attributes:
        fixed_statistics: Whether BN's moving statistics are used, and left alone, in training too.
    """

    fixed_statistics = False

    def __init__(self, experiment, data, validation, devices, folder, keep, run_options):
        recipe, augmentation = experiment.recipe, experiment.recipe.augmentation()
        self.experiment, self.recipe, self.data, self.validation = experiment, recipe, data, validation
        self.devices, self.folder, self.keep, self.run_options = devices, folder, keep, run_options
        keras.utils.set_random_seed(recipe.seed)
        share = (devices.worker, devices.workers)
        self.resident = _can_reside(data, augmentation) and devices.kind != "CPU"
        self.batches = TrainingBatches(
            data, recipe.global_batch_size, recipe.seed, augmentation, share=share, resident=self.resident
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.total_steps = recipe.total_steps(self.steps_per_epoch)
        self.levels, self.level = levels_of(recipe, self.steps_per_epoch), 0
        network = self.make_network()
        check_levels(self.levels, network.spec, min(data.image_shape[:2]))
        self.model = self._begun(network)
        if devices.is_chief:
            run_folder.make_folder(folder, experiment.plain(), run_options.overwrite)
            keep()
        devices.barrier()
        self.start = checkpoints.newest(folder / run_folder.CHECKPOINTS)
        step = self.start.step if self.start else 0
        devices.agree("the checkpoint that each worker found", step)
        if self.start:
            self.level = level_at(self.levels, step)
            if self.level:
                self.model = self._trained(of_depth(network, self.levels[self.level].depth))
            own.restore(self.model, self.start)
        self.processes = Processes(run_options.clock, devices, self.start, recipe.global_batch_size)
        self._announce(step)

    def make_network(self):
        """Returns the network to train."""
        arguments = {
            "input_shape": self.data.image_shape,
            "num_classes": len(self.data.class_names),
            "dtype": self.recipe.precision,
            "bn_synchronized": self.recipe.bn_synchronized,
            **self.experiment.options,
        }
        return get_model(self.experiment.key, **arguments)

    def make_optimizer(self, network):
        """Returns the optimizer of a network's trainable variables."""
        kind = {"sgd": RecipeSGD, "muon": Muon}[self.recipe.optimizer]
        return make_optimizer(self.recipe, self.steps_per_epoch, kind)

    def _begun(self, network):
        """Returns the model of the first level, with the weights that the training begins with."""
        network = of_depth(network, self.levels[0].depth)
        if self.experiment.start is not None:
            begin_with(network, self.experiment.start)
        return self._trained(network)

    def _trained(self, network):
        """Returns the model that trains a network in the present level, with the network's optimizer if it has one."""
        preparation = Preparation(
            self.data, self.recipe.augmentation(), self.resident, self.levels[self.level].image_size
        )
        several = self.devices.on_tensorflow and self.devices.workers > 1
        model = (MultiWorkerModel if several else TrainingModel)(network, preparation, self.fixed_statistics)
        classes = len(self.data.class_names)
        model.compile(
            network.optimizer if network.compiled else self.make_optimizer(network),
            Crossentropy(classes, self.recipe.label_smoothing, dtype=loss_dtype(self.recipe.precision)),
            weighted_metrics=evaluation_metrics(),
            # Keras cannot do XLA under a tf.distribute strategy.
            jit_compile=False if self.devices.on_tensorflow else "auto",
        )
        model.optimizer.build(model.trainable_variables)
        model.build_metrics(classes)
        return model

    def _enter(self, number):
        """Begins a level: deepens the network of the one before, and keeps its optimizer's state."""
        keras.utils.set_random_seed(self.recipe.seed + number)  # so that a resume draws the same new units
        self.level, network, level = number, self.model.network, self.levels[number]
        if level.depth != network.spec.depth:
            network = deepen(network, level.depth)
        self.model = self._trained(network)
        self.devices.functions.clear()  # which hold the variables of the model before
        if self.devices.is_chief:
            side = level.image_size or self.data.image_shape[0]
            log.info(f"level {number + 1} of {len(self.levels)}: {network.name}, {side}x{side} images")

    def _announce(self, step):
        if not self.devices.is_chief:
            return
        devices, data = self.devices, self.data
        workers = f" in {devices.workers} workers" if devices.workers > 1 else ""
        log.info(
            f"{self.model.network.name}, {self.model.network.count_params():,} parameters, on {data.name}:"
            f" {len(data.train):,} training and {len(data.test):,} test images; {devices.replicas} x {devices.kind}"
            f"{workers} ({devices.name})"
        )
        if left := len(data.train) % self.recipe.global_batch_size:
            log.info(
                f"An epoch is {self.steps_per_epoch:,} whole batches of {self.recipe.global_batch_size}: the last "
                f"{left:,} images of its order, others in each epoch, are left out."
            )
        if devices.on_tensorflow and devices.kind == "GPU":
            log.info("XLA is off: Keras cannot compile a step under a tf.distribute strategy.")
        if step:
            log.info(f"resuming after step {step:,} of {self.total_steps:,}")

    def fit(self, signals):
        """Trains from the restored step to the last, or to what ends the training; `signals` may end it before."""
        recipe, devices, start, run_options = self.recipe, self.devices, self.start, self.run_options
        files = own.RunFiles(self.folder, start.state["history"] if start else (), devices.is_chief)
        schedule = make_schedule(recipe, self.steps_per_epoch)
        step = start.step if start else 0
        guard = own.StopOnNonFiniteLoss(schedule, step, period=1 if devices.kind == "CPU" else 50)
        stoppers = _stoppers(recipe)
        counted = [*stoppers, *run_options.callbacks]
        keeping = own.Checkpointing(
            self.folder / run_folder.CHECKPOINTS,
            devices,
            files,
            counted,
            self.steps_per_epoch,
            run_options.checkpoint_steps,
            start,
            self.keep,
            self.processes,
            signals,
        )
        logs = _tensorboard(self.folder) if devices.is_chief else []
        verbose = (1 if sys.stdout.isatty() else 2) if run_options.verbose == "auto" else run_options.verbose
        validation, validation_steps = evaluation_data(self.validation, devices)
        if start and start.state.get("stopped"):
            return
        self.processes.begin_fit()
        options = dict(
            shuffle=False,  # the batches have their own order
            validation_data=validation,
            validation_steps=validation_steps,
            callbacks=[guard, files, *counted, *logs, keeping],
            verbose=verbose if devices.is_chief else 0,
        )
        for number in range(self.level, len(self.levels)):
            if number > self.level:
                self._enter(number)
            self._fit_level(keeping, options)
            if self.model.stop_training:
                break
        self.processes.end_fit()

    def _fit_level(self, keeping, options):
        """Trains from the step that was reached to the end of the level, or of the training."""
        for first, last, steps in segments(keeping.step, self.levels[self.level].end, self.steps_per_epoch):
            feed = Feed(self.batches, keeping.step)
            self.processes.feeds.append(feed)
            batches = self.devices.dataset(feed, self.batches.spec())
            self.model.fit(batches, epochs=last, initial_epoch=first, steps_per_epoch=steps, **options)
            if self.model.stop_training:
                return

    def finish(self):
        """Replaces the weights by their average, if the recipe keeps one, and measures BN's statistics for it."""
        if not self.recipe.ema:
            return
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        optimizer.use_average(self.model.trainable_variables)
        if not self.fixed_statistics:
            reestimate_statistics(self.model, self.batches, self.devices)

    def check_workers(self):
        """Raises a `RuntimeError` if the workers' weights are not the same to the bit."""
        if self.devices.workers > 1:
            parts = (np.ascontiguousarray(read(variable)) for variable in self.model.network.variables)
            digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()
            self.devices.agree("the trained weights", int.from_bytes(digest[:7], "big"))

    def card(self):
        """Writes the model's files and the card, and returns it."""
        experiment, data, devices = self.experiment, self.data, self.devices
        error_percent = finish.save(self.model.network, data, self.folder, experiment)
        processes = self.processes.plain()
        card = {
            **experiment.plain(),
            "data_dir": experiment.data_dir,
            "error_percent": error_percent,
            "digest": file_digest(self.folder / run_folder.MODEL),
            **totals(processes),
            **chained(totals(processes), experiment.start),
            "network": self.model.network.construction(),
            "classes": list(data.class_names),
            "preprocessing": finish.preprocessing_fields(data),
            "devices": {
                "strategy": devices.name,
                "replicas": devices.replicas,
                "kind": devices.kind,
                "name": device_name(),
            },
            "versions": versions(),
            "commit": commit(),
            "processes": processes,
            "command": command_line(sys.argv),
        }
        run_folder.write_card(self.folder, card)
        self.keep()
        return card


def _can_reside(data, augmentation):
    """Returns whether the training images fit on an accelerator, and need nothing of the host."""
    return isinstance(data.train, ArraySplit) and not augmentation.resizes and data.train.images.nbytes < RESIDENT_BYTES


def segments(step, total, per_epoch):
    """Yields (first epoch, last epoch, steps in each) of the calls of `fit` from `step` to `total`.

    The first and the last epoch may be short: the first when a run resumes within it.
    """
    while step < total:
        epoch, done = divmod(step, per_epoch)
        whole = 0 if done else (total - step) // per_epoch
        steps = per_epoch if whole else min(per_epoch - done, total - step)
        epochs = whole or 1
        yield epoch, epoch + epochs, steps
        step += epochs * steps


def _stoppers(recipe):
    watch = dict(monitor="val_error_percent", mode="min")
    stoppers = []
    if recipe.patience:
        stoppers.append(keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=recipe.patience, **watch))
    if recipe.early_stopping:
        stoppers.append(keras.callbacks.EarlyStopping(patience=recipe.early_stopping, **watch))
    return stoppers


def _tensorboard(folder):
    """Returns the callback that writes TensorBoard's logs, where TensorFlow and TensorBoard are installed."""
    if keras.backend.backend() != "tensorflow" or importlib.util.find_spec("tensorboard") is None:
        return []
    return [keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)]


@contextlib.contextmanager
def _told_what_is_left(folder, output):
    """Names the last checkpoint in `output`, of which `folder` is the local copy, if training stops with an error."""
    try:
        yield
    except (FloatingPointError, OSError) as error:
        last = max((path.name for path in (folder / run_folder.CHECKPOINTS).glob("[0-9]*")), default=None)
        left = (
            f"The last good checkpoint is {output}/{run_folder.CHECKPOINTS}/{last}."
            if last
            else "There is no checkpoint."
        )
        kind = OSError if isinstance(error, OSError) else FloatingPointError
        raise kind(f"{str(error).removesuffix('.')}. {left}") from error


def _alone(output, devices):
    """Returns the context in which no other process trains in `output`; the first of several workers speaks for all."""
    if not devices.is_chief:
        return contextlib.nullcontext()
    return held(remote_folder.lock_path(output), "output")
