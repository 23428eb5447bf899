"""keras-tuner's searches, on networks of eight layers."""

import importlib
import math
import signal
import sys
import time
from types import SimpleNamespace

import keras_tuner
import pytest
from tiny_data import TINY, tiny

from keras_preact.laboratory.sweep import PreActHyperModel, Range, launch_search
from keras_preact.laboratory.sweep import hypermodel as hypermodel_module
from keras_preact.training.muon import Muon
from keras_preact.training.sgd import RecipeSGD

pytestmark = pytest.mark.usefixtures("eager")


@pytest.fixture(scope="module")
def data():
    return tiny()


def search(tuner, hypermodel, folder, **arguments):
    found = tuner(hypermodel, hypermodel.objective, directory=folder, project_name="search", seed=0, **arguments)
    found.search(verbose=0)
    return found


def test_the_parameters_of_a_shortcut_depend_on_it(data):
    space = {"shortcut": ("identity", "shortcut_only_gating"), "gate_bias": Range(-6.0, 0.0, step=1.0), "depth": (8,)}
    hypermodel = PreActHyperModel(data, space, TINY)
    assert hypermodel.point(keras_tuner.HyperParameters()) == {"shortcut": "identity", "depth": 8}
    hp = keras_tuner.HyperParameters()
    hp.values["shortcut"] = "shortcut_only_gating"
    assert hypermodel.point(hp) == {"shortcut": "shortcut_only_gating", "depth": 8, "gate_bias": -6.0}
    model = hypermodel.build(hp)
    assert model.network.spec.shortcut.gate_bias == -6.0
    assert len(hypermodel.validation.test) == 6


def test_a_range_of_whole_numbers_has_whole_numbers(data):
    space = {"global_batch_size": Range(8, 16, step=8), "depth": (8,)}
    hypermodel, hp = PreActHyperModel(data, space, TINY), keras_tuner.HyperParameters()
    hypermodel.build(hp)
    assert hp.values["global_batch_size"] == 8
    assert type(hp.values["global_batch_size"]) is int
    for space, message in (
        ({"global_batch_size": Range(8, 16, step=0.5)}, "step of global_batch_size"),
        ({"schedule": ("cosine", "plateau")}, "`patience` must be epochs with"),
    ):
        with pytest.raises(ValueError, match=message):
            PreActHyperModel(data, space, TINY)


def test_a_search_trains_as_the_recipe_says(data):
    recipe = TINY.replace(optimizer="muon", weight_decay_kind="decoupled", image_size=4)
    hypermodel = PreActHyperModel(data, {"optimizer": ("muon", "sgd"), "depth": (8,)}, recipe)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    assert type(model.optimizer) is Muon
    assert model.preparation.size == 4
    hp.values["optimizer"] = "sgd"
    assert type(hypermodel.build(hp).optimizer) is RecipeSGD
    with pytest.raises(ValueError, match=r"recipe.*levels"):
        PreActHyperModel(data, {"depth": (8,)}, recipe.replace(image_size=0, levels=((8, 8, recipe.epochs),)))


SPACE = {"shortcut": ("dropout", "identity"), "rate": Range(0.1, 0.5), "depth": (8,), "learning_rate": (0.05, 0.1)}


@pytest.mark.parametrize(
    ("tuner", "arguments"),
    [
        (keras_tuner.RandomSearch, {"max_trials": 2}),
        (keras_tuner.BayesianOptimization, {"max_trials": 2}),
        (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
    ],
)
def test_a_search_ends_with_a_best_trial(tuner, arguments, tmp_path, data):
    hypermodel = PreActHyperModel(data, SPACE, TINY)
    found = search(tuner, hypermodel, tmp_path, **arguments)
    done = list(found.oracle.trials.values())
    assert len(done) >= 2
    assert {trial.status for trial in done} == {"COMPLETED"}
    best = found.oracle.get_best_trials(1)[0]
    assert best.score == min(trial.score for trial in done)
    network = found.get_best_models(1)[0].network
    assert network.spec.shortcut.name == best.hyperparameters.get("shortcut")


def test_a_grid_search_fails_a_trial_that_diverges(tmp_path, data):
    hypermodel = PreActHyperModel(data, {"learning_rate": (1e30, 0.05), "depth": (8,)}, TINY)
    found = search(keras_tuner.GridSearch, hypermodel, tmp_path)
    done = {trial.hyperparameters.get("learning_rate"): trial for trial in found.oracle.trials.values()}
    assert {rate: trial.status for rate, trial in done.items()} == {1e30: "FAILED", 0.05: "COMPLETED"}
    assert "The loss is nan at step" in done[1e30].message
    best = found.oracle.get_best_trials(2)[0]
    assert best.hyperparameters.get("learning_rate") == 0.05


def test_a_trial_whose_last_step_diverges_fails(data):
    model = SimpleNamespace(fit=lambda *_, **__: SimpleNamespace(history={"loss": [1.0], "val_loss": [math.nan]}))
    with pytest.raises(keras_tuner.errors.FailedTrialError, match="held out is nan"):
        PreActHyperModel(data, {"depth": (8,)}, TINY).fit(keras_tuner.HyperParameters(), model)


def test_a_trial_has_the_epochs_of_its_tuner_goes_on_and_is_measured_on_what_is_held_out(data, monkeypatch):
    hp = keras_tuner.HyperParameters()
    hp.values["tuner/epochs"] = 3
    hypermodel = PreActHyperModel(data, {"depth": (8,)}, TINY)
    model = hypermodel.build(hp)
    model.optimizer.iterations.assign(3)  # where the recipe's own epoch ends
    assert float(model.optimizer.learning_rate) == pytest.approx(0.075)  # a third of the cosine's way
    steps, measured, feed, measure = [], [], hypermodel_module.Feed, hypermodel_module.evaluation_data
    monkeypatch.setattr(hypermodel_module, "Feed", lambda batches, step: steps.append(step) or feed(batches, step))
    monkeypatch.setattr(
        hypermodel_module, "evaluation_data", lambda data, *rest: measured.append(data) or measure(data, *rest)
    )
    fake = SimpleNamespace(fit=lambda *_, **__: SimpleNamespace(history={"val_loss": [1.0]}))
    hypermodel.fit(hp, fake, epochs=3, initial_epoch=2)
    assert steps == [6]
    assert measured == [hypermodel.validation]


def test_a_recipe_that_a_search_cannot_follow_is_refused(data):
    with pytest.raises(ValueError, match="steps=0"):
        PreActHyperModel(data, recipe="paper_cifar")
    with pytest.raises(ValueError, match="a sequence of values"):
        PreActHyperModel(data, {"depth": Range(8, 20)})
    with pytest.raises(ValueError, match="Nearest: 8, 11"):
        PreActHyperModel(data, {"depth": (8, 9)})
    with pytest.raises(ValueError, match='Nearest: "resnet50"'):
        PreActHyperModel(data, {"width": (8, 16)}, model="vgg")
    for space in ({"rate": (0.5,)}, {"rate": (0.5,), "shortcut": ("identity", "conv1x1")}):
        with pytest.raises(ValueError, match="`space` must be with a shortcut that takes rate: dropout"):
            PreActHyperModel(data, space)
    PreActHyperModel(data, {"rate": (0.5,)}, model_options={"shortcut": "dropout"})
    for name in ("steps", "ema", "validation_images"):
        with pytest.raises(ValueError, match=f"`space` must be without {name}"):
            PreActHyperModel(data, {name: (0, 0.5) if name == "ema" else (8, 16)})


def test_a_missing_keras_tuner_names_the_packages(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_preact.laboratory.sweep.hypermodel")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install keras-tuner tensorboard"):
        importlib.import_module("keras_preact.laboratory.sweep.hypermodel")


CHIEF_AND_WORKERS = """
import os, signal, sys, time
assert os.environ["KERASTUNER_ORACLE_IP"] == "127.0.0.1" and int(os.environ["KERASTUNER_ORACLE_PORT"])
name = os.environ["KERASTUNER_TUNER_ID"]
open(os.path.join(sys.argv[1], name), "w").close()
if name == "tuner1" and sys.argv[2] == "dies":
    while len(os.listdir(sys.argv[1])) < 3:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600 if sys.argv[2] == "dies" else 0)
"""


@pytest.mark.parametrize(("end", "status"), [("lives", 0), ("dies", 128 + signal.SIGKILL)])
def test_a_search_of_several_processes_ends_when_a_worker_dies(end, status, tmp_path):
    began = time.monotonic()
    assert launch_search([sys.executable, "-c", CHIEF_AND_WORKERS, str(tmp_path), end]) == status
    assert time.monotonic() - began < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chief", "tuner0", "tuner1"]


def test_a_search_is_launched_by_a_list_of_words():
    with pytest.raises(ValueError, match="`command` must be a list of words, the program first"):
        launch_search("python search.py")
