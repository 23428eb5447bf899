"""Fixtures of more than one file."""

import contextlib
import gc
import os

# What JAX and XLA compile here runs for a few steps: that LLVM makes it fast takes longer than it saves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import keras
import pytest

from keras_preact import exporting
from keras_preact.data import DATA_SETS
from keras_preact.keras_hooks import without_values
from keras_preact.network.shortcuts import SHORTCUTS
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS
from keras_preact.training.callbacks import RunFiles
from keras_preact.training.recipes import RECIPES
from keras_preact.weights import cards
from keras_preact.weights.converters import CONVERTERS

CAN_EXPORT, PLOT = exporting.can_export, RunFiles._plot
DEAREST = ("training", "exporting", "laboratory", "network")


def pytest_collection_modifyitems(items):
    """Puts the folders first whose files take longest: one process would be left alone with the last of them."""
    places = {name: place for place, name in enumerate(DEAREST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _runs_without_savedmodel():
    """Leaves SavedModel and picture out of the runs of this process: they take a third of a short one's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "can_export", lambda: False)
        patch.setattr(RunFiles, "_plot", lambda self: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage():
    """Keeps what has been imported, a million objects, out of every collection of garbage, and makes those rarer."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="module")
def eager():
    """Compiles nothing in the tests of a file, which takes longer than the few steps of their runs."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def savedmodel():
    """Lets a test's runs have their SavedModel and their picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "can_export", CAN_EXPORT)
        patch.setattr(RunFiles, "_plot", PLOT)
        yield


@pytest.fixture
def no_values():
    """Builds networks whose weights have no values, which costs most of a large one's time."""
    with without_values():
        yield


@contextlib.contextmanager
def forgotten():
    """Forgets what is registered within: orderings, shortcuts, units, recipes, data sets, converters, weights."""
    tables = ORDERINGS, SHORTCUTS, UNIT_KINDS, RECIPES, DATA_SETS, CONVERTERS, cards._cards()
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, rows in zip(tables, before):
            table.clear()
            table.update(rows)


@pytest.fixture
def registries():
    """Forgets what a test registers."""
    with forgotten():
        yield


@pytest.fixture
def float64():
    """Computes in float64: Keras casts images and losses to `floatx`, and builds in the dtype policy."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
