"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from whatever form of them lies on this machine, or from their source."""

import logging
import pathlib
import tarfile
from dataclasses import dataclass

import numpy as np

from keras_preact.data.dataset import ArraySplit, DataSet, check_images, resized
from keras_preact.data.tfds import find_prepared, read_whole, tfds_folder
from keras_preact.errors import argument_error
from keras_preact.files import file_digest
from keras_preact.types import PathLike
from keras_preact.weights import download, store

log = logging.getLogger(__name__)

HOME = "https://www.cs.toronto.edu/~kriz/"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
SIDE = 32  # pixels
LARGEST = 200_000_000  # bytes of an archive; the larger has 170
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Cifar:
    """Describes one of the two.

    Attributes:
        name: As TFDS and Keras call it.
        archive: The archive of binary files; each record is labels, the last of which counts, and 3,072 pixels.
        sha256: Of the archive.
        labels: Bytes of labels a record.
        folder: The archive's folder.
        train_files: Names of the training files.
        test_file: Name of the test file.
        mean: Of fb.resnet.torch, per channel, 0 to 255.
        std: As `mean`.
        class_names: In the order of the labels.
    """

    name: str
    archive: str
    sha256: str
    labels: int
    folder: str
    train_files: tuple[str, ...]
    test_file: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]


CIFAR10 = Cifar(
    name="cifar10",
    archive="cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    labels=1,
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_file="test_batch.bin",
    mean=(125.3, 123.0, 113.9),
    std=(63.0, 62.1, 66.7),
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)
CIFAR100 = Cifar(
    name="cifar100",
    archive="cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    labels=2,
    folder="cifar-100-binary",
    train_files=("train.bin",),
    test_file="test.bin",
    mean=(129.3, 124.1, 112.4),
    std=(68.2, 65.4, 70.4),
    class_names=tuple(CIFAR100_CLASSES.split()),
)


def load_cifar(
    kind: Cifar,
    data_dir: PathLike | None = None,
    skip_corrupt: bool = False,
    side: int = SIDE,
) -> DataSet:
    """Returns the `DataSet` of a `Cifar`, its images resized to `side` pixels if that is not their own.

    It is looked for in `data_dir`, or else in TFDS's and Keras' own folders: a data set prepared by TFDS, `NAME.npz`
    with `x_train`, `y_train`, `x_test`, `y_test`, the original archive of binary files, whose SHA-256 is checked, or
    these files. If no `data_dir` is given, what cannot be read is passed over with a warning, and the archive is
    downloaded into Keras' folder if nothing else is there.

    Args:
        kind: `CIFAR10` or `CIFAR100`.
        data_dir: The folder to look in, or the path of the archive or of the `.npz` file.
        skip_corrupt: Changes nothing: there are no image files to leave out.
        side: Height and width of the images, in pixels.

    Raises:
        ValueError: If it is not there and cannot be downloaded (offline it says so in seconds), or `data_dir` holds it
            in a form that cannot be read: a file is broken, or a package is not installed.
    """
    whole = _whole(kind, data_dir)
    return whole if side == SIDE else resized(whole, side, f"{kind.name}_{side}")


def _whole(kind, data_dir):
    folders = [pathlib.Path(data_dir).expanduser()] if data_dir is not None else default_folders()
    for folder in folders:
        for find, read in FORMS:
            found = find(kind, folder)
            if found is None:
                continue
            try:
                return _data_set(kind, *read(kind, found))
            except Exception as error:  # NumPy, zipfile and TFDS raise errors of many kinds for what is damaged
                reason = str(error) or type(error).__name__
                if data_dir is not None:
                    expected = f"where {kind.name} can be read"
                    raise argument_error("data_dir", expected, str(found), reason) from error
                log.warning(f"Passed over {found}, where {kind.name} cannot be read. {reason}")
    if data_dir is not None:
        raise argument_error("data_dir", f"a folder with {kind.name} in it", str(data_dir), _help(kind, folders[0]))
    return _data_set(kind, *_read_archive(kind, _download(kind, folders[-1])))


def default_folders() -> list[pathlib.Path]:
    """Returns the folders in which TFDS and Keras keep data sets."""
    return [tfds_folder(), store.keras_home() / "datasets"]


def _data_set(kind, train_images, train_labels, test_images, test_labels):
    train, test = _split(kind, train_images, train_labels), _split(kind, test_images, test_labels)
    return DataSet(kind.name, train, test, kind.class_names, kind.mean, kind.std)


def _split(kind, images, labels):
    images = check_images(images, f"images of {kind.name}")
    if images.shape[1:] != (SIDE, SIDE, 3):
        raise argument_error(f"images of {kind.name}", "(images, 32, 32, 3)", images.shape)
    return ArraySplit(images, labels)


def _find_npz(kind, folder):
    return _first_file(folder, folder / f"{kind.name}.npz", suffix=".npz")


def _read_npz(kind, path):
    with open(path, "rb") as file, np.load(file) as arrays:  # NumPy leaves a damaged file open
        if not set(ARRAYS) <= set(arrays):
            raise ValueError(f"It must hold the arrays {', '.join(ARRAYS)}, and holds {list(arrays)}.")
        return [arrays[name] for name in ARRAYS]


def _find_archive(kind, folder):
    return _first_file(folder, folder / kind.archive, suffix=kind.archive)


def _read_archive(kind, path):
    if (found := file_digest(path)) != (expected := f"sha256:{kind.sha256}"):
        hint = f"Remove it, or put {HOME}{kind.archive} in its place."
        raise ValueError(f"Its hash must be {expected}, and is {found}. {hint}")
    contents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = pathlib.PurePosixPath(member.name).name
            if member.isfile() and name in (*kind.train_files, kind.test_file):
                file = archive.extractfile(member)
                contents[name] = file.read() if file is not None else b""
    return _read_records(kind, contents)


def _find_files(kind, folder):
    for within in (folder, folder / kind.folder):
        if all((within / name).is_file() for name in (*kind.train_files, kind.test_file)):
            return within
    return None


def _read_files(kind, folder):
    names = (*kind.train_files, kind.test_file)
    return _read_records(kind, {name: (folder / name).read_bytes() for name in names})


def _read_records(kind, contents):
    arrays = []
    for names in (kind.train_files, (kind.test_file,)):
        parts = []
        for name in names:
            values = np.frombuffer(contents.get(name, b""), np.uint8)
            if not len(values) or len(values) % (kind.labels + 3072):
                raise ValueError(f"{name} must be records of {kind.labels + 3072} bytes, and has {len(values)} bytes.")
            parts.append(values.reshape(-1, kind.labels + 3072))
        records = np.concatenate(parts)
        planes = records[:, kind.labels :].reshape(-1, 3, 32, 32)
        arrays += [np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, kind.labels - 1]]
    return arrays


# Forms of a data set on a disk: how to find one in a folder (or at a file's own path), and how to read it. The text of
# an error in reading is nothing but the reason.
FORMS = (
    (lambda kind, folder: find_prepared(kind.name, folder), lambda kind, folder: read_whole(folder)),
    (_find_npz, _read_npz),
    (_find_archive, _read_archive),
    (_find_files, _read_files),
)


def _first_file(given, within, suffix):
    """Returns the file that a person gave, or the one in the folder that they gave, or None."""
    if given.is_file() and given.name.endswith(suffix):
        return given
    return within if within.is_file() else None


def _download(kind, folder):
    remote = store.Remote(HOME + kind.archive, f"sha256:{kind.sha256}", LARGEST, is_mirrored=False)
    try:
        if not download.is_reachable(remote.url):
            raise OSError(f"{HOME} was not reached in {download.CONNECT_SECONDS:g} s.")
        return store.fetch(remote, folder / kind.archive)
    except (OSError, ValueError) as error:
        hint = f"{error} {_help(kind, folder)}"
        raise argument_error("data_dir", f"a folder with {kind.name} in it", None, hint) from error


def _help(kind, folder):
    return (
        f"Download {HOME}{kind.archive} and put it into {folder}, or into any folder DIR and pass data_dir=DIR "
        "(--data-dir DIR); the archive of Python objects is not read."
    )
