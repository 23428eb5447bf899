"""Exported files against the Keras model: the same images through both, the files in a process without Keras."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_preact.data import geometry
from keras_preact.data.files import open_image
from keras_preact.errors import ParityError
from keras_preact.exporting import encoded, reload
from keras_preact.exporting import preprocessing as in_graph
from keras_preact.exporting.inference import stacked
from keras_preact.network.build import classifier_logits
from keras_preact.network.model import ResidualNetwork
from keras_preact.types import PathLike

if TYPE_CHECKING:
    from keras_preact.weights.preprocessing import Preprocessing

TOLERANCE = 1e-3  # of a probability: float32 rounding moves ResNet-1001's by 1.5e-4, shallow networks' by 1e-6
HALF = ("bfloat16", "float16")
HALF_TOLERANCE = 2e-2  # where the Keras model computes with 8 bits, or 11, of each number
RELATIVE = 10.0  # a logit may differ by so many times as much, of the largest: flat probabilities hide what differs
SMALLEST_LOGIT = 1e-3  # below it logits are rounding
INT8_AGREEMENT = 0.9  # the share of images that int8 must class as float does


def compare(
    model: ResidualNetwork,
    files: Mapping[str, PathLike],
    preprocessing: Preprocessing,
    images: np.ndarray,
    labels: np.ndarray | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs exported files in a fresh process and compares them with `model`.

    Args:
        model: The network they were written from.
        files: A dict from a format to its path.
        preprocessing: The `Preprocessing` written into them.
        images: uint8 (images, height, width, channels) of any size.
        labels: Whole numbers (images,), or None.

    Returns:
        A dict from a format to what was measured: the largest difference of a probability and of a logit (this one
        relative to the largest), for a SavedModel that of a probability of the `encoded.files` too, the share of images
        with the same most probable class, size, seconds to load, milliseconds a call, with labels the error in percent.

    Raises:
        ParityError: If a file cannot be run, differs by more than the constants of this module allow, or gives two
            answers to one question.
    """
    # ONNX and LiteRT are written in float32, whatever the model computes in, and do not resize.
    plain = model if model.get_config()["dtype"] == "float32" else stacked(model, "float32")
    fitted = in_graph.fitted(images, preprocessing)
    sources = {name: (model, images) if name == "savedmodel" else (plain, fitted) for name in files}
    sent = encoded.files(images) if "savedmodel" in files and images.shape[-1] in (1, 3) else {}
    measured, outputs = _run(files, {name: given for name, (_, given) in sources.items()}, sent)
    report, expected = {}, {}
    for name, (network, given) in sources.items():
        source = id(network), id(given)
        if source not in expected:
            expected[source] = reference(network, preprocessing, given)
        found = differences(outputs[name], expected[source], labels)
        report[name] = {**found, "megabytes": size(files[name]), **measured[name]}
    if sent:
        answers = reference(model, preprocessing, _as_read(sent, preprocessing))["probabilities"]
        report["savedmodel"]["encoded_difference"] = _off(outputs["savedmodel"][reload.ENCODED], answers, 1.0)
    problems = {name: _problem(name, found, model) for name, found in report.items()}
    for name, problem in problems.items():
        if problem:
            raise ParityError(f"The exported {name} file {problem}. Nothing of the export is kept.")
    return report


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Computes float32 in float32 in its body: recent GPUs round what they multiply to 10 bits (TF32)."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("float32"):
            yield
        return
    if backend == "torch":
        import torch

        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
        return
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def reference(model: ResidualNetwork, preprocessing: Preprocessing, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the Keras model gives for uint8 images: a dict of `probabilities` and `logits`, float64."""
    both = keras.Model(model.input, [model.output, model.get_layer("pool").output])
    if keras.backend.backend() == "tensorflow":
        both.jit_compile = False  # a model that is not compiled would take XLA, and long
    parts, count = [], reload.BATCHES[-1]
    with full_precision():
        for start in range(0, len(images), count):
            batch = in_graph.prepared(images[start : start + count], preprocessing)
            parts.append(both.predict_on_batch(keras.ops.convert_to_numpy(batch)))
        probabilities, features = map(np.concatenate, zip(*parts))
        logits = keras.ops.convert_to_numpy(classifier_logits(model, features)).astype("float64")
    if not np.isfinite(logits).all():
        hint = "An untrained deep network overflows in inference: train it first."
        raise ParityError(f"{model.name} itself gives numbers that are not finite. {hint}")
    return {"probabilities": probabilities.astype("float64"), "logits": logits}


def tolerance(model: ResidualNetwork) -> float:
    """Returns how much a probability of a SavedModel may differ from `model`, in whose precision it computes."""
    return HALF_TOLERANCE if model.get_layer("stem_conv").compute_dtype in HALF else TOLERANCE


def size(path: PathLike) -> float:
    """Returns the megabytes of a file, or of all files of a folder."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return round(sum(file.stat().st_size for file in files) / 1e6, 3)


def table(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of a table for people."""
    titles = (
        "format",
        "MB",
        "load s",
        *(f"ms of {count}" for count in reload.BATCHES),
        "max diff",
        "same top-1",
        "error %",
    )
    rows = [titles]
    for name, found in report.items():
        error = f"{found['error_percent']:.2f}" if "error_percent" in found else ""
        latency = [f"{found['latency_ms'][str(count)]:.2f}" for count in reload.BATCHES]
        same, difference = f"{100 * found['top1_agreement']:.2f} %", f"{found['probability_difference']:.1e}"
        rows.append((name, f"{found['megabytes']:.2f}", f"{found['load_s']:.2f}", *latency, difference, same, error))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _run(files, given, sent):
    """Returns, by format, what `reload` measured, and the dict of arrays that it got; `sent` are image files."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "asked.json").write_text(json.dumps({name: str(path) for name, path in files.items()}))
        np.savez(folder / "images.npz", **given)
        (folder / "encoded").mkdir()
        for number, contents in enumerate(sent.values()):
            (folder / "encoded" / f"{number:02}").write_bytes(contents)
        # On the CPU: this process may hold all memory of the GPUs.
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        command = [sys.executable, "-P", reload.__file__, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            lines = "\n".join(done.stderr.strip().splitlines()[-8:])
            raise ParityError(
                f"An exported file cannot be run in a fresh process:\n{lines}\nNothing of the export is kept."
            )
        outputs = {}
        for name in files:
            with np.load(folder / f"{name}.npz") as arrays:
                outputs[name] = dict(arrays)
        return json.loads((folder / "measured.json").read_text()), outputs


def _as_read(sent, preprocessing):
    """Returns image files as data sets of files are read, uint8 (files, *input_shape).

    Each is cut by itself: one that lies on its side has another size than the others.
    """
    channels = preprocessing.channels
    pixels = (geometry.pixels(open_image(io.BytesIO(contents), channels)) for contents in sent.values())
    parts = [keras.ops.convert_to_numpy(in_graph.cut(one[None], preprocessing)) for one in pixels]
    return np.concatenate(parts).astype("uint8")


def differences(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], labels: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns by how much two dicts of `logits` and `probabilities` (images, classes) differ, as `compare` says."""
    ours, theirs = _classes(found), _classes(expected)
    result = {
        "images": len(ours),
        "probability_difference": _off(found["probabilities"], expected["probabilities"], 1.0),
        "relative_logit_difference": _off(found["logits"], expected["logits"], SMALLEST_LOGIT),
        "top1_agreement": float(np.mean(ours == theirs)),
    }
    if labels is not None:
        result["error_percent"] = round(100.0 * float(np.mean(ours != labels)), 4)
        result["keras_error_percent"] = round(100.0 * float(np.mean(theirs != labels)), 4)
    return result


def _off(found, expected, least):
    """Returns the largest difference of two arrays, as a share of the largest number, or of `least` if that is more.

    Probabilities, of which `least` is 1, are so compared as they are; logits in their place, relatively.
    """
    return float(np.abs(found - expected).max()) / max(float(np.abs(expected).max()), least)


def _classes(found):
    """Returns the most probable class of each image; of one output it is 1 where the logit is above 0."""
    logits, probabilities = found["logits"], found["probabilities"]
    return (logits[:, 0] > 0).astype(int) if logits.shape[-1] == 1 else probabilities.argmax(-1)


def _problem(name, found, model):
    """Returns what is wrong with a file, or None."""
    if not found["repeats"]:
        return "answers the same images differently the second time"
    if not found.get("encoded_difference", 0.0) <= tolerance(model):
        return f"differs from {model.name} by {found['encoded_difference']} in a probability when images come encoded"
    if name.endswith("int8"):
        agreement = found["top1_agreement"]
        return (
            None if agreement >= INT8_AGREEMENT else f"agrees with float on {100 * agreement:.1f} % of the images only"
        )
    return far_off(found, model.name, tolerance(model) if name == "savedmodel" else TOLERANCE)


def far_off(found: Mapping[str, Any], name: str, bound: float) -> str | None:
    """Returns how what `differences` found differs from the network called `name` by more than `bound`, or None."""
    difference, relative = found["probability_difference"], found["relative_logit_difference"]
    if not difference <= bound:  # so that NaN is too much
        return f"differs from {name} by {difference} in a probability"
    if not relative <= RELATIVE * bound:
        return f"differs from {name} by {relative} of the largest logit"
    return None
