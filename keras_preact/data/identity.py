"""By what the images of a data set are known again."""

import hashlib
import os

import numpy as np

from keras_preact.data.dataset import ArraySplit, DataSet, Subset
from keras_preact.data.files import spread

LOOKED_AT = 50_000  # files of a split whose sizes are read


def digest(data: DataSet) -> str:
    """Returns the SHA-256 of a `DataSet`'s images and labels, `"sha256:..."`.

    Of images in memory it has every pixel; of files their names within the folder, their labels, and the sizes of
    50,000 of them, spread over the split.
    """
    found = hashlib.sha256()
    for split in (data.train, data.test):
        _add(found, split)
    return f"sha256:{found.hexdigest()}"


def _add(found, split):
    found.update(f"{len(split)} {tuple(split.image_shape)}".encode())
    found.update(np.ascontiguousarray(split.labels, np.int32))
    if isinstance(split, Subset):
        found.update(np.ascontiguousarray(split.indices, np.int64))
        _add(found, split.split)
    elif isinstance(split, ArraySplit):
        found.update(np.ascontiguousarray(split.images))
    else:
        paths = getattr(split.paths, "files", split.paths)  # TFDS keeps many images in a file
        names = ("/".join(os.fspath(path).split(os.sep)[-2:]) for path in paths)
        found.update("\0".join(names).encode("utf-8", "surrogateescape"))
        found.update(repr([os.path.getsize(paths[index]) for index in spread(len(paths), LOOKED_AT)]).encode())
