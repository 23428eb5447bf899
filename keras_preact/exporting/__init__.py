"""Models that leave Python: SavedModel, ONNX, LiteRT, each compared with the Keras model after writing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the names of _MODULES
    from keras_preact.errors import ParityError
    from keras_preact.exporting.format_table import FORMATS
    from keras_preact.exporting.formats import export_network
    from keras_preact.exporting.savedmodel import can_export, export_savedmodel
    from keras_preact.weights.preprocessing import Preprocessing

# The names of this folder, each imported when it is first asked for: the command line reads the table without Keras.
_MODULES = {
    "FORMATS": "keras_preact.exporting.format_table",
    "ParityError": "keras_preact.errors",
    "Preprocessing": "keras_preact.weights.preprocessing",
    "can_export": "keras_preact.exporting.savedmodel",
    "export_network": "keras_preact.exporting.formats",
    "export_savedmodel": "keras_preact.exporting.savedmodel",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
