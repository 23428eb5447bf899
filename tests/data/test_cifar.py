"""CIFAR-10 and CIFAR-100: every form of their files, downloads, and what is refused."""

import dataclasses
import hashlib
import io
import logging
import socket
import sys
import tarfile
import time

import numpy as np
import pytest

from keras_preact.data import cifar, load
from keras_preact.data.cifar import CIFAR10, CIFAR100, load_cifar

RNG = np.random.default_rng(0)


def records(kind):
    """Returns the images, labels and record bytes of a tiny CIFAR, by file name."""
    made = {}
    for number, name in enumerate((*kind.train_files, kind.test_file)):
        images = RNG.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
        labels = np.array([number, number + 4], np.uint8)
        coarse = np.full((2, kind.labels - 1), 17, np.uint8)
        planes = np.moveaxis(images, 3, 1).reshape(2, -1)
        made[name] = images, labels, np.concatenate([coarse, labels[:, None], planes], axis=1).tobytes()
    return made


def write_archive(kind, folder, contents):
    """Writes an archive of {file's name: bytes}; returns the `Cifar` whose hash it has, and the archive's path."""
    path = folder / kind.archive
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in contents.items():
            member = tarfile.TarInfo(f"{kind.folder}/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return dataclasses.replace(kind, sha256=hashlib.sha256(path.read_bytes()).hexdigest()), path


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100], ids=lambda kind: kind.name)
@pytest.mark.parametrize("form", ["npz", "archive", "files", "files in their folder"])
def test_cifar_is_read_from_each_of_its_forms(kind, form, tmp_path):
    made = records(kind)
    train = [np.concatenate([made[name][k] for name in kind.train_files]) for k in (0, 1)]
    test = made[kind.test_file][:2]
    if form == "npz":
        arrays = {"x_train": train[0], "y_train": train[1][:, None], "x_test": test[0], "y_test": test[1]}
        np.savez(tmp_path / f"{kind.name}.npz", **arrays)
    elif form == "archive":
        kind, _ = write_archive(kind, tmp_path, {name: raw for name, (_, _, raw) in made.items()})
    else:
        within = tmp_path / kind.folder if "their" in form else tmp_path
        within.mkdir(exist_ok=True)
        for name, (_, _, raw) in made.items():
            (within / name).write_bytes(raw)
    data = load_cifar(kind, tmp_path)
    np.testing.assert_array_equal(data.train.images, train[0])
    np.testing.assert_array_equal(data.train.labels, train[1])
    np.testing.assert_array_equal(data.test.images, test[0])
    np.testing.assert_array_equal(data.test.labels, test[1])
    assert data.mean[0] == {"cifar10": 125.3, "cifar100": 129.3}[kind.name]
    assert len(data.class_names) == len(set(data.class_names)) == {"cifar10": 10, "cifar100": 100}[kind.name]
    if form in ("npz", "archive"):
        file = tmp_path / (f"{kind.name}.npz" if form == "npz" else kind.archive)
        np.testing.assert_array_equal(load_cifar(kind, file).train.images, train[0])


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_cifar_is_read_as_tfds_prepared_it(file_format, tmp_path):
    import tensorflow_datasets as tfds

    images, labels = RNG.integers(256, size=(6, 32, 32, 3), dtype=np.uint8), [3, 1, 4, 1, 5, 9]
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
    )
    examples = [(k, {"image": images[k], "label": labels[k]}) for k in range(6)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=features,
        split_datasets={"train": examples[:4], "test": examples[4:]},
        data_dir=tmp_path,
        file_format=file_format,
        disable_shuffling=True,
    )
    assert (tmp_path / "cifar10/3.0.2/dataset_info.json").is_file()
    for folder in (tmp_path, tmp_path / "cifar10", tmp_path / "cifar10/3.0.2"):
        data = load("cifar10", folder)
        np.testing.assert_array_equal(data.train.images, images[:4])
        assert data.train.labels.tolist() + data.test.labels.tolist() == labels


def damaged(raw, damage):
    """Returns the bytes of a file cut short, or with one bit of them changed, or none of them."""
    middle = len(raw) // 2
    changed = raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]
    return {"cut": raw[:middle], "a bit": changed, "empty": b""}[damage]


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty"])
def test_an_archive_is_held_to_its_hash_wherever_it_comes_from(damage, tmp_path):
    kind, path = write_archive(CIFAR10, tmp_path, {name: raw for name, (_, _, raw) in records(CIFAR10).items()})
    assert len(load_cifar(kind, path).train) == 10
    path.write_bytes(damaged(path.read_bytes(), damage))
    message = rf"`data_dir` must be where cifar10 can be read.*'{path}'.*{kind.sha256}.*Remove it, or put https\S+gz in"
    for place in (tmp_path, path):
        with pytest.raises(ValueError, match=message):
            load_cifar(kind, place)


@pytest.mark.parametrize("damage", ["cut", "a bit", "empty", "another kind"])
def test_a_damaged_npz_is_refused_by_its_name(damage, tmp_path):
    path, images = tmp_path / "cifar10.npz", RNG.integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(path, x_train=images, y_train=[1, 2], x_test=images, y_test=[1, 2])
    if damage == "another kind":
        with open(path, "wb") as file:
            np.save(file, images)
    else:
        path.write_bytes(damaged(path.read_bytes(), damage))
    with pytest.raises(ValueError, match=rf"`data_dir` must be where cifar10 can be read.*'{path}'\. \S"):
        load("cifar10", tmp_path)


def test_a_broken_cifar_is_refused(tmp_path):
    for name in (*CIFAR10.train_files, CIFAR10.test_file):
        (tmp_path / name).write_bytes(b"\x01" * 3000)
    with pytest.raises(ValueError, match=r"data_dir.*data_batch_1.bin must be records of 3073 bytes.*3000 bytes"):
        load("cifar10", tmp_path)
    for name in (*CIFAR10.train_files, CIFAR10.test_file):
        (tmp_path / name).write_bytes(b"\x0a" * 3073)
    with pytest.raises(ValueError, match=r"data_dir.*train labels.*0 to 9.*10 to 10"):
        load("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match=r"data_dir.*x_train, y_train.*\['images'\]"):
        load("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10.npz", x_train=np.zeros((2, 8, 8, 3), np.uint8) + 9, y_train=[1, 2], x_test=0, y_test=0)
    with pytest.raises(ValueError, match=r"images of cifar10.*\(images, 32, 32, 3\).*8, 8"):
        load("cifar10", tmp_path)
    with pytest.raises(ValueError, match=r"image_size.*left out for cifar10"):
        load("cifar10", tmp_path, image_size=64)


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """Neither TFDS's nor Keras' folder holds anything."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


def hang(*arguments, **options):
    time.sleep(6)
    raise OSError


def refuse(*arguments, **options):
    raise socket.gaierror("no name server")


@pytest.mark.parametrize(("name", "network"), [("cifar10", hang), ("cifar100", refuse)])
def test_offline_it_says_at_once_what_to_download_and_where_to(no_data, monkeypatch, name, network):
    monkeypatch.setattr(socket, "create_connection", network)
    start = time.perf_counter()
    with pytest.raises(
        ValueError, match=rf"data_dir.*{name}.*Download https://\S*binary.tar.gz and put it into \S*keras"
    ):
        load(name)
    assert time.perf_counter() - start < 5
    with pytest.raises(ValueError, match=rf"data_dir.*a folder with {name}.*Download"):
        load(name, data_dir=no_data)
    assert not list(no_data.iterdir())


def test_what_lies_in_keras_folder_is_found(no_data):
    arrays = dict(x_train=np.full((2, 32, 32, 3), 7), y_train=[1, 2], x_test=np.full((2, 32, 32, 3), 7), y_test=[1, 2])
    kept = no_data / "keras" / "datasets"
    kept.mkdir(parents=True)
    np.savez(kept / "cifar10.npz", **arrays)
    assert load("cifar10").test.labels.tolist() == [1, 2]


def test_without_a_folder_what_cannot_be_read_is_passed_over_with_a_warning(no_data, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "keras_preact")
    prepared, kept = no_data / "tfds" / "cifar10" / "3.0.2", no_data / "keras" / "datasets"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    kept.mkdir(parents=True)
    (kept / "cifar10.npz").touch()
    kind, _ = write_archive(CIFAR10, kept, {name: raw for name, (_, _, raw) in records(CIFAR10).items()})
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert load_cifar(kind).test.labels.tolist() == [5, 9]
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"Passed over {prepared}, where cifar10 cannot be read. ")
    assert "pip install tensorflow-datasets importlib_resources" in first
    assert "data_dir" not in first
    assert second.startswith(f"Passed over {kept / 'cifar10.npz'}, where cifar10 cannot be read. ")
    with pytest.raises(
        ValueError, match=r"`data_dir` must be where cifar10 can be read.*3\.0\.2.*pip install tensorflow"
    ):
        load_cifar(kind, no_data / "tfds")


def test_the_archive_is_downloaded_once_and_its_hash_is_checked(no_data, monkeypatch):
    records = np.zeros((4, 3073), np.uint8)
    records[:, 0] = 1, 2, 3, 4
    source, target = no_data / "source", no_data / "keras" / "datasets"
    source.mkdir()
    files = dict.fromkeys((*CIFAR10.train_files, CIFAR10.test_file), records.tobytes())
    kind, _ = write_archive(CIFAR10, source, files)
    monkeypatch.setattr(cifar, "HOME", f"{source.as_uri()}/")
    monkeypatch.setattr(cifar.download, "is_reachable", lambda url: True)
    with pytest.raises(ValueError, match=r"data_dir.*hash is sha256:c4a38c50.*Download .*put it into"):
        load("cifar10")
    assert not list(target.iterdir())
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(no_data))  # which is not for data sets
    assert load_cifar(kind).train.labels.tolist() == [1, 2, 3, 4] * 5
    (target / CIFAR10.archive).write_bytes(b"damaged")
    assert load_cifar(kind).train.labels.tolist() == [1, 2, 3, 4] * 5
    (source / CIFAR10.archive).unlink()
    assert load_cifar(kind).test.labels.tolist() == [1, 2, 3, 4]


def test_cifar_at_half_its_side_keeps_the_colours(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(6, 16, 1, 16, 1, 3))
    images = (np.ones((1, 1, 2, 1, 2, 1), int) * images).reshape(6, 32, 32, 3).astype(np.uint8)  # of squares of pixels
    labels = np.arange(6)
    np.savez(tmp_path / "cifar10.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    small = load("cifar10_16", tmp_path)
    assert small.image_shape == (16, 16, 3)
    assert (small.name, len(small.test), small.interpolation) == ("cifar10_16", 3, "bilinear")
    assert np.abs(small.train.images.mean(axis=(1, 2)) - images.mean(axis=(1, 2))).max() < 2
    whole = load("cifar10", tmp_path)
    assert small.class_names == whole.class_names
    assert abs(np.subtract(small.mean, images.mean(axis=(0, 1, 2)))).max() < 2
