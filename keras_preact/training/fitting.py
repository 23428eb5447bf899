"""One experiment's network, built, trained and measured in the scope of its devices."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_preact.data.batches import TrainingBatches
from keras_preact.data.dataset import DataSet, is_in_memory
from keras_preact.data.preparation import Preparation
from keras_preact.errors import argument_error
from keras_preact.network.deepening import deepen
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.named_weights import inner_optimizer
from keras_preact.training import checkpoints, finish, run_folder
from keras_preact.training.callback_state import OneTraining
from keras_preact.training.callbacks import Checkpointing, Progress, RunFiles, StopOnNonFiniteLoss, restore
from keras_preact.training.evaluation import evaluation_data, evaluation_metrics, reestimate_statistics
from keras_preact.training.experiment import Experiment, RunOptions
from keras_preact.training.levels import begin_with, check_levels, level_at, levels_of, of_depth, segments
from keras_preact.training.optimizers import make_optimizer, make_schedule
from keras_preact.training.prefetch import Feed
from keras_preact.training.processes import Processes
from keras_preact.training.sgd import RecipeSGD
from keras_preact.training.signals import EndingSignals
from keras_preact.training.strategies import Devices, read
from keras_preact.training.training_model import Crossentropy, MultiWorkerModel, TrainingModel, loss_dtype
from keras_preact.zoo import get_model

log = logging.getLogger(__name__)

RESIDENT_BYTES = 1 << 30  # a data set up to here lives on an accelerator
GUARD_STEPS = 50  # between looks at the loss on an accelerator, which wait for it


class Training:
    """Builds and trains one experiment's network; a helper of `train`, in the scope of its devices."""

    def __init__(
        self,
        experiment: Experiment,
        data: DataSet,
        validation: DataSet,
        devices: Devices,
        folder: pathlib.Path,
        push: Callable[[], object],
        run_options: RunOptions,
    ) -> None:
        recipe, augmentation = experiment.recipe, experiment.recipe.augmentation()
        self.experiment, self.recipe, self.data, self.validation = experiment, recipe, data, validation
        self.devices, self.folder, self.push, self.run_options = devices, folder, push, run_options
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
            push()
        devices.barrier()
        if not devices.is_chief:  # whose copy of a URL is its own
            run_folder.remove_another(folder, experiment.plain(), run_options.overwrite)
        self.start = None
        try:
            self.start = self._resumed(network)
        except ValueError as error:
            if not run_options.overwrite:
                raise
            log.warning(f"{error} The run begins anew.")
            self._begin_anew()
        step = self.start.step if self.start else 0
        self.processes = Processes(run_options.clock, devices, self.start, recipe.global_batch_size)
        self._announce(step)

    def _resumed(self, network):
        """Returns the newest checkpoint, which the model is set to, or None.

        Raises:
            ValueError: If it is damaged, another version's, or of a training that can only end with an error.
        """
        start = checkpoints.newest(self.folder / run_folder.CHECKPOINTS)
        step = start.step if start else 0
        hint = "Every worker must see the same output folder."
        self.devices.agree("the checkpoint that each worker found", step, hint)
        if start is None:
            return None
        self.level = level_at(self.levels, step)
        if self.level:
            self.model = self._trained(of_depth(network, self.levels[self.level].depth))
        if start.state.get("stopped") and self.levels[self.level].depth != self.levels[-1].depth:
            hint = "A callback ended it. Pass --overwrite (overwrite=True) to start anew."
            received = f"one that ended at {self.levels[self.level].depth} layers"
            raise argument_error("output", "a run that reached its last level", received, hint)
        restore(self.model, start)
        return start

    def _begin_anew(self):
        """Removes the checkpoints of a run that cannot go on, and sets the model to its beginning."""
        self.devices.barrier()
        if self.devices.is_chief:
            run_folder.remove_checkpoints(self.folder)
        self.devices.barrier()
        keras.utils.set_random_seed(self.recipe.seed)
        self.level, self.model = 0, self._begun(self.make_network())

    @property
    def fixed_statistics(self) -> bool:
        """Whether BN's moving statistics are used, and left alone, in training too."""
        return False

    def make_network(self) -> ResidualNetwork:
        """Returns the network to train."""
        arguments = {
            "input_shape": self.data.image_shape,
            "num_classes": len(self.data.class_names),
            "dtype": self.recipe.precision,
            "bn_synchronized": self.recipe.bn_synchronized,
            "layout": "stacked",
            **self.experiment.options,
        }
        return get_model(self.experiment.model, **arguments)

    def make_optimizer(self, network: ResidualNetwork) -> RecipeSGD:
        """Returns the optimizer of a network's trainable variables."""
        return make_optimizer(self.recipe, self.steps_per_epoch)

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
            with_network=True,  # `model.keras` holds the optimizer
        )
        if not model.optimizer.built:  # a `LossScaleOptimizer` would make its variables once more
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
        if (warmup := self.recipe.warmup_steps) >= self.total_steps:
            log.warning(f"The learning rate rises for {warmup:,} steps, and the training has {self.total_steps:,}.")
        unit = 1 if self.recipe.steps else self.steps_per_epoch
        if late := [drop for drop in self.recipe.drops if drop * unit >= self.total_steps]:
            log.warning(f"The learning rate does not fall at {late[0]:,} of `drops`: the training ends before.")
        if step:
            log.info(f"resuming after step {step:,} of {self.total_steps:,}")

    def fit(self, signals: EndingSignals) -> None:
        """Trains from the restored step to the last, or to what ends the training; `signals` may end it before."""
        callbacks, checkpointing = self._callbacks(signals)
        stopped = self.start is not None and self.start.state.get("stopped")
        validation, validation_steps = evaluation_data(self.validation, self.devices)
        options = dict(
            shuffle=False,  # the batches have their own order
            validation_data=validation,
            validation_steps=validation_steps,
            callbacks=callbacks,
            verbose=0,  # one of the callbacks shows the progress
        )
        self.processes.begin_fit()
        for number in range(self.level, len(self.levels)) if not stopped else ():
            if number > self.level:
                self._enter(number)
            self._fit_level(checkpointing, options)
            if self.model.stop_training:
                break
        self._check_end()
        checkpointing.end(self.model, self._epochs)
        self.processes.end_fit()

    def _check_end(self):
        """Raises a `RuntimeError` if a callback has ended a training in levels with a shallower network."""
        found, depth = self.model.network.spec.depth, self.levels[-1].depth
        if depth not in (None, found):
            raise RuntimeError(f"A callback ended the training at {found} layers, before the level of {depth} layers.")

    @property
    def _epochs(self):
        """Those of the whole training, of which the last may be short."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def _verbose(self):
        if not self.devices.is_chief:
            return 0
        verbose = self.run_options.verbose
        return (1 if sys.stdout and sys.stdout.isatty() else 2) if verbose == "auto" else verbose

    def _callbacks(self, signals):
        """Returns the callbacks of `fit`, first to last, and the `Checkpointing` among them.

        The guard comes before what writes, checkpoints after what they hold; what is shown comes last, as a terminal
        that has been closed raises an error.
        """
        devices, start = self.devices, self.start
        schedule = make_schedule(self.recipe, self.steps_per_epoch)
        period = 1 if devices.kind == "CPU" else GUARD_STEPS
        # Elsewhere a step's call returns when it is done. Workers are to stop at the same step.
        async_safe = keras.backend.backend() == "jax" and devices.workers == 1
        guard = StopOnNonFiniteLoss(schedule, start.step if start else 0, period, async_safe)
        evaluated = "validation" if self.recipe.validation_images else "test"
        files = RunFiles(self.folder, start.state["history"] if start else (), devices.is_chief, evaluated)
        counted = [*_stoppers(self.recipe), *self.run_options.callbacks]
        checkpointing = Checkpointing(
            self.folder / run_folder.CHECKPOINTS,
            devices,
            files,
            guard,
            counted,
            self.steps_per_epoch,
            self.run_options.checkpoint_steps,
            start,
            self.push,
            self.processes,
            signals,
        )
        logs = _tensorboard(self.folder) if devices.is_chief else []
        progress = [Progress()] if self._verbose else []
        whole = {"epochs": self._epochs, "verbose": self._verbose}
        shared, shown = ([OneTraining(callback, whole) for callback in part] for part in (counted, progress))
        for callback in shown:
            callback.async_safe = async_safe  # as Keras takes its own to be
        return [checkpointing.between_steps, guard, files, *shared, *logs, checkpointing, *shown], checkpointing

    def _fit_level(self, checkpointing, options):
        """Trains from the step that was reached to the end of the level, or of the training.

        Args:
            checkpointing: The `Checkpointing`, which knows that step.
            options: Keywords of `keras.Model.fit`.
        """
        for first, last, steps in segments(checkpointing.step, self.levels[self.level].end, self.steps_per_epoch):
            feed = Feed(self.batches, checkpointing.step)
            self.processes.feeds.append(feed)
            batches = self.devices.dataset(feed, self.batches.spec())
            with self.devices.own_errors():
                self.model.fit(batches, epochs=last, initial_epoch=first, steps_per_epoch=steps, **options)
            if self.model.stop_training:
                return

    def finish(self) -> None:
        """Replaces the weights by their average, if the recipe keeps one, and measures BN's statistics for it."""
        if not self.recipe.ema:
            return
        optimizer = inner_optimizer(self.model.optimizer)
        optimizer.use_average(self.model.trainable_variables)
        if not self.fixed_statistics:
            reestimate_statistics(self.model, self.batches, self.devices)

    def check_workers(self) -> None:
        """Raises a `RuntimeError` if the workers' weights are not the same to the bit."""
        if self.devices.workers > 1:
            parts = (np.ascontiguousarray(read(variable)) for variable in self.model.network.variables)
            digest = hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()
            self.devices.agree("the trained weights", int.from_bytes(digest[:7], "big"))

    def card(self) -> dict[str, Any]:
        """Writes the model's files and the card, and returns it."""
        error_percent = finish.save(self.model.network, self.data, self.folder, self.experiment)
        processes = self.processes.plain()
        card = finish.run_card(
            self.experiment, self.model.network, self.data, self.folder, self.devices, error_percent, processes
        )
        run_folder.write_card(self.folder, card)
        self.push()
        return card


def _can_reside(data, augmentation):
    """Returns whether the training images fit on an accelerator, and need nothing of the host."""
    size = len(data.train) * math.prod(data.image_shape)
    return is_in_memory(data.train) and not augmentation.resizes and size < RESIDENT_BYTES


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
