"""Files that appear whole or not at all, and HDF5 files read with suspicion."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile

import numpy as np

HDF5_DIGEST = "keras_preact_sha256"
HDF5_DEEPEST = 32  # groups within groups; a file whose groups hold themselves has no end


@contextlib.contextmanager
def written_aside(path):
    """Yields a path in the same folder to write to; renames it to `path` at the end, or removes it on an error.

    The yielded path has the name of `path`, in a temporary folder, so that endings like `.weights.h5` stay. A folder
    is written and renamed the same way. The one it replaces is moved to a hidden name beside it for that moment, and
    back if the renaming fails, so that a kill at any time leaves a whole folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield aside / path.name
        _replace(path, aside / path.name, aside.with_name(f"{aside.name}.replaced"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(path, new, old):
    """Renames `new` to `path`; a folder at `path`, which cannot be replaced in one step, is moved to `old` before."""
    if not path.is_dir():
        os.replace(new, path)
        return
    new.lstat()  # raises if nothing was written, while the old folder is still in its place
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text(path, text):
    """Writes `text` to `path`, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def hdf5_arrays(file):
    """Yields (name, h5py dataset) of every array of an open HDF5 file, in the order of their names; reads none.

    Raises:
        ValueError: If the file holds what a weights file never does: links, data kept in another file, groups without
            end, values that are no numbers, or an array that is larger than the file itself.
    """
    yield from _hdf5_arrays(file, "", os.path.getsize(file.filename), HDF5_DEEPEST)


def _hdf5_arrays(group, prefix, size, deepest):
    import h5py

    for key in sorted(group):
        name = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link, which a weights file has no need of.")
        item = group[key]
        if isinstance(item, h5py.Group):
            if not deepest:
                raise ValueError(f"{name} lies too deep.")
            yield from _hdf5_arrays(item, f"{name}/", size, deepest - 1)
            continue
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub" or item.shape is None:
            raise ValueError(f"{name} holds no numbers.")
        if item.is_virtual or item.external:
            raise ValueError(f"{name} is kept in another file.")
        if item.nbytes > size:
            raise ValueError(f"{name} is said to hold {item.nbytes:,} bytes, in a file of {size:,}.")
        yield name, item


def hdf5_digest(file, finite=False):
    """Returns the SHA-256 of every array's name, type, shape and values in an open HDF5 file, as hexadecimal digits.

    Raises:
        ValueError: As `hdf5_arrays`, or, if they must be `finite`, of the first array with a value that is not.
    """
    digest = hashlib.sha256()
    for name, dataset in hdf5_arrays(file):
        array = dataset[()]
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds values that are not finite.")
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8))  # h5py's arrays are contiguous: no copy
    return digest.hexdigest()
