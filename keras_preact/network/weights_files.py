"""Weights files: what they say of their network, and whether they are whole."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import textwrap
from typing import Any

import keras

from keras_preact import hdf5
from keras_preact.errors import argument_error
from keras_preact.files import written_aside
from keras_preact.network.claims import check_fingerprint
from keras_preact.types import PathLike

FINGERPRINT = "keras_preact_network"


def holds_optimizer(path: PathLike) -> bool:
    """Returns whether a weights file has the state of an optimizer."""
    import h5py

    with contextlib.suppress(OSError, RuntimeError), h5py.File(path, "r") as file:
        return "optimizer" in file
    return False


def read_fingerprint(path: PathLike) -> dict[str, Any] | None:
    """Returns what a weights file says of its network, or None; `check_whole` tells whether its arrays are whole."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            theirs = json.loads(_text_attribute(file, FINGERPRINT) or "null")
        if theirs is not None and not (isinstance(theirs, dict) and {"channels", "num_classes"} <= theirs.keys()):
            raise ValueError(f"It says {textwrap.shorten(str(theirs), 300)} of its network.")
        if theirs is not None:
            check_fingerprint(theirs, os.path.getsize(path))
        return theirs
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise argument_error("filepath", "a whole .weights.h5 file", str(path), str(error)) from error


def check_whole(path: PathLike) -> None:
    """Raises a `ValueError` unless the arrays of a weights file are those that were written, and finite."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            digest, written = hdf5.digest_of(file, finite=True), _text_attribute(file, hdf5.DIGEST)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(str(error)) from error
    if written not in (None, digest):
        raise ValueError("Its arrays are not those that were written.")


def _text_attribute(file, name):
    """Returns an attribute of an open HDF5 file, None if there is none; a list, whose length may be any, is refused."""
    if name not in file.attrs:
        return None
    if file.attrs.get_id(name).shape != ():
        raise ValueError(f"Its {name} is no text.")
    return file.attrs[name]


def weights_path(filepath: PathLike) -> pathlib.Path:
    """Returns the path of a weights file; a `ValueError` says if its name does not end as it must."""
    path = pathlib.Path(filepath)
    if not path.name.endswith(".weights.h5"):
        raise argument_error("filepath", "a name that ends in .weights.h5", str(filepath))
    return path


def halve_kernels(path: PathLike) -> None:
    """Stores the convolution kernels of a weights file, nearly all of its numbers, as float16; all else stays."""
    import h5py

    with written_aside(pathlib.Path(path)) as aside, h5py.File(path, "r") as ours, h5py.File(aside, "w") as file:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                is_kernel = item.ndim >= 4 and item.dtype.kind == "f"
                copied = file.create_dataset(name, data=item[()].astype("float16") if is_kernel else item[()])
            else:
                copied = file.create_group(name)
            copied.attrs.update(item.attrs)

        ours.visititems(copy)
        file.attrs.update(ours.attrs)
        file.attrs[hdf5.DIGEST] = hdf5.digest_of(file, finite=True)


def misfit(network: keras.Model, path: PathLike) -> str:
    """Returns a sentence on the first array that a file lacks, or has in another shape than a stacked network.

    Keras prints the values of such arrays, and does not say which one is missing. "" if it is something else.
    """
    import h5py

    own = pathlib.Path(tempfile.mkdtemp()) / "own.weights.h5"
    try:
        keras.Model.save_weights(network, own)
        with h5py.File(own, "r") as ours, h5py.File(path, "r") as file:
            theirs = {name: array.shape for name, array in hdf5.arrays(file)}
            for name, array in hdf5.arrays(ours):
                if name.startswith("layers/") and theirs.get(name) != array.shape:
                    layer = network.get_layer(array.parent.attrs["name"])
                    known = f"{layer.weights[int(name.rpartition('/')[2])].path} ({name})"
                    found = f"has shape {theirs[name]}" if name in theirs else "is missing"
                    return f"{known} {found}, where the network has {array.shape}."
    except (OSError, RuntimeError, KeyError, ValueError):
        pass
    finally:
        shutil.rmtree(own.parent, ignore_errors=True)
    return ""
