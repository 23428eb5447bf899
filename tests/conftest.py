"""Fixtures of more than one file."""

import keras
import pytest

from keras_preact import exporting

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


@pytest.fixture
def float64():
    """Computes in float64: Keras casts images and losses to `floatx`, and builds in the dtype policy."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
