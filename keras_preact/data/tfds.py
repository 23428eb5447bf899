"""Data sets as TensorFlow Datasets (TFDS) prepared them: small ones whole, ImageNet record by record."""

import contextlib
import hashlib
import importlib
import io
import logging
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from keras_preact.errors import argument_error
from keras_preact.files import written_aside
from keras_preact.weights.store import cache_folder

log = logging.getLogger(__name__)

ARRAY_RECORD = "array_record"
FRAME = 12  # bytes in front of a TFRecord's data: its length, and a checksum of that; four more follow the data


def tfds_folder() -> pathlib.Path:
    """Returns the folder in which TFDS keeps data sets."""
    return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(name: str, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the data set called `name`, its newest version, in `folder` or a folder within; or None."""
    folder = folder.resolve()
    for pattern in ("dataset_info.json", "*/dataset_info.json", f"{name}/*/dataset_info.json"):
        if found := [path.parent for path in folder.glob(pattern) if name in path.parts]:
            return max(found, key=lambda path: [int(part) if part.isdigit() else -1 for part in path.name.split(".")])
    return None


@contextlib.contextmanager
def _told_what_to_install():
    """Lets an `ImportError` of TFDS, or of what it reads a format with, say what to do."""
    try:
        yield
    except ImportError as error:
        packages = "tensorflow-datasets importlib_resources"
        hint = f"It takes pip install {packages}, and TensorFlow unless it is array_record."
        raise ImportError(f"{error}. {hint}") from error


def read_whole(folder: pathlib.Path) -> list[np.ndarray]:
    """Returns the images and labels of the splits train and test, as a list of four arrays.

    Raises:
        ImportError: If TFDS is not installed.
    """
    arrays = []
    with _told_what_to_install():
        tfds = importlib.import_module("tensorflow_datasets")
        builder = tfds.builder_from_directory(folder)
        for split in ("train", "test"):
            if builder.info.file_format.value == ARRAY_RECORD:
                records = list(builder.as_data_source(split))
                arrays += [np.stack([record[key] for record in records]) for key in ("image", "label")]
            else:
                records = tfds.as_numpy(builder.as_dataset(split, batch_size=-1))  # by TensorFlow
                arrays += [records["image"], records["label"]]
    return arrays


class Record(io.BytesIO):
    """Holds the bytes of an image file, with a name for errors."""

    def __init__(self, contents: bytes, name: str) -> None:
        super().__init__(contents)
        self.name = name

    def __str__(self) -> str:
        return self.name


class Records:
    """Gives each encoded image of a split by its index, in any order and from any thread.

    TFDS reads its array_record files so, but not its TFRecord files, of which the places of all records are looked up
    first. Neither says an image's label without reading it. So the first use reads every record once, and keeps labels
    and places in `KERAS_HOME`.

    Args:
        folder: That of the prepared data set.
        split: The split's name.

    Attributes:
        labels: int32 (images,).

    Raises:
        ImportError: If TFDS is not installed.
        ValueError: If a file is cut short.
    """

    def __init__(self, folder: pathlib.Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.source: Any = None
        with _told_what_to_install():
            tfds = importlib.import_module("tensorflow_datasets")
            self.builder = tfds.builder_from_directory(folder)
            if self.builder.info.file_format.value == ARRAY_RECORD:
                raw = tfds.decode.DeserializeMethod.RAW_BYTES
                self.source = self.builder.as_data_source(split, deserialize_method=raw)
        self.decoders = {"image": tfds.decode.SkipDecoding()}
        self.files = [str(path) for path in self.builder.info.splits[split].filepaths]
        path = cache_folder() / "records" / f"{self._digest()}.npz"
        if (kept := _read_kept(path)) is not None:
            self.labels, self.places = kept
        else:
            self.places = np.array(self._places(), np.int64).reshape(-1, 3)
            self.labels = self._read_labels()
            self._keep(path)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Record:
        return Record(self._example(index)["image"], f"record {index} of {self.folder}, {self.split}")

    def _example(self, index):
        if self.source is not None:
            raw = self.source[index]
        else:
            number, start, length = map(int, self.places[index])
            with open(self.files[number], "rb") as file:
                file.seek(start)
                raw = file.read(length)
        return self.builder.info.features.deserialize_example_np(raw, decoders=self.decoders)

    def _read_labels(self):
        count = len(self.places) if self.source is None else len(self.source)
        log.info(f"Reading the labels of {count:,} records of {self.folder}, {self.split}: once.")
        return np.array([self._example(index)["label"] for index in range(count)], np.int32)

    def _keep(self, path):
        try:
            with written_aside(path) as aside:
                np.savez(aside, labels=self.labels, places=self.places)
        except OSError as error:
            warnings.warn(f"{path} cannot be written ({error}): the labels will be read again.", stacklevel=2)

    def _places(self):
        """Returns (file's number, start, length) of each record's data in the TFRecord files."""
        if self.source is not None:
            return []
        places = []
        for number, path in enumerate(self.files):
            size, position = os.path.getsize(path), 0
            with open(path, "rb") as file:
                while position < size:
                    length = int.from_bytes(file.read(FRAME)[:8], "little")
                    places.append((number, position + FRAME, length))
                    position += FRAME + length + 4
                    file.seek(position)
            if position != size:
                raise argument_error("data_dir", "a data set whose files are whole", path, "It is cut short.")
        return places

    def _digest(self):
        """Returns what tells this split, in this place and state, from others."""
        states = [(path, os.path.getsize(path), os.stat(path).st_mtime_ns) for path in self.files]
        return hashlib.sha256(repr(states).encode()).hexdigest()[:32]


def _read_kept(path):
    """Returns the labels and places that a file in the cache holds; None if it is not there, or damaged."""
    # NumPy and zipfile raise errors of many kinds, and NumPy leaves a damaged file open.
    with contextlib.suppress(Exception), open(path, "rb") as file, np.load(file) as arrays:
        return arrays["labels"], arrays["places"]
    return None
