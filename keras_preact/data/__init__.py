"""Data sets by name, and their batches."""

from keras_preact.data.digits import load_digits
from keras_preact.errors import check_choice

DATA_SETS = {"digits": load_digits}


def load(name):
    """Returns the `DataSet` called `name`, one of `DATA_SETS`; a `ValueError` names the nearest if there is none."""
    return DATA_SETS[check_choice("data", name, DATA_SETS)]()
