"""Pre-activation ResNets (*Identity Mappings in Deep Residual Networks*, He et al. 2016) for Keras 3."""

import importlib
import os
import pathlib
import sys

if pathlib.Path(sys.argv[0]).name == "keras-preact":  # as a command, leave TensorFlow's start-up notes out
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_preact.backbone import ResNetFeatures
from keras_preact.network.costs import summary
from keras_preact.network.deepening import deepen
from keras_preact.network.families import IMPLEMENTATIONS, cifar_spec, imagenet_spec
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
from keras_preact.version import __version__
from keras_preact.zoo import (
    ResNet,
    ResNet50,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNet164,
    ResNet200,
    ResNet1001,
    build_network,
    fetch_weights,
    get_model,
    list_models,
)

# Not names, but what a run's model.keras is compiled with; Keras finds only what has been imported.
importlib.import_module("keras_preact.training.optimizers")
importlib.import_module("keras_preact.training.training_model")

# Public names whose modules bring more than Keras with them; they are imported when first asked for.
_LAZY = {
    "Card": "keras_preact.weights.cards",
    "RECIPES": "keras_preact.training.recipes",
    "Recipe": "keras_preact.training.recipe",
    "analyze": "keras_preact.laboratory.analysis.measure",
    "decode_predictions": "keras_preact.weights.preprocessing",
    "evaluate": "keras_preact.training.evaluation",
    "explain": "keras_preact.laboratory.analysis.report",
    "export": "keras_preact.exporting",
    "finetune": "keras_preact.transfer.finetuning",
    "get_card": "keras_preact.weights.cards",
    "list_weights": "keras_preact.weights.cards",
    "predict": "keras_preact.training.predictor",
    "preprocess_input": "keras_preact.weights.preprocessing",
    "recipe_for": "keras_preact.transfer.rule",
    "train": "keras_preact.training.trainer",
    "verify": "keras_preact.training.publish",
}


def __getattr__(name):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'keras_preact' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
