"""Data sets that are folders of image files: a person's own, and ImageNet."""

import hashlib
import logging
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from keras_preact.data.dataset import ArraySplit, DataSet, measure
from keras_preact.data.files import REPAIR, SAMPLE, FileSplit, look, spread
from keras_preact.data.tfds import Records, find_prepared, tfds_folder
from keras_preact.errors import argument_error, check_integer, check_integers
from keras_preact.types import PathLike

log = logging.getLogger(__name__)

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".avif", ".heic", ".heif"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
OF_MACOS = "__MACOSX"  # a folder that its archives bring along
TEST_FOLDERS = ("test", "val", "validation")
IN_MEMORY = 2**28  # bytes of pixels up to which images of one size are read at the start
CHECKED = 50_000  # files up to which each is checked at the start
SIZE_HELP = (
    "Pass image_size=64 (--image-size 64) where there is such an argument, else data=keras_preact.data.load(FOLDER, "
    "image_size=64)."
)

IMAGENET_MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
IMAGENET_STD = tuple(255 * value for value in (0.229, 0.224, 0.225))
IMAGENET, IMAGENET_OF_TFDS = "imagenet", "imagenet2012"
IMAGENET_CROP = 224 / 256
IMAGENET_HELP = (
    "ImageNet is given out by image-net.org to those who register: unpack it to DIR/train/n01440764/*.JPEG and "
    "DIR/val/n01440764/*.JPEG, or prepare it with TFDS (tfds build imagenet2012 --manual_dir=FOLDER_OF_THE_ARCHIVES "
    "--data_dir=DIR), and pass data_dir=DIR (--data-dir DIR)."
)


def load_folder(
    folder: PathLike, image_size: int | tuple[int, int] | None = None, skip_corrupt: bool = False
) -> DataSet:
    """Returns the `DataSet` of a folder of images.

    Its classes are folders: `DIR/train/class/name.png` with `DIR/test/...` (or `val`, `validation`), or
    `DIR/class/name.png`, of which about a fifth, the same ones at any time and place, are the test images: those whose
    SHA-256 of `class/name.png` begins with a byte below 51, unless all of a class would be. Subfolders of a class
    belong to it. A class without a training image is left out. What is left out is said in one warning a kind. Small
    images of one size are read into memory.

    Args:
        folder: The folder.
        image_size: Height and width in pixels, or both; the images' own if None.
        skip_corrupt: Whether to leave files out that cannot be read, and name them, instead of stopping.

    Raises:
        ValueError: If there is no image, a file cannot be read (it is named), or sizes differ and none is given.
    """
    folder, size = pathlib.Path(folder), None if image_size is None else _size(image_size)
    parts, looks = _readable(_parts(folder), skip_corrupt)
    names, listed = _splits(folder, parts)
    known, tested = (
        [looks[path] for path in listed[split][0] if path in looks and looks[path].problem is None]
        for split in ("train", "test")
    )
    sizes = {each.size for each in (*known, *tested)}
    if size is None and len(sizes) != 1:
        received = f"images of {len(sizes)} sizes" if sizes else "no image that can be opened"
        raise argument_error("image_size", f"given for {folder}", received, SIZE_HELP)
    size = size or next(iter(sizes))
    shape = (*size, 1 if all(each.is_grey for each in known) else 3)
    if shape[-1] == 1 and (coloured := sum(not each.is_grey for each in tested)):
        log.warning(f"All training images of {folder} are grey; so are taken {coloured} test images that have colour.")
    in_files = [FileSplit(paths, labels, shape, skip_corrupt=skip_corrupt) for paths, labels in listed.values()]
    train, test, path = *in_files, folder.resolve()
    if sizes - {size} or sum(map(len, in_files)) * np.prod(shape) > IN_MEMORY:
        mean, std = train.measured()
        return DataSet(path.name, train, test, names, mean, std, folder=str(path))
    pixels = _in_memory(train)
    mean, std = measure(pixels.images)
    return DataSet(path.name, pixels, _in_memory(test), names, mean, std, folder=str(path))


def check_outside(folder: PathLike | None, output: PathLike) -> None:
    """Raises a `ValueError` if `output` lies where `load_folder` looks for the images of `folder`; None has no images.

    What is written there would be a class of the next data set.
    """
    if folder is None:
        return
    root, within = pathlib.Path(folder).resolve(), pathlib.Path(output).resolve()
    parts = [root / name for name in ("train", *TEST_FOLDERS)] if (root / "train").is_dir() else [root]
    if any(within.is_relative_to(part) for part in parts):
        hint = "Pass --output (output=) with another folder."
        raise argument_error("output", f"outside of {folder}, whose folders are classes", str(output), hint)


def load_imagenet(
    data_dir: PathLike | None = None, image_size: int | tuple[int, int] | None = None, skip_corrupt: bool = False
) -> DataSet:
    """Returns ILSVRC-2012; its classes are WordNet's numbers, sorted.

    `data_dir` has the folders `train` and `val`, or is the one in which TFDS prepared it, which is also looked for
    where TFDS keeps data sets if `data_dir` is None. Test images are the validation images: the centre crops of
    `image_size` (224 if None) after resizing the shorter side to 256/224 of it.
    """
    folder = tfds_folder() if data_dir is None else pathlib.Path(data_dir).expanduser()
    if (folder / "train").is_dir():
        names, listed = _splits(folder, _parts(folder, ("val",)))  # test/ has no labels
        parts = [listed["train"], listed["test"]]
    elif prepared := find_prepared(IMAGENET_OF_TFDS, folder):
        try:
            records = [Records(prepared, split) for split in ("train", "validation")]
        except ImportError as error:
            expected = "a form that this machine can read"
            raise argument_error("data_dir", expected, str(prepared), str(error)) from error
        names = tuple(records[0].builder.info.features["label"].names)
        parts = [(split, split.labels) for split in records]
    else:
        received = None if data_dir is None else str(data_dir)
        raise argument_error("data_dir", "the folder in which ImageNet is", received, IMAGENET_HELP)
    size = _size(image_size or 224)
    shorter_side = round(min(size) / IMAGENET_CROP)
    train, test = (FileSplit(paths, labels, (*size, 3), shorter_side, skip_corrupt) for paths, labels in parts)
    return DataSet(IMAGENET, train, test, names, IMAGENET_MEAN, IMAGENET_STD, crop=IMAGENET_CROP)


def image_files(folder: PathLike) -> tuple[list[str], list[str]]:
    """Returns the image files in a folder and its subfolders, by their names' endings, and the other files: sorted.

    Hidden files, and what archives of macOS bring along, are neither.

    Raises:
        OSError: If a subfolder cannot be read.
    """
    images: list[str] = []
    others: list[str] = []
    seen = set()
    for where, folders, names in os.walk(folder, onerror=_raised, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [name for name in _shown(folders) if os.path.realpath(os.path.join(where, name)) not in seen]
        for name in _shown(names):
            (images if name.lower().endswith(SUFFIXES) else others).append(os.path.join(where, name))
    return sorted(images), sorted(others)


def some(names: Iterable[object], most: int = 5) -> str:
    """Returns names in a line, at most so many of them: `a, b and 7 more`."""
    texts = list(map(str, names))
    listed = ", ".join(texts[:most])
    return listed if len(texts) <= most else f"{listed} and {len(texts) - most:,} more"


def _raised(error):
    raise error


def _shown(names):
    return [name for name in names if name[0] != "." and name != OF_MACOS]


def _parts(folder, test_folders=TEST_FOLDERS):
    """Returns {"train": {class: paths}, "test": {class: paths}}; {"": {class: paths}} of a folder without a split."""
    if not folder.is_dir():
        raise argument_error("data", "an existing folder", str(folder))
    if not (folder / "train").is_dir():
        return {"": _images_by_class(folder)}
    found = [folder / name for name in test_folders if (folder / name).is_dir()]
    if not found:
        where = " or ".join(f"{name}/" for name in test_folders)
        raise argument_error("data", f"a folder with test images in {where} beside train/", str(folder))
    if len(found) > 1:
        log.warning(f"The test images are those of {found[0]}, and none of {', '.join(map(str, found[1:]))}.")
    return {"train": _images_by_class(folder / "train"), "test": _images_by_class(found[0])}


def _images_by_class(folder):
    """Returns the images' paths, sorted, of each class."""
    classes, others = {}, []
    for name in sorted(_shown(os.listdir(folder))):
        within = os.path.join(folder, name)
        if os.path.isdir(within):
            classes[name], rest = image_files(within)
            others += rest
        else:
            others.append(within)
    if not any(classes.values()):
        raise argument_error("data", "a folder of folders, one a class, with images in them", str(folder))
    if others:
        log.warning(f"Left out what lies in no class, or is no image by its name ({len(others):,}): {some(others)}.")
    return classes


def _readable(parts, skip_corrupt):
    """Returns `parts` without the files that cannot be read, and the `Look` of each file, or of some if there are many.

    Raises:
        ValueError: If there are such files, and they are not to be left out.
    """
    paths = [path for classes in parts.values() for found in classes.values() for path in found]
    if len(paths) > CHECKED:
        paths = [paths[index] for index in spread(len(paths), SAMPLE)]
        return parts, dict(zip(paths, look(paths)))
    looks = dict(zip(paths, look(paths)))
    wrong = {path: found.problem for path, found in looks.items() if found.problem is not None}
    if wrong and not skip_corrupt:
        first, problem = next(iter(wrong.items()))
        hint = f"{problem} {len(wrong):,} of {len(paths):,} files cannot be read. {REPAIR}"
        raise argument_error("data", "files of whole images", first, hint)
    if wrong:
        told = some(f"{path}: {problem}" for path, problem in wrong.items())
        log.warning(f"Left out {len(wrong):,} of {len(paths):,} files, which cannot be read. {told}")
    return {
        part: {name: [path for path in found if path not in wrong] for name, found in classes.items()}
        for part, classes in parts.items()
    }, looks


def _splits(folder, parts):
    """Returns the class names, and {"train": (paths, labels), "test": (paths, labels)}; says what classes lack."""
    train, test = (parts["train"], parts["test"]) if "train" in parts else _split_by_name(folder, parts[""])
    names = tuple(sorted(name for name, paths in train.items() if paths))
    if not names:
        raise argument_error("data", f"a folder with a training image at least ({folder})", "none that can be read")
    if unknown := sorted(name for name, paths in test.items() if paths and name not in names):
        expected = f"a folder whose test classes have training images, in train/ ({folder})"
        raise argument_error("data", expected, some(unknown))
    if empty := sorted({*train, *test} - {*names}):
        log.warning(f"Left out the classes without an image ({len(empty):,}): {some(empty, 50)}.")
    if not any(test.values()):
        raise argument_error("data", f"one test image at least ({folder})", "none that can be read")
    if untested := [name for name in names if not test.get(name)]:
        log.warning(f"Classes without a test image ({len(untested):,} of {len(names):,}): {some(untested, 50)}.")
    return names, {"train": _labelled(names, train), "test": _labelled(names, test)}


def _labelled(names, classes):
    found = [(path, label) for label, name in enumerate(names) for path in classes.get(name, ())]
    return [path for path, _ in found], np.array([label for _, label in found], np.int32)


def _split_by_name(folder, classes):
    """Returns training and test images by class: about a fifth are test images, but never all of a class."""
    train, test = {}, {}
    for name, paths in classes.items():
        keys = [pathlib.Path(path).relative_to(folder).as_posix().encode("utf-8", "surrogateescape") for path in paths]
        is_test = [hashlib.sha256(key).digest()[0] < 51 for key in keys]
        if all(is_test):
            is_test = [False] * len(paths)
        test[name] = [path for path, tests in zip(paths, is_test) if tests]
        train[name] = [path for path, tests in zip(paths, is_test) if not tests]
    if not any(test.values()):
        count = sum(map(len, classes.values()))
        hint = f"Put some into {folder}/test/CLASS and the others into {folder}/train/CLASS."
        raise argument_error("data", "enough images that a fifth can be test images", f"{count} images", hint)
    return train, test


def _in_memory(split):
    return ArraySplit(split.read(np.arange(len(split))), split.labels)


def _size(image_size):
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise argument_error("image_size", "a number of pixels, or (height, width)", image_size)
        return check_integers("image_size", image_size)
    return (check_integer("image_size", image_size),) * 2
