"""Data sets that are folders of image files: a person's own, and ImageNet."""

import hashlib
import logging
import os
import pathlib

import numpy as np

from keras_preact.data.dataset import ArraySplit, DataSet, measure
from keras_preact.data.files import FileSplit, corrupt_files, look
from keras_preact.data.tfds import Records, find_prepared, tfds_folder
from keras_preact.errors import argument_error, check_integer, check_integers

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
TEST_FOLDERS = ("test", "val", "validation")
IN_MEMORY = 2**28  # bytes of pixels up to which images of one size are read at the start
CHECKED = 50_000  # files up to which each is checked at the start

IMAGENET_MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
IMAGENET_DEVIATION = tuple(255 * value for value in (0.229, 0.224, 0.225))
IMAGENET, IMAGENET_OF_TFDS = "imagenet", "imagenet2012"
IMAGENET_CROP = 224 / 256
IMAGENET_HELP = (
    "ImageNet is given out by image-net.org to those who register: unpack it to DIR/train/n01440764/*.JPEG and "
    "DIR/val/n01440764/*.JPEG, or prepare it with TFDS (tfds build imagenet2012 --manual_dir=FOLDER_OF_THE_ARCHIVES "
    "--data_dir=DIR), and pass data_dir=DIR (--data-dir DIR)."
)


def load_folder(folder, image_size=None, skip_corrupt=False):
    """Returns the `DataSet` of a folder of images.

    Its classes are folders: `DIR/train/class/name.png` with `DIR/test/...` (or `val`, `validation`), or
    `DIR/class/name.png`, of which about a fifth, the same ones at any time and place, are the test images: those whose
    SHA-256 of `class/name.png` begins with a byte below 51. Small images of one size are read into memory.

    Args:
        folder: The folder.
        image_size: Height and width in pixels, or both; the images' own if None.
        skip_corrupt: Whether to leave files out that are no images, and say how many, instead of stopping.

    Raises:
        ValueError: If a class has no image, a file is no image (it is named), or sizes differ and none is given.
    """
    folder = pathlib.Path(folder)
    names, listed = _listed(folder)
    sizes, grey = look(listed["train"][0])
    if image_size is None and len(sizes) != 1:
        received = f"images of {len(sizes)} sizes" if sizes else "no image that can be opened"
        raise argument_error("image_size", f"given for {folder}", received, "Pass image_size=64 (--image-size 64).")
    size = _size(image_size) if image_size is not None else sizes.pop()
    shape = (*size, 1 if grey else 3)
    listed = {split: _without_corrupt(*files, skip_corrupt) for split, files in listed.items()}
    splits = {split: FileSplit(*files, shape, skip_corrupt=skip_corrupt) for split, files in listed.items()}
    if not (sizes - {size}) and sum(map(len, splits.values())) * np.prod(shape) <= IN_MEMORY:
        splits = {split: _in_memory(files) for split, files in splits.items()}
        mean, std = measure(splits["train"].images)
    else:
        mean, std = splits["train"].measured()
    for split, files in splits.items():
        _check_classes(folder, names, files.labels, split)
    path = folder.resolve()
    return DataSet(path.name, splits["train"], splits["test"], names, mean, std, folder=str(path))


def load_imagenet(data_dir=None, image_size=None, skip_corrupt=False):
    """Returns ILSVRC-2012; its classes are WordNet's numbers, sorted.

    `data_dir` has the folders `train` and `val`, or is the one in which TFDS prepared it, which is also looked for
    where TFDS keeps data sets if `data_dir` is None. Test images are the validation images: the centre crops of
    `image_size` (224 if None) after resizing the shorter side to 256/224 of it.
    """
    folder = tfds_folder() if data_dir is None else pathlib.Path(data_dir).expanduser()
    if (folder / "train").is_dir():
        names, listed = _listed(folder)
        parts = [listed["train"], listed["test"]]
    elif prepared := find_prepared(IMAGENET_OF_TFDS, folder):
        records = [Records(prepared, split) for split in ("train", "validation")]
        names = tuple(records[0].builder.info.features["label"].names)
        parts = [(split, split.labels) for split in records]
    else:
        received = None if data_dir is None else str(data_dir)
        raise argument_error("data_dir", "the folder in which ImageNet is", received, IMAGENET_HELP)
    size = _size(image_size or 224)
    shorter_side = round(min(size) / IMAGENET_CROP)
    splits = [FileSplit(*part, (*size, 3), shorter_side, skip_corrupt) for part in parts]
    return DataSet(IMAGENET, *splits, names, IMAGENET_MEAN, IMAGENET_DEVIATION, crop=IMAGENET_CROP)


def _listed(folder):
    """Returns the class names, and {"train": (paths, labels), "test": (paths, labels)}."""
    if not folder.is_dir():
        raise argument_error("data", "an existing folder", str(folder))
    if not (folder / "train").is_dir():
        return _split_by_name(folder, *_images_by_class(folder))
    found = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    if not found:
        raise argument_error("data", "a folder with test images in test/ or val/ beside train/", str(folder))
    names, paths, labels = _images_by_class(folder / "train")
    test_names, test_paths, test_labels = _images_by_class(found[0])
    unknown = sorted(set(test_names) - set(names))
    if unknown:
        raise argument_error("data", f"a folder whose test classes are in train/ ({folder})", unknown[0])
    positions = np.array([names.index(name) for name in test_names], np.int32)
    return names, {"train": (paths, labels), "test": (test_paths, positions[test_labels])}


def _images_by_class(folder):
    """Returns the sorted class names, the images' paths sorted by class and name, and their labels."""
    names = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != "."))
    if not names:
        raise argument_error("data", "a folder of folders, one a class, with images in them", str(folder))
    paths, labels = [], []
    for label, name in enumerate(names):
        within = folder / name
        files = sorted(e.name for e in os.scandir(within) if e.name.lower().endswith(SUFFIXES) and e.name[0] != ".")
        if not files:
            raise argument_error("data", "folders of one image at least", str(within), "This class is empty.")
        paths += [f"{within}{os.sep}{file}" for file in files]
        labels += [label] * len(files)
    return names, paths, np.array(labels, np.int32)


def _split_by_name(folder, names, paths, labels):
    keys = ["/".join(pathlib.PurePath(path).parts[-2:]) for path in paths]
    is_test = np.array([hashlib.sha256(key.encode()).digest()[0] < 51 for key in keys])
    if not is_test.any():
        hint = f"Put some into {folder}/test/CLASS and the others into {folder}/train/CLASS."
        raise argument_error("data", "enough images that a fifth can be test images", f"{len(paths)} images", hint)
    chosen = {"train": np.flatnonzero(~is_test), "test": np.flatnonzero(is_test)}
    return names, {split: ([paths[k] for k in indices], labels[indices]) for split, indices in chosen.items()}


def _without_corrupt(paths, labels, skip_corrupt):
    """Returns paths and labels of files that can be opened; raises a `ValueError` or says how many are left out."""
    if len(paths) > CHECKED:
        return paths, labels
    corrupt = corrupt_files(paths)
    if not corrupt:
        return paths, labels
    if not skip_corrupt:
        hint = f"{len(corrupt)} of {len(paths)} are none. Leave such files out with skip_corrupt (--skip-corrupt)."
        raise argument_error("data", "files of whole images", corrupt[0], hint)
    log.warning(f"Left out {len(corrupt)} of {len(paths)} files that are no images, the first {corrupt[0]}")
    left_out = set(corrupt)
    kept = [k for k, path in enumerate(paths) if path not in left_out]
    return [paths[k] for k in kept], labels[kept]


def _in_memory(split):
    return ArraySplit(split.read(np.arange(len(split))), split.labels)


def _check_classes(folder, names, labels, split):
    missing = sorted(set(range(len(names))) - set(labels.tolist()))
    if not len(labels) or (missing and split == "train"):
        received = f'none of class "{names[missing[0]]}"'
        raise argument_error("data", f"one {split} image of each class at least ({folder})", received)


def _size(image_size):
    if isinstance(image_size, (tuple, list)):
        if len(image_size) != 2:
            raise argument_error("image_size", "a number of pixels, or (height, width)", image_size)
        return check_integers("image_size", image_size)
    return (check_integer("image_size", image_size),) * 2
