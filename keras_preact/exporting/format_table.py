"""The formats of exported models, as a table. Imports no Keras."""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True)
class Format:
    """Says where a format is written, the packages it needs, and on which backends."""

    file: str
    needs: tuple[str, ...]
    only_tensorflow: bool = True


FormatName: TypeAlias = Literal["savedmodel", "onnx", "litert", "litert_int8"]
FORMATS: dict[FormatName, Format] = {
    "savedmodel": Format("saved_model", ("tensorflow",)),
    "onnx": Format("model.onnx", ("onnx", "onnxruntime"), only_tensorflow=False),
    "litert": Format("model.tflite", ("tensorflow",)),
    "litert_int8": Format("model.int8.tflite", ("tensorflow",)),
}
DEFAULT: tuple[FormatName, ...] = ("savedmodel", "onnx", "litert")
