"""Runs exported files where neither Keras nor this package can be imported, and writes down what they give.

A program of its own, for `parity`: `python -P reload.py FOLDER`. `FOLDER/asked.json` maps a format to its file, and
`FOLDER/images.npz` to its uint8 images; `FOLDER/encoded` has image files for the SavedModel. It writes
`FOLDER/<format>.npz`, the outputs, and `FOLDER/measured.json`, the milliseconds a call takes.
"""

import importlib
import json
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Outputs: TypeAlias = dict[str, np.ndarray]
# From uint8 images to outputs; and from encoded image files, where the format takes them.
Loaded: TypeAlias = tuple[Callable[[np.ndarray], Outputs], Callable[[list[bytes]], Outputs] | None]

BATCHES = (1, 32)
ENCODED = "encoded"  # the probabilities of image files among a SavedModel's outputs
SECONDS, CALLS = 0.5, 30  # spent on timing one batch size, at most


def load_savedmodel(path: str) -> Loaded:
    """Returns a function from uint8 images to a dict of outputs, and one from encoded image files."""
    import tensorflow as tf

    model = tf.saved_model.load(path)
    serve, encoded = model.signatures["serving_default"], model.signatures.get("encoded")

    def called(signature, values):
        assert model is not None  # or its variables would be gone
        return {name: np.asarray(value) for name, value in signature(tf.constant(values)).items()}

    return lambda images: called(serve, images), encoded and (lambda files: called(encoded, files))


def load_onnx(path: str) -> Loaded:
    """Returns a function from uint8 images to a dict of outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}))), None


def load_litert(path: str) -> Loaded:
    """Returns a function from uint8 images to a dict of outputs; runs on ai-edge-litert, if installed, or tf.lite."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own is to go
        runner = Interpreter(path).get_signature_runner()
    return lambda images: runner(images=images), None


LOADERS = {"savedmodel": load_savedmodel, "onnx": load_onnx, "litert": load_litert, "litert_int8": load_litert}


def milliseconds(call: Callable[[np.ndarray], Outputs], images: np.ndarray) -> float:
    """Returns the median time of calls on as many images as there are in `images`."""
    times: list[float] = []
    start = time.perf_counter()
    while not times or (len(times) < CALLS and time.perf_counter() - start < SECONDS):
        before = time.perf_counter()
        call(images)
        times.append(1e3 * (time.perf_counter() - before))
    return round(statistics.median(times), 3)


def batches(call: Callable[[np.ndarray], Outputs], images: np.ndarray) -> Outputs:
    """Returns the outputs of a function for all images, taken `BATCHES[-1]` at a time."""
    parts = [call(images[start : start + BATCHES[-1]]) for start in range(0, len(images), BATCHES[-1])]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main(folder: str) -> None:
    """Loads, calls, times; what raises ends the program."""
    for module in ("keras", "keras_preact"):
        sys.modules[module] = None  # type: ignore[assignment]  # the import system takes it for "not to be had"
    folder = pathlib.Path(folder)
    asked = json.loads((folder / "asked.json").read_text())
    with np.load(folder / "images.npz") as images:
        images = dict(images)
    measured: dict[str, dict[str, Any]] = {}
    for name, path in asked.items():
        if name == "savedmodel":
            importlib.import_module("tensorflow")  # not a part of loading
        start = time.perf_counter()
        call, call_encoded = LOADERS[name](path)
        loaded = time.perf_counter() - start
        given = images[name]
        outputs = batches(call, given)
        again = batches(call, given)
        found: dict[str, Any] = {
            "load_s": round(loaded, 2),
            "repeats": all(np.array_equal(outputs[key], again[key]) for key in outputs),
        }
        found["latency_ms"] = {
            str(count): milliseconds(call, np.resize(given, (count, *given.shape[1:]))) for count in BATCHES
        }
        if call_encoded:
            files = [file.read_bytes() for file in sorted((folder / "encoded").iterdir())]
            outputs |= {ENCODED: call_encoded(files)["probabilities"]} if files else {}
        arrays: dict[str, Any] = {**outputs}
        np.savez(folder / f"{name}.npz", **arrays)
        measured[name] = found
    (folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1])
