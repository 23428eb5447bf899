"""What the command line can do, Python can with one call, by the same names; what differs is listed here, with why."""

import dataclasses
import inspect

import pytest

import keras_preact
from keras_preact import cli
from keras_preact.cli import VERBS, function_of
from keras_preact.training import experiment, trainer
from keras_preact.training.recipe import Recipe
from keras_preact.transfer import finetuning
from keras_preact.transfer.trunk import Tuning

# The function of a verb whose name is another: Python's says of what it is, where the command has a word before it.
NAMES = {
    "list": "list_models",
    "weights list": "list_weights",
    "weights show": "get_card",
    "weights fetch": "fetch_weights",
    "weights keep": "keep_weights",
}
# What only Python has: objects and arrays, and what a function prints, which a command always does.
ONLY_PYTHON = {
    "train": {"model_options", "callbacks", "verbose"},
    "finetune": {"callbacks", "verbose", "source"},  # the rule's own is kept
    "launch": {"backend"},  # of any program; a command has its environment
    "export": {"preprocessing", "sample_images", "sample_labels", "calibration_images", "card", "verbose"},
    "sweep": {"model_options", "verbose", "source"},
    "explain": {"verbose"},
    "list": {"pattern"},
}
# `train` takes every option of a network; these have a flag.
NETWORK_FLAGS = {"ordering", "shortcut", "layout", "unroll", "remat", "family"}


def flags(verb):
    """Returns {name: default} of a verb; the fields of a dataclass stand for what holds them, of a pair the first."""
    found = {}
    for name, parameter in inspect.signature(function_of(verb)).parameters.items():
        if dataclasses.is_dataclass(parameter.default):
            found |= dataclasses.asdict(parameter.default)
        else:
            found[name] = parameter.default
    return {name: value for name, value in found.items() if name.removeprefix("no_") not in found.keys() - {name}}


def arguments(verb):
    """Returns {name: default} of a verb's function; of the fields that it takes as keywords, those of their class."""
    found = dict(inspect.signature(getattr(keras_preact, NAMES.get(verb, verb))).parameters)
    has_fields = found.pop("fields", None) is not None
    found = {name: parameter.default for name, parameter in found.items()}
    if has_fields:
        kinds = [Recipe, Tuning] if verb == "finetune" else [Recipe]
        found = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)} | found
    return found | (dict.fromkeys(NETWORK_FLAGS) if verb == "train" else {})


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_the_arguments_of_its_function(verb):
    ours, theirs = flags(verb), arguments(verb)
    assert ours.keys() == theirs.keys() - ONLY_PYTHON.get(verb, set())
    for name in ours.keys() & inspect.signature(getattr(keras_preact, NAMES.get(verb, verb))).parameters.keys():
        required = inspect.Parameter.empty in (ours[name], theirs[name])
        assert required or str(ours[name]).lower() == str(theirs[name]).lower(), name


def test_train_takes_every_option_of_a_network_and_none_twice(monkeypatch):
    assert {*experiment.NETWORK_OPTIONS} >= NETWORK_FLAGS
    assert not {*experiment.NETWORK_OPTIONS} & {*experiment.RECIPE_FIELDS}
    monkeypatch.setattr(trainer, "carry_out", lambda found, *_: found)
    found = keras_preact.train("ResNet11", steps=2, ordering="original", shortcut=keras_preact.ShortcutSpec("dropout"))
    options = found.options["ordering"], found.options["shortcut"]["name"]
    assert (found.recipe.steps, options) == (2, ("original", "dropout"))
    with pytest.raises(ValueError, match=r"`ordering` must be left out, as model_options has it"):
        keras_preact.train("ResNet11", ordering="original", model_options={"ordering": "original"})
    with pytest.raises(ValueError, match=r'`orderings` must be left out.*Nearest: "ordering"'):
        keras_preact.train("ResNet11", orderings="original")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["--epochs", "3", "--learning-rate", "0.5", "--freeze", "stem"], (3, 0.5, ("stem",))),
        (["--recipe", "digits", "--epochs", "2"], (2, 0.1, ())),
    ],
)
def test_finetune_takes_the_fields_of_the_recipe(command, expected, monkeypatch):
    """Counted in epochs with a recipe; without one the rule counts steps: 3 epochs of 22 steps of the digits."""
    found = []
    monkeypatch.setattr(finetuning, "carry_out", lambda experiment, *_: found.append(experiment) or {})
    cli.main(["finetune", "--weights", "resnet164.digits.digits", "--data", "digits", *command])
    recipe = found[0].recipe
    length = recipe.epochs if "--recipe" in command else recipe.steps / 22
    assert (length, recipe.learning_rate, found[0].tuning.freeze) == expected


def test_sweep_takes_the_fields_of_the_recipe(monkeypatch):
    from keras_preact.laboratory.sweep import grid

    found = []
    monkeypatch.setattr(grid, "check_trials", lambda trials, strategy: found.extend(trials) or pytest.exit)
    monkeypatch.setattr(grid, "_check_folder", lambda *_: (_ for _ in ()).throw(ValueError("far enough")))
    with pytest.raises(SystemExit):
        cli.main(["sweep", "--over", "depth=8:14", "--epochs", "2", "--weight-decay", "0.01", "--seeds", "1"])
    assert [(trial.recipe.epochs, trial.recipe.weight_decay) for trial in found] == [(2, 0.01)] * 2
    with pytest.raises(ValueError, match=r'`epoch` must be left out.*Nearest: "epochs"'):
        keras_preact.sweep("depth=8", epoch=2)
