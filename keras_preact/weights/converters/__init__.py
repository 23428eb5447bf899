"""Other authors' weights files as arrays with our names: one module per source, everything of the file used, once.

A source says how its files are read (`read`), what we call an array of theirs (`our_name`: None for what we have no
use of), and how an array is laid out for us (`our_array`, where that differs).
"""

import math

import numpy as np

from keras_preact.errors import argument_error, check_choice
from keras_preact.weights.converters import keras_applications, osmr, timm

CONVERTERS = {"osmr": osmr, "keras_applications": keras_applications, "timm": timm}


def convert(source, path, spec, shapes):
    """Returns the arrays of a weights file by our names.

    Args:
        source: A key of `CONVERTERS`.
        path: The file.
        spec: The `NetworkSpec` of the network.
        shapes: The shape of every weight by the name that it has in the layout of layers.

    Returns:
        A dict of float32 arrays with the keys of `shapes`.

    Raises:
        ValueError: If the file is not whole, lacks an array, has one too many, or one of another shape or with values
            that are not finite; it is named.
    """
    module = CONVERTERS[check_choice("source", source, CONVERTERS)]
    try:
        with module.read(path) as stored:
            return rename(module, stored, spec, shapes)
    except Exception as error:  # h5py and safetensors have many kinds of their own
        raise argument_error("weights", f"a whole file of {source}'s of this network", str(path), str(error)) from error


def rename(module, stored, spec, shapes):
    """Returns `stored` (their name: anything with `shape` that NumPy can read) as arrays by our names, as `convert`."""
    arrays = {}
    for theirs, array in stored.items():
        ours = module.our_name(theirs, spec)
        if ours is None:
            continue
        if ours not in shapes or ours in arrays:
            raise ValueError(f"The file has {theirs}, which the network has {'twice' if ours in arrays else 'not'}.")
        arrays[ours] = _converted(module, theirs, ours, array, tuple(shapes[ours]))
    missing = [name for name in shapes if name not in arrays]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"The file lacks {', '.join(missing[:3])}{more}.")
    return arrays


def _converted(module, theirs, ours, array, shape):
    if math.prod(array.shape) != math.prod(shape):  # before it is read: a file may claim any size
        raise ValueError(f"{theirs} has shape {tuple(array.shape)}, where {ours} has {shape}.")
    values = np.asarray(array[...])
    if values.dtype.kind != "f":
        raise ValueError(f"{theirs} is {values.dtype}, no floating point numbers.")
    if hasattr(module, "our_array"):
        values = module.our_array(values, len(shape))
    if values.shape != shape:
        raise ValueError(f"{theirs} has shape {tuple(array.shape)}, where {ours} has {shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{theirs} holds values that are not finite.")
    return values.astype("float32")
