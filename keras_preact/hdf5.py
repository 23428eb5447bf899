"""HDF5 files, read with suspicion."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_preact import bounds

if TYPE_CHECKING:
    import h5py

DIGEST = "keras_preact_sha256"  # the attribute of a weights file that holds what `digest_of` returns


def arrays(file: h5py.File, size: int | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yields (name, h5py dataset) of every array of an open HDF5 file, in the order of their names; reads none.

    Args:
        file: An open `h5py.File`.
        size: The bytes it has; those of the file on disk if None.

    Raises:
        ValueError: If the file holds what a weights file never does: links, data kept in another file, a group or an
            array under two names, values that are no numbers, or arrays that are larger than the file itself.
    """
    import h5py

    size, claimed = os.path.getsize(file.filename) if size is None else size, 0
    for name, item in _items(file, "", bounds.HDF5_DEEPEST, {_address(file)}):
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or item.shape is None:
            raise ValueError(f"{name} holds no numbers.")
        if item.is_virtual or item.external:
            raise ValueError(f"{name} is kept in another file.")
        claimed += item.nbytes
        if item.nbytes > size or claimed > bounds.UNPACKED * size:
            raise ValueError(f"{name} is said to hold {item.nbytes:,} bytes, in a file of {size:,}.")
        yield name, item


def _items(group, prefix, deepest, seen):
    """Yields (name, item) of all that is no group; `seen` has the addresses of the objects met so far.

    An object is met once: groups under two names each, one within the other, make a path for every subset of them.
    """
    import h5py

    for key in sorted(group):
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link, which a weights file has no need of.")
        item = group[key]
        if (address := _address(item)) in seen:
            raise ValueError(f"{name} is there under another name, too, which a weights file has no need of.")
        seen.add(address)
        if not isinstance(item, h5py.Group):
            yield name, item
        elif not deepest:
            raise ValueError(f"{name} lies too deep.")
        else:
            yield from _items(item, f"{name}/", deepest - 1, seen)


def _address(item):
    import h5py

    return h5py.h5o.get_info(item.id).addr


def digest_of(file: h5py.File, finite: bool = False) -> str:
    """Returns the SHA-256 of every array's name, type, shape and values in an open HDF5 file, as hexadecimal digits.

    Raises:
        ValueError: As `arrays`, or, if they must be `finite`, of the first array with a value that is not.
    """
    digest = hashlib.sha256()
    for name, dataset in arrays(file):
        array = dataset[()]
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite.")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))  # h5py's arrays are contiguous: no copy
    return digest.hexdigest()
