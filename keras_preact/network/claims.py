"""What files say of the networks in them, held to what the files can hold, before a network is built from it."""

from __future__ import annotations

import io
import json
import os
import textwrap
import zipfile
from collections.abc import Container, Mapping
from typing import Any

from keras_preact import bounds
from keras_preact.errors import argument_error, check_integer
from keras_preact.hdf5 import arrays
from keras_preact.network.parts import residual_network
from keras_preact.network.shapes import Shapes, weights_of
from keras_preact.network.spec import NetworkSpec
from keras_preact.types import PathLike

NETWORK = "keras_preact>ResidualNetwork"  # what Keras finds the class by
SIZES = {"units", "filters", "kernel_size", "groups"}  # of a layer, which no change of a built one alters
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def check_parameters(spec: NetworkSpec, channels: int, classes: int | None, size: int) -> None:
    """Raises a `ValueError` if a network has more parameters than its file has bytes: each takes one at least.

    Args:
        spec: A `NetworkSpec`.
        channels: What the network reads.
        classes: Outputs of its classifier; None if it has none.
        size: Bytes of the file.
    """
    shapes = Shapes()
    residual_network(shapes, (None, None, check_integer("channels", channels)), spec)
    count = sum(weight.size for weight in weights_of(shapes.operations).values())
    if classes is not None:
        count += spec.out_width * check_integer("num_classes", classes)
    if count > size:
        expected = f"a network of as many parameters as the {size:,} bytes of its file can hold"
        raise argument_error("spec", expected, f"{count:,} parameters")


def check_fingerprint(fingerprint: Mapping[str, Any], size: int) -> None:
    """Raises a `ValueError` unless a weights file of `size` bytes can hold the network that its fingerprint says."""
    fields = dict(fingerprint)
    channels, classes, features = fields.pop("channels"), fields.pop("num_classes"), fields.pop("features", None)
    check_parameters(as_far_as(NetworkSpec.from_dict(fields), features), channels, classes, size)


def check_keras_file(path: PathLike) -> dict[str, Any]:
    """Returns the configuration in a `.keras` file, which is not loaded for it.

    Raises:
        ValueError: If the file unpacks to far more than it is, its arrays are not those of a weights file, or it holds
            no network of this package, or one of more parameters than it has bytes.
        Exception: Of zipfile or h5py, if it is no whole `.keras` file.
    """
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info.file_size for info in archive.infolist()}
        unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > max(bounds.UNPACKED * size, bounds.UNPACKED_FREE):
            raise ValueError(f"It is said to unpack to {unpacked:,} bytes, being one of {size:,}.")
        if members[CONFIG] > bounds.CONFIG_BYTES:
            raise ValueError(f"Its {CONFIG} has {members[CONFIG]:,} bytes, above {bounds.CONFIG_BYTES:,}.")
        config = json.loads(archive.read(CONFIG))
        if WEIGHTS in members:
            _check_arrays(archive.read(WEIGHTS))
    if config.get("registered_name") != NETWORK:
        what = textwrap.shorten(repr(config.get("class_name")), 100)
        raise ValueError(f"It holds a model of class {what}, not a network that keras_preact built.")
    network = config["config"]
    _check_changes(network)
    spec = as_far_as(NetworkSpec.from_dict(network["spec"]), network.get("features"))
    check_parameters(spec, network["input_shape"][-1], classes_of(network), unpacked)
    return config


def _check_changes(network):
    """Raises a `ValueError` if what was changed of layers makes them larger: the parameters are counted without it."""
    for part in ("changed_layers", "layers"):  # as files of before have it
        entries = network.get(part) or {}
        for name, changes in entries.items():
            if larger := SIZES & changes.keys():
                raise ValueError(f"It changes {min(larger)} of its layer {name[:100]}, whose size is fixed.")
            if not 0 <= int(changes.get("lora_rank") or 0) <= bounds.LORA_RANK:
                raise ValueError(f"Its layer {name[:100]} has a lora_rank above {bounds.LORA_RANK:,}.")


def _check_arrays(content):
    import h5py

    with h5py.File(io.BytesIO(content), "r") as file:
        for _ in arrays(file, len(content)):
            pass


def classes_of(config: Mapping[str, Any]) -> int | None:
    """Returns the outputs of the classifier that a `ResidualNetwork` of this configuration ends in; None without it."""
    return config["num_classes"] if config["include_top"] and not config.get("features") else None


def as_far_as(spec: NetworkSpec, features: Container[str] | None) -> NetworkSpec:
    """Returns the spec of a network that ends with the last of the stages in `features`, or the whole one."""
    if not features:
        return spec
    stages = max(number for number in range(1, len(spec.units) + 1) if f"stage{number}" in features)
    parts = {name: getattr(spec, name)[:stages] for name in ("units", "widths", "strides")}
    rates = spec.drop_rates[: sum(parts["units"])]
    return spec.replace(stochastic_depth=rates if any(rates) else 0.0, **parts)
