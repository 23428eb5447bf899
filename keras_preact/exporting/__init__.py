"""Models that leave Python: SavedModel, ONNX, LiteRT, each compared with the Keras model after writing."""

from keras_preact.exporting.formats import FORMATS, export
from keras_preact.exporting.parity import ParityError
from keras_preact.exporting.preprocessing import Preprocessing
from keras_preact.exporting.savedmodel import can_export, export_savedmodel

__all__ = ["FORMATS", "ParityError", "Preprocessing", "can_export", "export", "export_savedmodel"]
