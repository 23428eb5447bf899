"""Pre-activation ResNets (*Identity Mappings in Deep Residual Networks*, He et al. 2016) for Keras 3."""

import importlib.util
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the names of _AT_ONCE and _LAZY
    from keras_preact.backbone import ResNetFeatures
    from keras_preact.data import load, register_data
    from keras_preact.data.augment import Augmentation
    from keras_preact.data.batches import TrainingBatches
    from keras_preact.data.dataset import from_arrays
    from keras_preact.laboratory.analysis.measure import analyze
    from keras_preact.laboratory.analysis.report import explain
    from keras_preact.laboratory.reproduce.report import reproduce_table
    from keras_preact.laboratory.reproduce.reproduce import reproduce
    from keras_preact.laboratory.sweep.grid import sweep
    from keras_preact.laboratory.sweep.hypermodel import PreActHyperModel
    from keras_preact.network.copies import relayout
    from keras_preact.network.costs import summary
    from keras_preact.network.deepening import deepen
    from keras_preact.network.families import IMPLEMENTATIONS, cifar_spec, imagenet_spec
    from keras_preact.network.frozen import frozen_function
    from keras_preact.network.model import ResidualNetwork
    from keras_preact.network.registry import register_ordering, register_shortcut, register_unit
    from keras_preact.network.shortcuts import SHORTCUT_PARAMETERS, ShortcutParameter, ShortcutSpec
    from keras_preact.network.spec import NetworkSpec, StemSpec
    from keras_preact.network.unit_spec import ORDERINGS, Ordering
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
    from keras_preact.training.evaluation import evaluate
    from keras_preact.training.export import export
    from keras_preact.training.inspection import inspect
    from keras_preact.training.launcher import launch
    from keras_preact.training.predictor import predict
    from keras_preact.training.publish import keep_weights, verify
    from keras_preact.training.recipe import Recipe
    from keras_preact.training.recipes import RECIPES, register_recipe
    from keras_preact.training.trainer import train
    from keras_preact.transfer.finetuning import finetune
    from keras_preact.transfer.rule import recipe_for
    from keras_preact.version import __version__
    from keras_preact.weights.cards import Card, get_card, list_weights, register_weights
    from keras_preact.weights.converters import register_converter
    from keras_preact.weights.preprocessing import Preprocessing, decode_predictions, preprocess_input
    from keras_preact.zoo import build_network, fetch_weights, get_model, list_models

# Public names that a person's `import keras_preact` brings at once. A command imports what it needs.
_AT_ONCE = {
    "IMPLEMENTATIONS": "keras_preact.network.families",
    "NetworkSpec": "keras_preact.network.spec",
    "ORDERINGS": "keras_preact.network.unit_spec",
    "Ordering": "keras_preact.network.unit_spec",
    "ResNet": "keras_preact.resnets",
    "ResNet50": "keras_preact.resnets",
    "ResNet101": "keras_preact.resnets",
    "ResNet110": "keras_preact.resnets",
    "ResNet152": "keras_preact.resnets",
    "ResNet164": "keras_preact.resnets",
    "ResNet200": "keras_preact.resnets",
    "ResNet1001": "keras_preact.resnets",
    "ResNetFeatures": "keras_preact.backbone",
    "ResidualNetwork": "keras_preact.network.model",
    "SHORTCUT_PARAMETERS": "keras_preact.network.shortcuts",
    "ShortcutParameter": "keras_preact.network.shortcuts",
    "ShortcutSpec": "keras_preact.network.shortcuts",
    "StemSpec": "keras_preact.network.spec",
    "__version__": "keras_preact.version",
    "build_network": "keras_preact.zoo",
    "cifar_spec": "keras_preact.network.families",
    "deepen": "keras_preact.network.deepening",
    "fetch_weights": "keras_preact.zoo",
    "frozen_function": "keras_preact.network.frozen",
    "get_model": "keras_preact.zoo",
    "imagenet_spec": "keras_preact.network.families",
    "list_models": "keras_preact.zoo",
    "register_ordering": "keras_preact.network.registry",
    "register_shortcut": "keras_preact.network.registry",
    "register_unit": "keras_preact.network.registry",
    "relayout": "keras_preact.network.copies",
    "summary": "keras_preact.network.costs",
}
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
    "export": "keras_preact.training.export",
    "finetune": "keras_preact.transfer.finetuning",
    "from_arrays": "keras_preact.data.dataset",
    "get_card": "keras_preact.weights.cards",
    "inspect": "keras_preact.training.inspection",
    "keep_weights": "keras_preact.training.publish",
    "launch": "keras_preact.training.launcher",
    "list_weights": "keras_preact.weights.cards",
    "load": "keras_preact.data",
    "predict": "keras_preact.training.predictor",
    "preprocess_input": "keras_preact.weights.preprocessing",
    "recipe_for": "keras_preact.transfer.rule",
    "register_converter": "keras_preact.weights.converters",
    "register_data": "keras_preact.data",
    "register_recipe": "keras_preact.training.recipes",
    "register_weights": "keras_preact.weights.cards",
    "reproduce": "keras_preact.laboratory.reproduce.reproduce",
    "reproduce_table": "keras_preact.laboratory.reproduce.report",
    "sweep": "keras_preact.laboratory.sweep.grid",
    "train": "keras_preact.training.trainer",
    "verify": "keras_preact.training.publish",
}
# What a run's model.keras is compiled with: Keras finds only what has been imported.
_REGISTERING = (
    "keras_preact.training.optimizers",
    "keras_preact.training.training_model",
    "keras_preact.transfer.optimizer",
)
_TUNES = all(map(importlib.util.find_spec, ("keras_tuner", "tensorboard")))  # the extra `tune`
__all__ = [*_AT_ONCE, *(name for name in _LAZY if _TUNES or name != "PreActHyperModel")]


def __getattr__(name: str) -> Any:
    if name in _AT_ONCE or name in _LAZY:
        return getattr(importlib.import_module({**_AT_ONCE, **_LAZY}[name]), name)
    hint = f" Write keras_preact.ResNet({name[6:]})." if name.startswith("ResNet") and name[6:].isdecimal() else ""
    raise AttributeError(f"module 'keras_preact' has no attribute {name!r}.{hint}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command():
    """Returns whether this process is `keras-preact`, or `python -m keras_preact`."""
    program = sys.argv[0] if sys.argv else ""
    return pathlib.PurePath(program).name == "keras-preact" or (program == "-m" and "keras_preact" in sys.orig_argv)


if _is_command():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # leaves TensorFlow's notes out
    # TensorFlow uses oneDNN by itself only on CPUs that have AVX512_VNNI; the others gain as well: docs/devices.md.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
else:
    globals().update({name: __getattr__(name) for name in _AT_ONCE})
    for _module in _REGISTERING:
        importlib.import_module(_module)
