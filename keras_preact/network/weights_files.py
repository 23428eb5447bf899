"""Weights files: what they say of their network, and whether they are whole."""

import contextlib
import json
import os
import pathlib
import textwrap
from typing import Any

from keras_preact.errors import argument_error
from keras_preact.files import HDF5_DIGEST, hdf5_digest
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
            digest, written = hdf5_digest(file, finite=True), _text_attribute(file, HDF5_DIGEST)
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
