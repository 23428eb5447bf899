"""Keras 2's `save_weights` files: HDF5 with an array at `<layer>/<path of the variable>:0`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from keras_preact.hdf5 import arrays
from keras_preact.types import PathLike

if TYPE_CHECKING:
    import h5py


@contextlib.contextmanager
def read(path: PathLike) -> Iterator[dict[str, h5py.Dataset]]:
    """Yields {name: h5py dataset} of a Keras 2 weights file; names come without their `:0`."""
    import h5py

    with h5py.File(path, "r") as file:
        yield {name.removesuffix(":0"): dataset for name, dataset in arrays(file)}
