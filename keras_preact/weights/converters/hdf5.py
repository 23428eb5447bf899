"""Keras 2's `save_weights` files: HDF5 with an array at `<layer>/<path of the variable>:0`."""

import contextlib

from keras_preact.files import hdf5_arrays


@contextlib.contextmanager
def read(path):
    """Yields {name: h5py dataset} of a Keras 2 weights file; names come without their `:0`."""
    import h5py

    with h5py.File(path, "r") as file:
        yield {name.removesuffix(":0"): dataset for name, dataset in hdf5_arrays(file)}
