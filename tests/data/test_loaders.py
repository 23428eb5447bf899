"""Data sets from files: image folders, ImageNet's layout, and what is refused."""

import functools
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact.data import DATA_SETS, Augmentation, cifar, files, folders, has_own_size, load
from keras_preact.data.batches import TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.data.tfds import find_prepared
from keras_preact.training import evaluation, publish, run_folder

RNG = np.random.default_rng(0)


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def colours(height=6, width=6):
    return RNG.integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A folder of 3 + 2 images of two classes, and their pixels by path."""
    pixels = {}
    for name in ("train/cat/a.png", "train/cat/b.png", "train/dog/a.PNG", "test/dog/x.png", "test/cat/y.png"):
        pixels[name] = colours()
        write(tmp_path / "pets" / name, pixels[name])
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("not an image")
    return tmp_path / "pets", pixels


def test_a_folder_of_classes_is_a_data_set(folder):
    path, pixels = folder
    data = load(str(path))
    assert (data.name, data.class_names, data.image_shape) == ("pets", ("cat", "dog"), (6, 6, 3))
    assert data.train.labels.tolist() == [0, 0, 1]
    assert data.test.labels.tolist() == [0, 1]
    expected = [pixels[name] for name in ("train/cat/a.png", "train/cat/b.png", "train/dog/a.PNG")]
    np.testing.assert_array_equal(data.train.images, expected)
    np.testing.assert_array_equal(data.test.images, [pixels["test/cat/y.png"], pixels["test/dog/x.png"]])
    np.testing.assert_allclose(data.mean, np.mean(expected, axis=(0, 1, 2)))
    np.testing.assert_allclose(data.std, np.std(expected, axis=(0, 1, 2)))
    (path / "test").rename(path / "val")
    assert data.folder == str(path.resolve())
    np.testing.assert_array_equal(load(data.folder).test.images, data.test.images)


def test_a_test_split_without_some_classes_keeps_their_labels(folder):
    path, pixels = folder
    (path / "test/cat/y.png").unlink()
    (path / "test/cat").rmdir()
    data = load(path)
    assert data.class_names[data.test.labels[0]] == "dog"
    np.testing.assert_array_equal(data.test.images[0], pixels["test/dog/x.png"])


def test_a_folder_without_a_split_is_split_by_its_names(tmp_path):
    for name in "abcdefghijklmnopqrstuvwxyz":
        write(tmp_path / "all" / "one" / f"{name}.png", np.full((4, 4), ord(name), np.uint8))
    data = load(tmp_path / "all")
    assert data.image_shape == (4, 4, 1)
    letters = [sorted(chr(value) for value in split.images[:, 0, 0, 0]) for split in (data.train, data.test)]
    assert "".join(letters[1]) == "dksvy"  # a golden value: the split must never change
    assert "".join(sorted(letters[0] + letters[1])) == "abcdefghijklmnopqrstuvwxyz"
    write(tmp_path / "all" / "one" / "new.png", np.zeros((4, 4), np.uint8))
    assert set(load(tmp_path / "all").test.images[:, 0, 0, 0]) >= {ord(letter) for letter in letters[1]}


def test_images_of_many_sizes_are_resized_and_cropped(tmp_path, caplog):
    stripes = np.repeat(np.linspace(0, 255, 30).astype(np.uint8)[None, :, None], 12, 0).repeat(3, 2)
    for name, pixels in (("train/a/1.png", stripes), ("train/a/2.png", colours(20, 9)), ("test/a/3.png", stripes)):
        write(tmp_path / "mixed" / name, pixels)
    with pytest.raises(ValueError, match=r"image_size.*given.*2 sizes.*--image-size"):
        load(tmp_path / "mixed")
    for name in ("train/a/1.png", "train/b/1.png"):
        write(tmp_path / "tested" / name, np.zeros((9, 9), np.uint8))
    write(tmp_path / "tested/test/a/3.png", stripes)
    with pytest.raises(ValueError, match=r"image_size.*given.*2 sizes"):
        load(tmp_path / "tested")
    assert load(tmp_path / "tested", image_size=9).image_shape == (9, 9, 1)
    assert "so are taken 1 test images that have colour" in caplog.text
    data = load(tmp_path / "mixed", image_size=8)
    assert data.image_shape == (8, 8, 3)
    resized = np.asarray(Image.fromarray(stripes).resize((20, 8), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.test.read([0])[0], resized[:, 6:14])
    wide = load(tmp_path / "mixed", image_size=(4, 16)).test.read([0])
    assert wide.shape == (1, 4, 16, 3)
    for fields in ({"area": (0.08, 1.0)}, {"scale": (8, 12)}):
        batches = TrainingBatches(data, 2, seed=0, augmentation=Augmentation(**fields))
        first = batches[0][0]
        assert set(first) == {"images"}
        assert first["images"].shape == (2, 8, 8, 3)
        again = TrainingBatches(data, 2, seed=0, augmentation=Augmentation(**fields))
        np.testing.assert_array_equal(again[0][0]["images"], first["images"])
        batches.set_position(1)
        assert not np.array_equal(batches[0][0]["images"], first["images"])
    with pytest.raises(ValueError, match=r"resident.*read from files"):
        Preparation(data, resident=True)


def test_grey_and_transparent_images_in_a_colour_set_become_rgb(folder):
    path, _ = folder
    write(path / "train/cat/grey.png", np.full((6, 6), 90, np.uint8))
    clear = np.concatenate([colours(), np.zeros((6, 6, 1), np.uint8)], axis=-1)
    write(path / "train/cat/clear.png", clear)
    data = load(path)
    assert (data.train.images[3] == 90).all()
    assert (data.train.images[2] == 255).all()
    write(path / "train/cat/deep.png", np.full((6, 6), 9000, np.uint16))
    assert (load(path).train.images[3] == 9000 >> 8).all()


def test_images_larger_than_memory_stay_in_files(folder, monkeypatch):
    path, _ = folder
    small = load(path)
    monkeypatch.setattr(folders, "IN_MEMORY", 100)
    data = load(path)
    assert isinstance(data.train, files.FileSplit)
    np.testing.assert_array_equal(data.train.read([2, 0]), small.train.images[[2, 0]])
    assert data.mean == pytest.approx(small.mean)


@pytest.mark.parametrize("damage", [lambda raw: raw[:60], lambda raw: b"", lambda raw: raw[:70] + b"x" + raw[71:]])
def test_a_corrupt_image_is_named_or_left_out(folder, damage, caplog):
    path, _ = folder
    bad = path / "train" / "cat" / "a.png"
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(ValueError, match=r"data.*cat/a\.png.*1 of 5 files.*--skip-corrupt"):
        load(path)
    data = load(path, skip_corrupt=True)
    assert data.train.labels.tolist() == [0, 1]
    assert "Left out 1 of 5 files" in caplog.text
    (path / "train" / "dog" / "a.PNG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data.*test classes have training images.*'dog'"):
        load(path, skip_corrupt=True)


def test_of_many_files_some_are_looked_at(folder, monkeypatch):
    path, pixels = folder
    monkeypatch.setattr(folders, "CHECKED", 4)
    monkeypatch.setattr(folders, "SAMPLE", 2)  # the first and the last of five
    (path / "train/cat/b.png").write_bytes(b"")
    images = load(path, skip_corrupt=True).train.images
    np.testing.assert_array_equal(images[1], pixels["train/cat/a.png"])  # another of its class
    with pytest.raises(ValueError, match=r"data.*cat/b\.png"):
        load(path)


def test_an_image_that_turns_out_corrupt_gives_way_to_one_of_its_class(folder, monkeypatch, caplog):
    path, pixels = folder
    monkeypatch.setattr(folders, "IN_MEMORY", 100)
    data, strict = load(path, skip_corrupt=True), load(path)
    (path / "train" / "cat" / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data.*cat/b\.png"):
        strict.train.read([0, 1])
    np.testing.assert_array_equal(data.train.read([1, 1])[0], pixels["train/cat/a.png"])
    assert data.train.skipped == {1}
    assert caplog.text.count("Skipped") == 1
    (path / "train" / "dog" / "a.PNG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"one whole image a class"):
        data.train.read([2])


def test_wrong_folders_are_refused(folder, tmp_path):
    path, _ = folder
    write(path / "test/fish/a.png", colours())
    with pytest.raises(ValueError, match=r"test classes have training images, in train/.*fish"):
        load(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"folder of folders.*empty"):
        load(tmp_path / "empty")
    (path / "test").rename(path / "other")
    with pytest.raises(ValueError, match=r"test images in test/ or val/"):
        load(path)
    for name, message in (
        ("no/such", r"existing folder of images.*no/such"),
        ("cifar11", r'folder.*Nearest: "cifar10'),
    ):
        with pytest.raises(ValueError, match=message):
            load(name)
    with pytest.raises(ValueError, match=r"image_size.*at least 1.*0"):
        load(path.parent / "pets" / "train", image_size=0)
    write(tmp_path / "tiny" / "one" / "a.png", colours())
    with pytest.raises(ValueError, match=r"enough images.*1 images"):
        load(tmp_path / "tiny")


def test_imagenet_is_its_two_folders(tmp_path):
    for name in ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG"):
        write(tmp_path / name, colours(40, 30))
    data = load("imagenet", tmp_path)
    assert load("imagenet2012", tmp_path).name == data.name  # what TFDS calls it
    assert (data.name, data.class_names, data.image_shape) == ("imagenet", ("n01", "n02"), (224, 224, 3))
    assert data.mean == pytest.approx((123.675, 116.28, 103.53))
    with Image.open(tmp_path / "val/n01/c.JPEG") as image:
        expected = np.asarray(image.resize((256, 341), Image.Resampling.BICUBIC))[58:282, 16:240]
    np.testing.assert_array_equal(data.test.read([0])[0], expected)
    with pytest.raises(ValueError, match=r"data_dir.*image-net\.org.*DIR/val/n01440764"):
        load("imagenet")
    with pytest.raises(ValueError, match=r"data_dir.*image-net\.org"):
        load("imagenet", tmp_path / "train")


def test_imagenet_has_one_name_for_the_images_and_for_weights(tmp_path, monkeypatch):
    assert "imagenet" in DATA_SETS
    assert "imagenet2012" not in DATA_SETS
    for name in ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG"):
        write(tmp_path / name, colours(40, 30))
    card = keras_preact.get_card(keras_preact.list_weights("resnet50", "imagenet")[0])
    monkeypatch.setattr(
        evaluation, "evaluate_source", lambda found, data: {"error_percent": found.error_percent, "loss": 0.0}
    )
    assert publish.verify(card.name, tmp_path).agrees
    for old in ({"data": "imagenet2012"}, {"data": "imagenet"}):
        assert len({str(each) for each in run_folder.comparable(old, {"data": "imagenet"})}) == 1


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_imagenet_is_what_tfds_prepared(file_format, tmp_path, monkeypatch, caplog):
    import tensorflow_datasets as tfds

    caplog.set_level("INFO", "keras_preact")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=["n01", "n02", "n03"]),
            "file_name": tfds.features.Text(),
        }
    )
    labels, examples = [2, 0, 1, 1, 2], []
    for number, label in enumerate(labels):
        path = tmp_path / "folders" / ("train" if number < 3 else "val") / f"n0{label + 1}" / f"{number}.jpeg"
        write(path, colours(40 + number, 30))
        examples.append((number, {"image": str(path), "label": label, "file_name": path.name}))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet2012",
        version="5.1.0",
        features=features,
        split_datasets={"train": examples[:3], "validation": examples[3:]},
        data_dir=tmp_path / "tfds",
        file_format=file_format,
        disable_shuffling=True,
    )
    data = load("imagenet", tmp_path / "tfds", image_size=32)
    assert "Reading the labels of 3 records" in caplog.text
    caplog.clear()
    assert (data.class_names, data.image_shape) == (("n01", "n02", "n03"), (32, 32, 3))
    assert data.train.labels.tolist() + data.test.labels.tolist() == labels
    # The same images out of folders, whose order is by class.
    (tmp_path / "folders" / "val" / "n01").mkdir()
    write(tmp_path / "folders" / "val" / "n01" / "z.jpeg", colours(40, 30))
    folders = load("imagenet", tmp_path / "folders", image_size=32)
    draws = Augmentation(area=(0.08, 1.0)).draw(np.random.default_rng(0), 3, (32, 32, 3))
    for drawn in (None, draws):
        np.testing.assert_array_equal(data.train.read([1, 2, 0], drawn), folders.train.read([0, 1, 2], drawn))
    # The second time labels and places are known, with TFDS's own place for a default.
    again = load("imagenet", image_size=32)
    assert caplog.text == ""
    np.testing.assert_array_equal(again.test.read([1, 0]), data.test.read([1, 0]))
    for kept in (tmp_path / "keras").rglob("*.npz"):  # labels that cannot be read again are read anew
        kept.write_bytes(kept.read_bytes()[:100])
    assert load("imagenet", image_size=32).train.labels.tolist() == labels[:3]
    assert "Reading the labels of 3 records" in caplog.text
    caplog.clear()
    load("imagenet", image_size=32)
    assert caplog.text == ""
    monkeypatch.setenv("KERAS_HOME", "/proc/keras")  # where nothing can be written
    with pytest.warns(UserWarning, match="cannot be written.*read again"):
        assert load("imagenet", image_size=32).train.labels.tolist() == labels[:3]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(
        ValueError,
        match=r"data_dir.*can read.*tensorflow_datasets.*pip install tensorflow-datasets importlib_resources",
    ):
        load("imagenet", image_size=32)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", tfds)
    if file_format == "tfrecord":
        (shard,) = (tmp_path / "tfds").glob("imagenet2012/*/*train.tfrecord*")
        shard.write_bytes(shard.read_bytes()[:-9])
        with pytest.raises(ValueError, match=r"data_dir.*whole.*imagenet2012-train.tfrecord.*cut short"):
            load("imagenet", image_size=32)


@pytest.mark.usefixtures("registries")
def test_a_row_says_itself_whether_its_images_have_a_size():
    half = functools.partial(cifar.load_cifar, cifar.CIFAR10, side=16)
    keras_preact.register_data("half", half)
    sized = [name for name in DATA_SETS if has_own_size(name)]
    assert sized == ["digits", "cifar10", "cifar100", "cifar10_16", "half"]
    for name in sized:
        with pytest.raises(ValueError, match=f"`image_size` must be left out for {name}, whose function"):
            load(name, image_size=8)
    assert not has_own_size("imagenet2012")


def test_the_newest_version_that_tfds_prepared_is_found_from_anywhere(tmp_path, monkeypatch):
    for version in ("3.0.9", "3.0.10", "3.0.2"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").touch()
    for folder in (tmp_path, tmp_path / "cifar10"):
        assert find_prepared("cifar10", folder) == tmp_path / "cifar10" / "3.0.10"
    monkeypatch.chdir(tmp_path / "cifar10" / "3.0.9")
    assert find_prepared("cifar10", pathlib.Path()) == tmp_path / "cifar10" / "3.0.9"


def test_a_run_among_the_images_is_refused(tmp_path, monkeypatch):
    for name in (f"{kind}/{number}.png" for kind in "ab" for number in range(20)):
        write(tmp_path / "flat" / name, np.zeros((9, 9), np.uint8))
        write(tmp_path / "split" / "train" / name, np.zeros((9, 9), np.uint8))
        write(tmp_path / "split" / "test" / name, np.zeros((9, 9), np.uint8))
    monkeypatch.chdir(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"`output` must be outside of .*flat, whose folders are classes"):
        keras_preact.train("ResNet8", data=".")
    with pytest.raises(ValueError, match=r"`output` must be outside of .*flat, whose folders are classes"):
        keras_preact.sweep("depth=8", data=".", global_batch_size=4)
    assert sorted(path.name for path in pathlib.Path().iterdir()) == ["a", "b"]
    folders.check_outside(tmp_path / "split", tmp_path / "split" / "runs")
    with pytest.raises(ValueError, match=r"`output` must be outside of .*split"):
        folders.check_outside(tmp_path / "split", tmp_path / "split" / "test" / "runs")


def test_images_of_many_sizes_are_evaluated_in_the_size_of_the_network(tmp_path):
    for number in range(20):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number}.png", np.zeros((9 + number, 12), np.uint8))
    keras_preact.ResNet(8, input_shape=(10, 10, 1), num_classes=2).save(tmp_path / "plain.keras")
    assert keras_preact.evaluate(tmp_path / "plain.keras", tmp_path / "photos")["loss"] > 0


def test_labels_from_1_and_channels_first_are_said(caplog):
    images = np.zeros((4, 8, 8, 3), "uint8")
    keras_preact.from_arrays(images, [1, 2, 1, 2], images, [1, 2, 1, 2])
    assert "No training image has the label 0: are labels counted from 0?" in caplog.text
    assert len(keras_preact.from_arrays(images, [0, 3, 1, 5], images, [0, 1, 0, 7]).class_names) == 8
    assert "No training image has the label 2: are labels counted from 0?" in caplog.text
    caplog.clear()
    keras_preact.from_arrays(images, [3, 0, 1, 2], images, [0, 1, 0, 4])
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"`train_images` must be .*Channels come last"):
        keras_preact.from_arrays(images.transpose(0, 3, 1, 2), [0] * 4, images, [0] * 4)


def test_test_images_without_labels_are_none_of_imagenet(tmp_path, caplog):
    for name in ("train/n01/a.JPEG", "train/n02/b.JPEG", "val/n01/c.JPEG", "val/n02/d.JPEG", "test/e.JPEG"):
        write(tmp_path / name, colours(40, 30))
    assert len(load("imagenet", tmp_path).test) == 2
    for name in ("test/n01/e.JPEG", "test/n01/f.JPEG", "test/n02/g.JPEG"):
        write(tmp_path / name, colours(40, 30))
    (tmp_path / "test" / "e.JPEG").unlink()
    assert len(load("imagenet", tmp_path).test) == 2
    assert not caplog.records
    assert len(load(tmp_path).test) == 3
    assert f"The test images are those of {tmp_path}/test, and none of {tmp_path}/val." in caplog.messages
