"""What happens while a run trains: a guard against NaN, history and curves, checkpoints, signals."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.errors import argument_error
from keras_preact.files import write_text, written_aside
from keras_preact.training import checkpoints
from keras_preact.training.callback_state import PREFIX, Saved
from keras_preact.training.checkpoints import Checkpoint
from keras_preact.training.processes import Processes
from keras_preact.training.signals import EndingSignals, status
from keras_preact.training.strategies import Devices, read
from keras_preact.training.training_model import TrainingModel
from keras_preact.types import PathLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTING_SECONDS = 10.0  # a picture takes longer to plot than an epoch of a small network on a GPU


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training with a `FloatingPointError` as soon as a loss is seen not to be finite, before it is written.

    It looks at the training loss, and after each epoch at that of the validation.

    Args:
        schedule: The learning rate: a number, or a function of the step.
        step: Steps done before.
        period: Steps between looks at the loss, which wait for the device. The loss is a mean over the epoch, so no
            step is missed.
        async_safe: Whether Keras may call it from another thread, while the device goes on.
    """

    def __init__(
        self, schedule: float | Callable[[int], Any], step: int = 0, period: int = 1, async_safe: bool = False
    ) -> None:
        super().__init__()
        self.schedule, self.step, self.period, self.async_safe = schedule, step, period, async_safe
        self.first = step  # of the epoch

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.first = self.step

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.step = self.first + batch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = self.first + batch
        if step % self.period == 0:
            self.check((logs or {}).get("loss", 0.0), step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        for name, what in (("loss", "loss"), ("val_loss", "validation loss")):
            self.check((logs or {}).get(name, 0.0), self.step, what)

    def check(self, loss: float, step: int, what: str = "loss") -> None:
        """Raises a `FloatingPointError` if the loss at a step is not finite."""
        if not math.isfinite(loss):
            rate = float(self.schedule(step) if callable(self.schedule) else self.schedule)
            raise FloatingPointError(
                f"The {what} is {loss} at step {step}, learning rate {rate:g}. Try a lower one, or look for NaN in the "
                "data."
            )


class RunFiles(keras.callbacks.Callback):
    """Writes `history.csv` after each epoch, and `curves.png` at the end and every `PLOTTING_SECONDS` at most.

    Args:
        folder: The run's.
        rows: Those of the epochs before.
        writes: Whether this process is the one that writes.
        evaluated: On which images the error is measured after each epoch: `"test"` or `"validation"`.
    """

    def __init__(
        self,
        folder: PathLike,
        rows: Iterable[dict[str, float]] = (),
        writes: bool = True,
        evaluated: str = "test",
    ) -> None:
        super().__init__()
        self.folder, self.rows, self.writes = pathlib.Path(folder), list(rows), writes
        self.evaluated = evaluated
        self.plotted, self.is_plotted = time.monotonic(), not self.rows

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        if not self.writes:
            return
        self._write()
        self.is_plotted = False
        if time.monotonic() - self.plotted > PLOTTING_SECONDS:
            self._plot()

    def complete(self) -> None:
        """Draws the picture of all epochs, and writes their table if a stop has left it out."""
        if not self.writes or not self.rows:
            return
        if not (self.folder / "history.csv").is_file():
            self._write()
        if not self.is_plotted:
            self._plot()

    def _write(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0].keys(), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "history.csv", text.getvalue())

    def _plot(self):
        with written_aside(self.folder / "curves.png") as aside:
            curves(self.rows, self.evaluated).savefig(aside, dpi=120)
        self.plotted, self.is_plotted = time.monotonic(), True


def curves(rows: Sequence[Mapping[str, float]], evaluated: str) -> Figure:
    """Returns the picture of a history: losses and errors of the training images, and of those `evaluated` names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    panels = (("loss", ("loss", "val_loss")), ("error, %", ("error_percent", "val_error_percent")))
    for axes, (title, names) in zip(figure.subplots(1, 2), panels):
        for name in names:
            if name in rows[0]:
                label = evaluated if name.startswith("val_") else "training"
                axes.plot(epochs, [row[name] for row in rows], marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=title, yscale="log" if title == "loss" else "linear")
        axes.legend()
    return figure


class Progress(keras.callbacks.ProgbarLogger):
    """Shows the progress; that a terminal has been closed is raised once what a step has left is saved."""

    error: OSError | None = None

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        try:
            super().on_train_batch_end(batch, logs)
        except OSError as error:
            self.error = error

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.error is not None:
            raise self.error


class Checkpointing(keras.callbacks.Callback):
    """Saves all that a run needs to go on: at epoch ends, every so many steps, and when a signal asks to end.

    It stands last among the callbacks, so that their counters are of the step that it saves, and within an epoch saves
    by a callback that stands first, `between_steps`, before the next step begins: a hook after a step would make JAX
    wait for the device. What others do when the training ends comes after the last checkpoint, and is done again by a
    run that resumes from there.

    Args:
        folder: Of the checkpoints.
        devices: The run's `Devices`.
        files: The `RunFiles`, whose rows are saved.
        guard: The `StopOnNonFiniteLoss`.
        others: Callbacks whose state is saved: see `callback_state`.
        steps_per_epoch: Training steps in an epoch.
        every: Training steps between checkpoints within an epoch; 0 for none.
        start: The `Checkpoint` that the run resumes from, or None.
        push: A function that is called once a checkpoint is written.
        processes: The `Processes` of the run.
        signals: The `EndingSignals` under which it runs.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        devices: Devices,
        files: RunFiles,
        guard: StopOnNonFiniteLoss,
        others: Iterable[keras.callbacks.Callback],
        steps_per_epoch: int,
        every: int,
        start: Checkpoint | None,
        push: Callable[[], object],
        processes: Processes,
        signals: EndingSignals,
    ) -> None:
        super().__init__()
        self.folder, self.devices, self.files, self.others = folder, devices, files, list(others)
        self.steps_per_epoch, self.every = steps_per_epoch, every
        self.start, self.states = start, Saved.of(start, self.others) if start else None
        self.step = start.step if start else 0
        self.push, self.processes, self.signals, self.guard = push, processes, signals, guard
        self.between_steps = keras.callbacks.LambdaCallback(on_train_batch_begin=self._between_steps)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if self.states is not None:  # Keras' callbacks forget what they counted when a training begins
            self.states.restore(self.others)
            self.states = None

    def end(self, model: TrainingModel, epochs: int) -> None:
        """Tells the other callbacks that the training has ended: `EarlyStopping` sets the best weights then.

        Args:
            model: The model that was trained.
            epochs: Those of the whole training.
        """
        if self.states is not None:  # nothing was left to train, so they were not told that it begins, either
            for callback in self.others:
                callback.set_params({"verbose": 0, "epochs": epochs, "steps": self.steps_per_epoch})
                callback.set_model(model)
                callback.on_train_begin()
            self.on_train_begin()
        rows = self.files.rows or [{}]
        for callback in self.others:
            callback.on_train_end({name: value for name, value in rows[-1].items() if name != "epoch"})
        self.files.complete()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.start is not None and self.start.step % self.steps_per_epoch:
            self.devices.scatter(self._scalars(), self.start.arrays["metrics"])
        self.start = None

    def _between_steps(self, batch, logs=None):
        """Saves, where that is due, what the step before left; of an epoch's last one its end does, after validation.

        The model, for which JAX would put all of its state in place, is touched only then.
        """
        if batch == 0:
            return
        self.step += 1
        if (self.every and self.step % self.every == 0) or self.signals.number:
            self._save()
        self._leave()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.step += 1
        self._save()
        self._leave()

    def _leave(self):
        if number := self.signals.number:
            name = signal.Signals(number).name
            text = f"\nkeras-preact: {name} after step {self.step}. The same command resumes from there."
            with contextlib.suppress(OSError):  # of a terminal that has been closed
                print(text, file=sys.stderr, flush=True)
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(status(number))

    def _save(self):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # `fit` holds the state elsewhere between epochs' ends
        metrics = self.devices.gather(self._scalars())  # all workers take part
        self.guard.check(float(metrics.sum()), self.step)  # which may not have looked yet
        self.processes.reach(self.step)
        if not self.devices.is_chief:
            return
        arrays = {name: read(variable) for name, variable in training_variables(self.model).items()}
        stopped, states = bool(self.model.stop_training), Saved.from_callbacks(self.others)
        state = {"callbacks": states.plain(), "history": self.files.rows, "stopped": stopped}
        arrays |= {"metrics": metrics, **states.arrays}
        checkpoints.save(self.folder, checkpoints.Checkpoint(self.step, arrays, state, self.processes.plain()))
        self.push()

    def _scalars(self):
        return [variable for metric in self.model.metrics for variable in metric.variables]


def training_variables(model: TrainingModel) -> dict[str, keras.Variable]:
    """Returns the variables that training changes by name: weights, states of random generators, the optimizer's."""
    variables = {f"network/{number:05d}": variable for number, variable in enumerate(model.network.variables)}
    return variables | {f"optimizer/{number:05d}": part for number, part in enumerate(model.optimizer.variables)}


def restore(model: TrainingModel, checkpoint: Checkpoint) -> None:
    """Sets a compiled, built `TrainingModel` to the weights and optimizer of a `Checkpoint`.

    Raises:
        ValueError: If the checkpoint holds other arrays: another version of this package wrote it.
    """
    variables = training_variables(model)
    found = {name for name in checkpoint.arrays if name != "metrics" and not name.startswith(PREFIX)}
    if differ := sorted(variables.keys() ^ found):
        hint = "Pass --overwrite (overwrite=True) to start anew."
        raise argument_error("output", "a run of this version, whose checkpoint holds what it trains", differ[0], hint)
    for name, variable in variables.items():
        variable.assign(checkpoint.arrays[name])
