"""What people do with `keras.applications.ResNet50V2`, one function a habit; see `case.py`."""

from habits import files, freezing, layers, models, training  # noqa: F401
from habits.case import HABITS, REFUSED, Case, attempt  # noqa: F401
