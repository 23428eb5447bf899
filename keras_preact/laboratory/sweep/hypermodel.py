"""A keras-tuner hypermodel over networks and recipes, for its searches as they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.data.batches import TrainingBatches
from keras_preact.data.dataset import DataLike, held_out
from keras_preact.data.preparation import Preparation
from keras_preact.errors import argument_error, check_choice, check_integer, check_number
from keras_preact.laboratory.sweep import axes
from keras_preact.network.shortcuts import SHORTCUTS
from keras_preact.training.callbacks import StopOnNonFiniteLoss
from keras_preact.training.evaluation import evaluation_data, evaluation_metrics, loaded
from keras_preact.training.experiment import check_backend, check_precision
from keras_preact.training.optimizers import make_optimizer, make_schedule
from keras_preact.training.prefetch import Feed
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import as_recipe
from keras_preact.training.strategies import make_devices
from keras_preact.training.training_model import Crossentropy, TrainingModel, loss_dtype
from keras_preact.types import PathLike
from keras_preact.zoo import get_model

try:
    import keras_tuner
    import tensorboard  # noqa: F401  keras-tuner imports it when a trial begins, and counts its lack as a failed trial
except ImportError as error:
    message = f"PreActHyperModel needs two packages: pip install keras-tuner tensorboard ({error})."
    raise ImportError(message) from error


@dataclass(frozen=True)
class Range:
    """Describes an axis of numbers: from `low` to `high`, both included, on a linear or a logarithmic scale.

    Args:
        low: The lowest.
        high: The highest.
        step: Distance of the values on a linear scale, their ratio on a logarithmic one; None for any value.
        sampling: `"linear"` or `"log"`.
    """

    low: float
    high: float
    step: float | None = None
    sampling: str = "linear"

    def __post_init__(self) -> None:
        check_choice("sampling", self.sampling, ("linear", "log"))
        check_number("low", self.low, low=5e-324 if self.sampling == "log" else -math.inf)
        check_number("high", self.high, low=self.low)
        if self.step is not None and check_number("step", self.step) <= (least := float(self.sampling == "log")):
            raise argument_error("step", f"above {least:g} with sampling={self.sampling!r}", self.step)


SPACE = {
    "shortcut": tuple(name for name, row in SHORTCUTS.items() if not row.is_plain),
    "ordering": tuple(axes.CHOICES["ordering"]),
    "depth": (20, 32, 44, 56),
    "width": (16, 32),
    "scale": Range(0.1, 1.0),
    "branch_scale": Range(0.1, 1.0),
    "gate_bias": Range(-10.0, 0.0, step=1.0),
    "rate": Range(0.1, 0.9),
    "learning_rate": Range(0.01, 0.3, sampling="log"),
    "weight_decay": Range(1e-5, 1e-3, sampling="log"),
}

# Fields of a recipe that a search does not carry out.
UNSEARCHED = ("steps", "patience", "early_stopping", "ema", "levels")


class PreActHyperModel(keras_tuner.HyperModel):
    """Builds and fits networks of the paper for keras-tuner: shortcut, ordering, depth, width, fields of the recipe.

    The parameters of the shortcuts (`scale`, `branch_scale`, `gate_bias`, `rate`) are asked for only where the shortcut
    takes them. The objective is `PreActHyperModel.objective`, the error on training images held out; the test images
    are not touched. A trial whose loss stops being finite fails, whatever its error was before.

    ```python
    hypermodel = PreActHyperModel("digits")
    tuner = keras_tuner.RandomSearch(hypermodel, hypermodel.objective, max_trials=20, directory="runs/search")
    tuner.search()
    network = tuner.get_best_models()[0].network
    ```

    keras-tuner's `GridSearch` cannot be restarted after a kill; `RandomSearch` with as many trials as the grid has can,
    and so can `keras_preact.laboratory.sweep.sweep`.

    Args:
        data: A name of `DATA_SETS`, the path of a folder of images, or a `DataSet`.
        space: {axis: values, or a `Range`}; see `axes.network_axes` and `axes.RECIPE_AXES`. `SPACE` if None.
        recipe: A name of `RECIPES`, or a `Recipe` with the fields that are no axes. Its length is in epochs; Hyperband
            sets its own, over which the schedule then falls.
        model: The network, where the depth is no axis.
        model_options: Keywords for the network's function, common to all trials.
        validation_images: Training images held out; the recipe's, or a tenth where it has none, if None or 0.
        data_dir: As in `train`.

    Raises:
        ValueError: If an axis or a value is not allowed, or the recipe is none that keras-tuner can follow.
    """

    objective = keras_tuner.Objective("val_error_percent", "min")

    def __init__(
        self,
        data: DataLike = "digits",
        space: Mapping[str, Sequence[Any] | Range] | None = None,
        recipe: str | Recipe = "digits",
        *,
        model: str = "resnet20",
        model_options: Mapping[str, Any] | None = None,
        validation_images: int | None = None,
        data_dir: PathLike | None = None,
    ) -> None:
        check_backend()
        super().__init__(name="preact")
        self.recipe = as_recipe(recipe)
        for name in UNSEARCHED:
            if getattr(self.recipe, name):
                raise argument_error("recipe", f"one with {name}=0 in a search", getattr(self.recipe, name))
        self.space = _checked(SPACE if space is None else space)
        self.network = functools.partial(axes.network_of, model=model, options=dict(model_options or {}))
        for point in [{"depth": depth} for depth in self.space.get("depth", ())] or [{}]:
            _, options = self.network(point)
        _check_takers(self.space, options["shortcut"]["name"])
        for name in self.space.keys() & set(axes.RECIPE_AXES):
            for value in _ends(self.space[name]):
                axes.recipe_of({name: value}, self.recipe)
        data = loaded(data, data_dir, self.recipe.image_size)
        count = validation_images or self.recipe.validation_images or max(1, len(data.train) // 10)
        self.data, self.validation = held_out(data, count, self.recipe.seed)

    def point(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Returns the point that `hp` stands at, {axis: value}, and makes its axes known to the tuner."""
        point = {name: _value(hp, name, values) for name, values in self.space.items() if name not in axes.parameters()}
        fixed = self.network({})[1]["shortcut"]["name"]
        for name in axes.parameters():
            if name not in self.space:
                continue
            takers = axes.takers(name)
            if "shortcut" not in self.space:
                if fixed in takers:
                    point[name] = _value(hp, name, self.space[name])
                continue
            takers = [taker for taker in takers if taker in self.space["shortcut"]]
            if takers:
                with hp.conditional_scope("shortcut", takers):
                    value = _value(hp, name, self.space[name])
                if point["shortcut"] in takers:
                    point[name] = value
        return point

    def build(self, hp: keras_tuner.HyperParameters) -> TrainingModel:
        """Returns the compiled model of a trial: uint8 images in, its network in `.network`.

        Each build has the recipe's seed: with `executions_per_trial` a tuner trains the same network several times.
        """
        point = self.point(hp)
        recipe = self._recipe(hp, point)
        key, options = self.network(point)
        keras.utils.set_random_seed(recipe.seed)
        classes = len(self.data.class_names)
        arguments = {"input_shape": self.data.image_shape, "num_classes": classes, "dtype": recipe.precision}
        network = get_model(key, **{"layout": "stacked", **arguments, **options})
        model = TrainingModel(network, Preparation(self.data, recipe.augmentation(), image_size=recipe.image_size))
        model.compile(
            make_optimizer(recipe, self._batches(recipe).steps_per_epoch),
            Crossentropy(classes, recipe.label_smoothing, dtype=loss_dtype(recipe.precision)),
            weighted_metrics=evaluation_metrics(),
        )
        model.optimizer.build(model.trainable_variables)  # to load weights, as Hyperband does
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: TrainingModel,
        *,
        epochs: int | None = None,
        initial_epoch: int = 0,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        verbose: int | str = 2,
        **keywords: Any,
    ) -> keras.callbacks.History:
        """Trains a trial's network as its recipe says, and returns its history.

        Raises:
            keras_tuner.errors.FailedTrialError: If the loss stops being finite.
        """
        recipe = self._recipe(hp, self.point(hp))
        batches = self._batches(recipe)
        steps = batches.steps_per_epoch
        guard = StopOnNonFiniteLoss(make_schedule(recipe, steps), initial_epoch * steps)
        devices = make_devices("none")
        validation, validation_steps = evaluation_data(self.validation, devices)
        try:
            with devices.own_errors():
                history = model.fit(
                    devices.dataset(Feed(batches, initial_epoch * steps), batches.spec()),
                    epochs=epochs or recipe.epochs,
                    initial_epoch=initial_epoch,
                    steps_per_epoch=steps,
                    validation_data=validation,
                    validation_steps=validation_steps,
                    callbacks=[guard, *callbacks],
                    shuffle=False,  # the batches have their own order
                    verbose=verbose,
                    **keywords,
                )
        except FloatingPointError as error:
            raise keras_tuner.errors.FailedTrialError(str(error)) from error
        losses = history.history["val_loss"]
        if not all(map(math.isfinite, losses)):
            raise keras_tuner.errors.FailedTrialError(f"The loss on the images held out is {losses[-1]}.")
        return history

    def _batches(self, recipe):
        return TrainingBatches(self.data, recipe.global_batch_size, recipe.seed, recipe.augmentation())

    def _recipe(self, hp, point):
        """Returns the recipe of a trial; Hyperband says how many epochs it has."""
        recipe = axes.recipe_of(point, self.recipe)
        check_precision(recipe.precision)
        return recipe.replace(epochs=hp.values.get("tuner/epochs", recipe.epochs))


def _checked(space):
    for name in space:
        if name in UNSEARCHED:
            raise argument_error("space", f"without {name}, which a search does not carry out", name)
        if name == "validation_images":
            raise argument_error("space", "without validation_images", name, "Pass validation_images=.")
    ranges = {name: values for name, values in space.items() if isinstance(values, Range)}
    bounds = {name: _ends(values) for name, values in ranges.items()}
    for name in ranges:
        if name in axes.CHOICES or name in ("depth", "width"):
            raise argument_error(name, "a sequence of values", space[name])
        if _is_whole(name) and ranges[name].step is not None:
            check_integer(f"step of {name}", ranges[name].step)
    known = axes.parse_axes({**space, **bounds})
    return {name: ranges.get(name, known[name]) for name in known}


def _check_takers(space, shortcut):
    """Raises a `ValueError` if a parameter has no shortcut to take it; that is `shortcut` where it is no axis."""
    for name in axes.parameters():
        if name in space and not set(axes.takers(name)) & set(space.get("shortcut", (shortcut,))):
            raise argument_error("space", f"with a shortcut that takes {name}: {', '.join(axes.takers(name))}", name)


def _value(hp, name, values):
    if not isinstance(values, Range):
        return hp.Choice(name, list(values))
    kind = hp.Int if _is_whole(name) else hp.Float
    return kind(name, values.low, values.high, step=values.step, sampling=values.sampling)


def _ends(values):
    """Returns the values of an axis, of a `Range` its ends."""
    if not isinstance(values, Range):
        return values
    return (values.low,) if values.low == values.high else (values.low, values.high)


def _is_whole(name):
    """Returns whether a field of the recipe is a whole number."""
    return type(getattr(Recipe(), name, None)) is int
