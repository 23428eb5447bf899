"""Pre-activation ResNets (*Identity Mappings in Deep Residual Networks*, He et al. 2016) for Keras 3."""

import importlib.util
import os
import pathlib
import sys
from typing import TYPE_CHECKING

# As a command, leave TensorFlow's start-up notes out.
if pathlib.Path(sys.argv[0]).name == "keras-preact" or (sys.argv[0] == "-m" and "keras_preact" in sys.orig_argv):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_preact.backbone import ResNetFeatures
from keras_preact.network.costs import summary
from keras_preact.network.deepening import deepen
from keras_preact.network.families import IMPLEMENTATIONS, cifar_spec, imagenet_spec
from keras_preact.network.frozen import frozen_function
from keras_preact.network.model import ResidualNetwork, relayout
from keras_preact.network.registry import register_ordering, register_shortcut, register_unit
from keras_preact.network.shortcuts import ShortcutParameter
from keras_preact.network.spec import (
    ORDERINGS,
    SHORTCUT_PARAMETERS,
    NetworkSpec,
    Ordering,
    ShortcutSpec,
    StemSpec,
)
from keras_preact.resnets import (
    ResNet,
    ResNet50,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNet164,
    ResNet200,
    ResNet1001,
)
from keras_preact.version import __version__
from keras_preact.zoo import build_network, fetch_weights, get_model, list_models

if TYPE_CHECKING:  # for editors and type checkers: the names of _LAZY
    from keras_preact.data import load
    from keras_preact.data.augment import Augmentation
    from keras_preact.data.batches import TrainingBatches
    from keras_preact.data.dataset import from_arrays
    from keras_preact.exporting import export
    from keras_preact.laboratory.analysis.measure import analyze
    from keras_preact.laboratory.analysis.report import explain
    from keras_preact.laboratory.reproduce.report import reproduce_table
    from keras_preact.laboratory.sweep.grid import sweep
    from keras_preact.laboratory.sweep.hypermodel import PreActHyperModel
    from keras_preact.training.evaluation import evaluate
    from keras_preact.training.predictor import predict
    from keras_preact.training.publish import verify
    from keras_preact.training.recipe import Recipe
    from keras_preact.training.recipes import RECIPES
    from keras_preact.training.trainer import train
    from keras_preact.transfer.finetuning import finetune
    from keras_preact.transfer.rule import recipe_for
    from keras_preact.weights.cards import Card, get_card, list_weights
    from keras_preact.weights.preprocessing import Preprocessing, decode_predictions, preprocess_input

# Not names, but what a run's model.keras is compiled with; Keras finds only what has been imported.
importlib.import_module("keras_preact.training.muon")
importlib.import_module("keras_preact.training.optimizers")
importlib.import_module("keras_preact.training.training_model")

# Public names whose modules bring more than Keras with them; they are imported when first asked for.
_LAZY = {
    "Augmentation": "keras_preact.data.augment",
    "Card": "keras_preact.weights.cards",
    "PreActHyperModel": "keras_preact.laboratory.sweep.hypermodel",
    "Preprocessing": "keras_preact.weights.preprocessing",
    "RECIPES": "keras_preact.training.recipes",
    "Recipe": "keras_preact.training.recipe",
    "TrainingBatches": "keras_preact.data.batches",
    "analyze": "keras_preact.laboratory.analysis.measure",
    "decode_predictions": "keras_preact.weights.preprocessing",
    "evaluate": "keras_preact.training.evaluation",
    "explain": "keras_preact.laboratory.analysis.report",
    "export": "keras_preact.exporting",
    "finetune": "keras_preact.transfer.finetuning",
    "from_arrays": "keras_preact.data.dataset",
    "get_card": "keras_preact.weights.cards",
    "list_weights": "keras_preact.weights.cards",
    "load": "keras_preact.data",
    "predict": "keras_preact.training.predictor",
    "preprocess_input": "keras_preact.weights.preprocessing",
    "recipe_for": "keras_preact.transfer.rule",
    "reproduce_table": "keras_preact.laboratory.reproduce.report",
    "sweep": "keras_preact.laboratory.sweep.grid",
    "train": "keras_preact.training.trainer",
    "verify": "keras_preact.training.publish",
}
_NOW = (
    *("IMPLEMENTATIONS", "ORDERINGS", "SHORTCUT_PARAMETERS", "NetworkSpec", "Ordering", "ResNet", "ResNet50"),
    *("ResNet101", "ResNet110", "ResNet152", "ResNet164", "ResNet200", "ResNet1001", "ResNetFeatures"),
    *("ResidualNetwork", "ShortcutSpec", "StemSpec", "__version__", "build_network", "cifar_spec", "deepen"),
    *("fetch_weights", "frozen_function", "get_model", "imagenet_spec", "list_models", "relayout", "summary"),
)
_TUNES = all(map(importlib.util.find_spec, ("keras_tuner", "tensorboard")))  # the extra `tune`
__all__ = [*_NOW, *(name for name in _LAZY if _TUNES or name != "PreActHyperModel")]


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'keras_preact' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
