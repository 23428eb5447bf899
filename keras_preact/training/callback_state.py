"""What a resumed run gives back to callbacks: what Keras' count, and what those of one's own say that they keep."""

from __future__ import annotations

import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.errors import argument_error
from keras_preact.training.recipe import Recipe

if TYPE_CHECKING:
    from keras_preact.training.checkpoints import Checkpoint

# What Keras' callbacks count. (EarlyStopping turns the sign of `min_delta` in place, so that is not restored.)
COUNTERS = ("best", "wait", "cooldown_counter", "best_epoch", "stopped_epoch", "_batches_seen_since_last_saving")
_DECIDING = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
_OF_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
_OF_ONE_RATE = ("constant", "plateau")  # schedules by which the optimizer has a number for its rate
PREFIX = "callbacks/"  # of the names of arrays


@dataclass(frozen=True)
class Saved:
    """Holds the state of a run's callbacks.

    Attributes:
        names: The callbacks' classes, by name.
        states: A dict each, as JSON holds it.
        arrays: The best weights that `EarlyStopping` holds, by name.
    """

    names: list
    states: list
    arrays: dict

    @classmethod
    def from_callbacks(cls, callbacks: Sequence[keras.callbacks.Callback]) -> Saved:
        """Returns the state of callbacks as it is now."""
        arrays = {
            f"{PREFIX}{number}/{index:05d}": array
            for number, callback in enumerate(callbacks)
            for index, array in enumerate(getattr(callback, "best_weights", None) or ())
        }
        return cls([type(each).__name__ for each in callbacks], [_state_of(each) for each in callbacks], arrays)

    @classmethod
    def of(cls, checkpoint: Checkpoint, callbacks: Sequence[keras.callbacks.Callback]) -> Saved:
        """Returns what a `Checkpoint` holds; an old one has counters alone, in the order of the callbacks."""
        arrays = {name: array for name, array in checkpoint.arrays.items() if name.startswith(PREFIX)}
        if "callbacks" in checkpoint.state:
            names, states = ([each[key] for each in checkpoint.state["callbacks"]] for key in ("class", "state"))
        else:
            names, states = [type(each).__name__ for each in callbacks], checkpoint.state["counters"]
        return cls(names, states, arrays)

    def plain(self) -> list[dict[str, Any]]:
        """Returns it, without the arrays, as JSON holds it."""
        return [{"class": name, "state": state} for name, state in zip(self.names, self.states)]

    def restore(self, callbacks: Iterable[keras.callbacks.Callback]) -> None:
        """Gives each callback the state of the first one of its class that no other was given."""
        left = list(enumerate(zip(self.names, self.states)))
        for callback in callbacks:
            found = next((entry for entry in left if entry[1][0] == type(callback).__name__), None)
            if found is None:
                continue
            left.remove(found)
            number, (_, state) = found
            _give(callback, state)
            arrays = [self.arrays[name] for name in sorted(self.arrays) if name.startswith(f"{PREFIX}{number}/")]
            if arrays:
                callback.best_weights = arrays


def _state_of(callback):
    """Returns a copy of what a callback keeps: what it says itself, or those of `COUNTERS` that are numbers."""
    if hasattr(callback, "state_dict"):
        return json.loads(json.dumps(callback.state_dict()))
    counters = {name: getattr(callback, name, None) for name in COUNTERS}
    return {name: _plain(value) for name, value in counters.items() if isinstance(value, numbers.Real)}


def _give(callback, state):
    if hasattr(callback, "load_state_dict"):
        callback.load_state_dict(state)
        return
    for name, value in state.items():
        setattr(callback, name, value)


def _plain(value):
    return value if isinstance(value, int) else float(value)


class OneTraining(keras.callbacks.Callback):
    """Makes of several calls of `fit` one training for a callback, which begins once.

    That it ends is not passed on: `Checkpointing.end` tells the callback, also in a run that was killed just before.

    Args:
        callback: A `keras.callbacks.Callback`.
        whole: The parameters of the whole training, which the callback is told instead of those of a call of `fit`.
    """

    def __init__(self, callback: keras.callbacks.Callback, whole: Mapping[str, Any]) -> None:
        super().__init__()
        self.callback, self.whole, self.has_begun = callback, whole, False
        for name in dir(keras.callbacks.Callback):
            # What the callback leaves to Keras is not passed on: a hook after each batch makes JAX wait for the device.
            if name.startswith("on_") and name not in ("on_train_begin", "on_train_end") and _is_own(callback, name):
                setattr(self, name, getattr(callback, name))

    def set_params(self, params: dict[str, Any]) -> None:
        self.callback.set_params({**params, **self.whole})

    def set_model(self, model: keras.Model) -> None:
        self.callback.set_model(model)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.callback.on_train_begin(logs)


def _is_own(callback, name):
    """Returns whether a callback has a hook that is not the empty one of `keras.callbacks.Callback`."""
    return getattr(getattr(callback, name), "__func__", None) is not getattr(keras.callbacks.Callback, name)


def check_callbacks(callbacks: Iterable[keras.callbacks.Callback], recipe: Recipe) -> None:
    """Raises a `ValueError` if one of `callbacks` is none, has a state that is no JSON, or breaks a recipe's rule."""
    for callback in callbacks:
        _check_state(callback)
        name = type(callback).__name__
        for is_wrong, expected, hint in _rules(callback, recipe):
            if is_wrong:
                raise argument_error("callbacks", expected, name, hint)


def _check_state(callback):
    name = type(callback).__name__
    if not isinstance(callback, keras.callbacks.Callback):
        raise argument_error("callbacks", "keras.callbacks.Callback objects", name)
    if hasattr(callback, "state_dict") != hasattr(callback, "load_state_dict"):
        raise argument_error("callbacks", "with both state_dict and load_state_dict, or neither", name)
    try:
        _state_of(callback)
    except Exception as error:  # of its own `state_dict`
        reason = f"{type(error).__name__}: {error}"
        raise argument_error("callbacks", "with a state that JSON can hold", name, reason) from error


def _rules(callback, recipe):
    """Yields (whether a callback breaks it, what is expected, a hint) of each rule of a recipe's callbacks."""
    yield (
        isinstance(callback, _OF_THE_RATE) and (recipe.warmup_steps or recipe.schedule not in _OF_ONE_RATE),
        "none that sets the rate, which the recipe's schedule does",
        'Pass schedule="constant" and warmup_steps=0, or leave the callback out.',
    )
    yield (
        isinstance(callback, keras.callbacks.BackupAndRestore),
        "none that resumes a training, which a run does itself",
        "Leave it out: the same call resumes from the run's last checkpoint. See checkpoint_steps.",
    )
    swaps = isinstance(callback, keras.callbacks.SwapEMAWeights)
    yield (
        swaps and (callback.swap_on_epoch or not recipe.ema),
        "without swap_on_epoch, and of averages in a training with ema alone",
        "Pass ema=0.99: the run ends with the average by itself.",
    )
    decides = isinstance(callback, _DECIDING) and str(callback.monitor).startswith("val_")
    yield (
        decides and not recipe.validation_images,
        "none that decides by the test images",
        "Pass validation_images=...: test images that decide would make their error no measurement.",
    )
    restores = getattr(callback, "restore_best_weights", False)
    yield (
        recipe.ema and restores,
        "without restore_best_weights in a training with ema",
        "The average of the weights, which `ema` asks for, takes the place of the best ones.",
    )
    yield (
        recipe.levels and restores,
        "without restore_best_weights in a training of levels",
        "The best weights may be those of a shallower network.",
    )
    yield (
        recipe.levels and isinstance(callback, keras.callbacks.EarlyStopping),
        "without EarlyStopping in a training of levels",
        "It may end the training with a shallower network.",
    )
