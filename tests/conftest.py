"""Fixtures of more than one file."""

import contextlib

import keras
import pytest

from keras_preact import exporting
from keras_preact.data import DATA_SETS
from keras_preact.network.shortcuts import SHORTCUTS
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS
from keras_preact.training.recipes import RECIPES
from keras_preact.weights import cards
from keras_preact.weights.converters import CONVERTERS

CAN_EXPORT = exporting.can_export


@pytest.fixture(scope="session", autouse=True)
def _runs_without_savedmodel():
    """Leaves the SavedModel out of the runs of this process: it takes a third of a short one's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "can_export", lambda: False)
        yield


@pytest.fixture(scope="module")
def savedmodel():
    """Lets a test's runs have their SavedModel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "can_export", CAN_EXPORT)
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
