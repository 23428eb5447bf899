"""Fixtures of more than one file."""

import keras
import pytest


@pytest.fixture
def float64():
    """Computes in float64: Keras casts images and losses to `floatx`, and builds in the dtype policy."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
