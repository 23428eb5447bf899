"""Small files that claim much: refused in a sentence, before memory is taken for them."""

import io
import json
import pathlib
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
from weights_files import SPEC, arrays_of, build, card_of, trained, write_osmr

import keras_preact
from keras_preact import bounds
from keras_preact.hdf5 import arrays
from keras_preact.network.weights_files import FINGERPRINT
from keras_preact.training import run_folder
from keras_preact.training.source import find_source
from keras_preact.weights.pretrained import load_pretrained


@pytest.fixture(autouse=True)
def bounded():
    """Holds each test to a minute of computing, and to memory that has nothing to do with what its file claims."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    start, before = time.process_time(), peak()
    yield
    assert time.process_time() - start < 60.0
    assert peak() - before < 600_000


def peak():
    """Returns the most memory that this process has had, in kilobytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_the_peak_sees_memory_that_was_had_before():
    for _ in range(2):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        np.ones(30_000_000)
        assert peak() - before > 200_000


@pytest.fixture(scope="module")
def model():
    return trained()


def chain_of_links(file, length=28):
    """Groups within groups, each under two names: 2 to the power of `length` paths to one array."""
    group = file
    for _ in range(length):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner
    group["last"] = np.zeros(3, "float32")


def test_groups_under_two_names_are_visited_once_and_refused(model, tmp_path):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        chain_of_links(file.create_group("zz"))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"filepath.*zz/(a/)*b is there under another name"):
        model.load_weights(path)
    assert all(map(np.array_equal, before, model.get_weights()))
    with pytest.raises(ValueError, match="under another name"):
        find_source(path)


def test_an_array_under_two_names_is_refused_in_an_authors_file(model, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    path = tmp_path / "weights.h5"
    write_osmr(path, arrays_of(model))
    with h5py.File(path, "r+") as file:
        file["features/again"] = file["features/net/features/post_activ/bn/beta:0"]
    with pytest.raises(ValueError, match="under another name"):
        load_pretrained(build(), card_of(path))


def test_arrays_that_are_larger_together_than_their_file_are_refused(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        file["ballast"] = np.zeros(25_000, "float32")
        for number in range(100):
            file.create_dataset(f"empty{number}", (20_000,), "f4", chunks=(1000,))  # nothing is stored
    with h5py.File(path, "r") as file, pytest.raises(ValueError, match=r"empty\d+ is said to hold 80,000 bytes, in a"):
        list(arrays(file))


def test_weights_that_were_compressed_still_load(model, tmp_path):
    path, packed = tmp_path / "model.weights.h5", tmp_path / "packed.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r") as file, h5py.File(packed, "w") as target:
        target.attrs.update(file.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                target.create_dataset(name, data=item[()], compression="gzip" if item.ndim else None)
            else:
                target.require_group(name).attrs.update(item.attrs)

        file.visititems(copy)
    other = build()
    other.load_weights(packed)
    assert all(map(np.array_equal, model.get_weights(), other.get_weights()))


def changed_fingerprint(path, **fields):
    with h5py.File(path, "r+") as file:
        file.attrs[FINGERPRINT] = json.dumps({**json.loads(file.attrs[FINGERPRINT]), **fields})


CLAIMS = {
    "units": ({"units": [3_000_000, 2]}, r"units.*at most 10,000 in all.*3000002"),
    "widths": ({"widths": [4, 50_000]}, r"spec.*as many parameters as the [\d,]+ bytes.*[\d,]+ parameters"),
    "kernel": ({"stem": {**vars(SPEC.stem), "kernel": 100_001}}, "as many parameters as"),
    "stem": ({"stem": 5}, "stem.*StemSpec.*stem=5"),
    "channels": ({"channels": 10**9}, "as many parameters as"),
    "no channels": ({"channels": -1}, "channels.*at least 1"),
    "classes": ({"num_classes": 10**9}, "as many parameters as"),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_fingerprint_of_more_than_its_file_can_hold_builds_nothing(claim, model, tmp_path, monkeypatch):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    fields, message = CLAIMS[claim]
    changed_fingerprint(path, **fields)
    monkeypatch.setattr(keras_preact.zoo, "ResidualNetwork", None)
    for read in (find_source, lambda path: build(path, num_classes=None, shape=None)):
        with pytest.raises(ValueError, match=message):
            read(str(path))


def test_a_list_in_place_of_the_fingerprint_is_not_read(model, tmp_path):
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        del file.attrs[FINGERPRINT]
        file.attrs.create(FINGERPRINT, ["{}"] * 100, dtype=h5py.string_dtype())
    with pytest.raises(ValueError, match=r"filepath.*is no text"):
        model.load_weights(path)


def rewritten(path, change=lambda parts: None, **options):
    """Writes the zip archive at `path` again with the members that `change` leaves."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def with_config(**fields):
    """Returns a change of a network's configuration in a `.keras` file, some of them in its spec."""

    def change(parts):
        saved = json.loads(parts["config.json"])
        spec = {name: fields[name] for name in fields if name in saved["config"]["spec"]}
        saved["config"].update({name: value for name, value in fields.items() if name not in spec})
        saved["config"]["spec"].update(spec)
        parts["config.json"] = json.dumps(saved).encode()

    return change


def deeply(parts):
    parts["config.json"] = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def long_config(parts):
    parts["config.json"] = parts["config.json"][:-1] + b" " * (bounds.CONFIG_BYTES + 1) + b"}"


def linked(parts):
    content = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(content, "r+") as file:
        chain_of_links(file.create_group("zz"))
    parts["model.weights.h5"] = content.getvalue()


def foreign(parts):
    """A layer of Keras' own, whose arrays would be made before the file is looked at, under our class's name."""
    dense = {"module": "keras.layers", "class_name": "Dense", "registered_name": None, "config": {"units": 10**12}}
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).get_config()
    model["layers"][1] |= dense
    saved = {"module": "keras", "class_name": "ResidualNetwork", "registered_name": "Sequential", "config": model}
    parts["config.json"] = json.dumps(saved).encode()


BOMBS = {
    "units": (with_config(units=[3_000_000, 2]), "units.*at most 10,000 in all"),
    "widths": (with_config(widths=[4, 50_000]), "as many parameters as"),
    "classes": (with_config(num_classes=10**9), "as many parameters as"),
    "stem": (with_config(stem=5), "stem.*StemSpec.*stem=5"),
    "layer": (with_config(changed_layers={"predictions": {"units": 20_000_000}}), "changes units of its layer pred"),
    "rank": (with_config(changed_layers={"predictions": {"lora_rank": 10**9}}), "lora_rank above 4,096"),
    "foreign": (foreign, "class 'ResidualNetwork', not a network that keras_preact built"),
    "no fields": (lambda parts: parts.update({"config.json": b"[]"}), "list"),
    "links": (linked, "under another name"),
    "long": (long_config, r"config.json has 67,\d+,\d+ bytes"),
    "deep": (deeply, "recursion"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_keras_file_of_more_than_it_can_hold_builds_nothing(bomb, model, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model.save(path)
    change, message = BOMBS[bomb]
    rewritten(path, change)
    monkeypatch.setattr(keras.models, "load_model", None)
    for read in (run_folder.read_model, find_source):
        with pytest.raises(ValueError, match=rf"must be a.*whole.*\.keras.*{message}"):
            read(path)


@pytest.mark.parametrize("times", [1, 30])
def test_a_keras_file_that_unpacks_to_far_more_is_not_unpacked(times, model, tmp_path):
    """One member, or many that share the bytes of one."""
    path = tmp_path / "model.keras"
    model.save(path)

    def padded(parts):
        for number in range(times):
            parts[f"assets/{number}"] = bytes((100 << 20) // times)

    rewritten(path, padded, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1e6
    for read in (run_folder.read_model, find_source):
        with pytest.raises(ValueError, match=r"is said to unpack to 10[45],\d+,\d+ bytes, being one of \d+,\d+"):
            read(path)


def test_whole_keras_files_load_whether_packed_or_of_stages_alone(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    rewritten(path, compression=zipfile.ZIP_DEFLATED)
    assert all(map(np.array_equal, model.get_weights(), run_folder.read_model(path).get_weights()))
    part = keras_preact.build_network(SPEC, input_shape=(8, 8, 3), features=("stage1",))
    part.save(path)
    part.save_weights(tmp_path / "part.weights.h5")
    assert run_folder.read_model(path).features == {"stage1": "sum"}
    part.load_weights(tmp_path / "part.weights.h5")


def test_a_network_of_units_without_end_is_refused_and_the_largest_is_described_in_time():
    with pytest.raises(ValueError, match=r"units.*at most 10,000 in all.*20000"):
        keras_preact.NetworkSpec((10_000, 10_000), (4, 8))
    largest = keras_preact.NetworkSpec((5_000, 5_000), (4, 8), stochastic_depth=0.5)
    assert sum(map(len, largest.stages)) == bounds.UNITS
