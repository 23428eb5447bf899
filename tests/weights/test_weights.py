"""Trained weights: found, converted and kept, and files that are not what they should be."""

import dataclasses
import functools
import json
import os
import re
import shutil
import time
import zipfile

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from weights_files import (
    WRITERS,
    arrays_of,
    build,
    card_of,
    images,
    run_card,
    trained,
    write_osmr,
    write_timm,
)

import keras_preact
from keras_preact.cli import main
from keras_preact.weights.cards import TRAINED
from keras_preact.weights.pretrained import load_pretrained


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, and a folder of downloads that stands in for the network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    (tmp_path / "downloads").mkdir()
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(tmp_path / "downloads"))
    return tmp_path


def cached(home):
    return sorted(path.name for path in (home / "home").rglob("*") if path.is_file())


@pytest.mark.parametrize("converter", WRITERS)
def test_weights_are_converted_once_and_then_need_no_download(converter, home, monkeypatch):
    model = trained()
    path = home / "downloads" / "weights.bin"
    WRITERS[converter](path, arrays_of(model))
    card = card_of(path, converter)
    first = build(card, layout="layers")
    assert cached(home) == [f"tiny.pets.test-{card.digest[7:15]}.weights.h5"]
    path.unlink()
    monkeypatch.delenv("KERAS_PREACT_WEIGHTS")
    second = build(card)
    for each in (first, second):
        assert all(np.array_equal(one, arrays_of(each)[name]) for name, one in arrays_of(model).items())
        assert each.card is card
        assert (each.loaded.new, each.loaded.unused, each.loaded.adapted) == ((), (), ())
        assert str(each.loaded) == f"tiny.pets.test: {len(arrays_of(model))} arrays loaded"
    assert keras_preact.relayout(first, "stacked").card is card


@pytest.mark.parametrize("damage", ["bits", "cut"])
def test_a_damaged_file_in_the_cache_is_refused_with_the_way_out(damage, home, monkeypatch):
    write_osmr(home / "downloads" / "weights.bin", arrays_of(trained()))
    card = card_of(home / "downloads" / "weights.bin")
    build(card)
    (path,) = (home / "home").rglob("*.weights.h5")
    change_file(path, "bits") if damage == "bits" else path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: card)
    for fetch in (
        lambda: build(card),
        lambda: keras_preact.fetch_weights(card.name),
        lambda: keras_preact.fetch_weights(card.name, output=home / "carried"),
    ):
        with pytest.raises(ValueError, match=rf"weights.*whole in the cache.*Delete {path}"):
            fetch()
    path.unlink()
    assert build(card).loaded.arrays == len(arrays_of(trained()))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_cache_that_cannot_be_written_is_said_and_done_without(home, monkeypatch):
    model = trained()
    path = home / "downloads" / "weights.bin"
    write_osmr(path, arrays_of(model))
    (home / "home").write_text("a file")
    with pytest.warns(UserWarning, match=r"cannot be written.*not kept"):
        loaded = build(card_of(path))
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), model.predict(images(), verbose=0))
    assert sorted(each.name for each in home.iterdir()) == ["downloads", "home"]


def test_fetched_weights_can_be_carried_to_a_folder(home, monkeypatch):
    model = trained()
    path = home / "downloads" / "weights.bin"
    write_osmr(path, arrays_of(model))
    card = card_of(path)
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: card)
    carried = keras_preact.fetch_weights("tiny.pets.test", output=home / "carried")
    assert carried == home / "carried" / "tiny.pets.test.weights.h5"
    assert cached(home) == []
    path.unlink()
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(home / "carried"))
    np.testing.assert_array_equal(build(card).get_weights()[0], model.get_weights()[0])


def test_weights_are_fetched_from_the_place_that_is_named(home, monkeypatch, capsys):
    path = home / "downloads" / "weights.bin"
    write_osmr(path, arrays_of(trained()))
    card = card_of(path)
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: card)
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(home / "elsewhere"))
    flags = ["--place", str(path.parent), "--output", str(home / "to")]
    main(["weights", "fetch", card.name, *flags])
    assert capsys.readouterr().out.split() == [str(home / "to" / f"{card.name}.weights.h5")]
    assert (home / "to" / f"{card.name}.weights.h5").is_file()


@pytest.mark.usefixtures("registries")
def test_our_own_files_may_lie_at_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(tmp_path))  # in place of the address
    kept = keras_preact.get_card("resnet164.digits.digits")
    shutil.copyfile(kept.path, tmp_path / "ours.weights.h5")
    known = dict(url="https://a.test/ours.weights.h5", digest=kept.digest, megabytes=kept.megabytes)
    known |= dict(preprocessing=kept.preprocessing, classes=kept.classes, error_percent=kept.error_percent)
    spec = keras_preact.ResNet164(weights="digits").spec
    card = keras_preact.register_weights("resnet164.digits.there", spec=spec, **known)
    ours, theirs = (keras_preact.ResNet164(weights=name).get_weights() for name in (card.name, kept.name))
    assert all(map(np.array_equal, ours, theirs))


def test_a_folder_that_is_named_comes_before_one_for_downloads(tmp_path, monkeypatch):
    """All runs of one recipe have the same name."""
    shutil.copytree(TRAINED / "resnet164.digits.digits", tmp_path / "resnet164.digits.digits")
    other = keras_preact.ResNet164(weights="digits")
    other.get_layer("stem_conv").kernel.assign(other.get_layer("stem_conv").kernel * 2)
    (tmp_path / "downloads").mkdir()
    other.save_weights(tmp_path / "downloads" / "resnet164.digits.digits.weights.h5")
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(tmp_path / "downloads"))
    named = keras_preact.ResNet164(weights=tmp_path / "resnet164.digits.digits")
    ours, theirs = (np.asarray(model.get_layer("stem_conv").kernel) for model in (named, other))
    np.testing.assert_allclose(ours * 2, theirs)


def test_the_next_download_removes_what_a_killed_one_left(home):
    write_osmr(home / "downloads" / "weights.bin", arrays_of(trained()))
    for name, age in (("killed", 7200), ("running", 0)):
        file = home / "home" / "keras_preact" / f".fetch.{name}" / ".source.x" / "download"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        for path in (file, file.parent, file.parent.parent):
            os.utime(path, (time.time() - age,) * 2)
    build(card_of(home / "downloads" / "weights.bin"))
    assert [path.name for path in (home / "home").rglob(".fetch.*")] == [".fetch.running"]


@pytest.mark.parametrize("output", [None, "home"])
def test_what_cannot_be_kept_is_not_fetched(output, home, monkeypatch):
    write_osmr(home / "downloads" / "weights.bin", arrays_of(trained()))
    card = card_of(home / "downloads" / "weights.bin")
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: card)
    monkeypatch.setattr(keras_preact.weights.store, "fetch", None)
    (home / "home").write_text("a file")
    with pytest.raises(ValueError, match=r"`output` must be a folder that can be written to.*home.*KERAS_HOME"):
        keras_preact.fetch_weights("tiny.pets.test", output=output and home / output)


def test_a_zip_is_opened_and_weights_without_a_hash_ask_for_one(home):
    write_osmr(home / "inside.h5", arrays_of(trained()))
    with zipfile.ZipFile(home / "downloads" / "weights.zip", "w") as archive:
        archive.write(home / "inside.h5", "inside.h5")
    card = card_of(home / "inside.h5")
    unknown = dataclasses.replace(card, url="http://nowhere.invalid/weights.zip", member="inside.h5", digest=None)
    message = r'digest.*hash of tiny.pets.test.*published none.*nowhere.invalid.*fetch_weights\("tiny.pets.test", d'
    with pytest.raises(ValueError, match=message):
        build(unknown)
    assert cached(home) == []
    assert build(dataclasses.replace(unknown, digest=card.digest)).card.digest == card.digest


# Files that are not the weights: what is done to the file, and what the sentence names.


def missing(path, arrays):
    del arrays["stage2_unit01_conv2/kernel"]
    write_osmr(path, arrays)


def extra(path, arrays):
    write_osmr(path, {**arrays, "stage2_unit02_conv3/bias": np.zeros(32, "float32")})


def misshapen(path, arrays):
    write_osmr(path, {**arrays, "stage2_unit01_conv2/kernel": np.zeros((3, 3, 8, 9), "float32")})


def turned(path, arrays):
    write_osmr(path, {**arrays, "stage2_unit01_conv1/kernel": np.zeros((1, 1, 8, 16), "float32")})


def not_a_number(path, arrays):
    arrays["stage1_unit02_bn2/moving_variance"] = np.full(4, np.nan, "float32")
    write_osmr(path, arrays)


def whole_numbers(path, arrays):
    write_osmr(path, {**arrays, "final_bn/beta": np.zeros(32, "int32")})


def deeper(path, arrays):
    write_osmr(path, {**arrays, "stage2_unit03_conv1/kernel": np.zeros((1, 1, 32, 8), "float32")})


def linked(path, arrays):
    write_osmr(path, arrays)
    with h5py.File(path, "r+") as file:
        del file["features/net/features/post_activ/bn/beta:0"]
        file["features/net/features/post_activ/bn/beta:0"] = h5py.ExternalLink("/etc/passwd", "/x")


def elsewhere(path, arrays):
    write_osmr(path, {name: array for name, array in arrays.items() if name != "final_bn/beta"})
    with h5py.File(path, "r+") as file:
        outside = [(str(path.with_name("outside")), 0, 128)]
        file.create_dataset("features/post_activ/bn/beta:0", (32,), "f4", external=outside)


def endless(path, arrays):
    write_osmr(path, arrays)
    with h5py.File(path, "r+") as file:
        file["features/again"] = file["features"]


def enormous(path, arrays):
    write_osmr(path, {name: array for name, array in arrays.items() if name != "final_bn/beta"})
    with h5py.File(path, "r+") as file:
        file.create_dataset("features/post_activ/bn/beta:0", (136_000, 136_000), "f4", chunks=(1000, 1000))


def truncated(path, arrays):
    write_osmr(path, arrays)
    path.write_bytes(path.read_bytes()[:-2000])


def web_page(path, arrays):
    path.write_text("<!DOCTYPE html>")


DAMAGES = {
    missing: "lacks stage2_unit01_conv2/kernel",
    extra: r"unit2/body/conv3/conv/conv/bias, which the network has not",
    misshapen: r"shape \(3, 3, 8, 9\), where stage2_unit01_conv2/kernel has \(3, 3, 8, 8\)",
    turned: r"shape \(1, 1, 8, 16\), where stage2_unit01_conv1/kernel has \(1, 1, 16, 8\)",
    not_a_number: "conv2/bn/bn/moving_variance holds values that are not finite",
    whole_numbers: "post_activ/bn/beta is int32",
    deeper: "unit3/body/conv1/conv/conv/kernel, which the network has not",
    linked: "post_activ/bn/beta:0 is a link",
    elsewhere: "post_activ/bn/beta:0 is kept in another file",
    endless: "features/again is there under another name",
    enormous: r"said to hold 73,984,000,000 bytes",
    truncated: "whole file of osmr's",
    web_page: "whole file of osmr's",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_file_that_is_not_the_weights_is_refused_and_leaves_nothing(damage, home):
    path = home / "downloads" / "weights.h5"
    damage(path, arrays_of(trained()))
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match=DAMAGES[damage]):
        load_pretrained(model, card_of(path))
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights()))
    assert (model.card, model.loaded, cached(home)) == (None, None, [])


@pytest.mark.parametrize("name", ["stages.1.blocks.0.conv2.weight", "norm.running_var"])
def test_a_safetensors_file_is_held_to_the_same(name, home):
    path = home / "downloads" / "weights.safetensors"
    write_timm(path, arrays_of(trained()))
    whole = safetensors.numpy.load_file(path)
    for change in (lambda array: array[:-1], lambda array: np.full_like(array, np.nan), None):
        others = {key: array for key, array in whole.items() if key != name}
        safetensors.numpy.save_file({**others, name: change(whole[name])} if change else others, path)
        with pytest.raises(ValueError, match=r"weights.*whole file of timm's.*(conv2|norm|final_bn)"):
            build(card_of(path, "timm"))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"whole file of timm's.*(SafetensorError|[Ii]ncomplete|[Ii]nvalid)"):
        build(card_of(path, "timm"))
    assert cached(home) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("bits", "Its arrays are not those that were written"),
        ("nan", "not finite"),
        ("link", "is a link"),
        ("size", "said to hold 73,984,000,000 bytes"),
        ("page", "whole .weights.h5 file"),
        ("folder", "the folder of a finished run or of kept weights"),
        ("keras", "whole .keras file of a network of keras_preact"),
    ],
)
def test_our_own_files_are_sealed(damage, message, tmp_path):
    path = tmp_path / ("model.keras" if damage == "keras" else "model.weights.h5")
    model = trained()
    if damage == "folder":
        path.mkdir()
    elif damage in ("page", "keras"):
        path.write_text("<html>")
    else:
        model.save_weights(path)
        change_file(path, damage)
    with pytest.raises(ValueError, match=message):
        build(str(path))
    if path.is_file() and damage != "keras":
        before = [array + 1 for array in model.get_weights()]
        model.set_weights(before)
        with pytest.raises(ValueError, match=message):
            model.load_weights(path, skip_mismatch=True)
        assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights()))


def change_file(path, damage):
    if damage == "bits":
        content = bytearray(path.read_bytes())
        kernel = trained().get_layer("stem_conv").kernel.numpy().tobytes()
        content[content.index(kernel) + 40] ^= 1
        path.write_bytes(content)
        return
    with h5py.File(path, "r+") as file:
        group = file["layers/conv2d/vars"] if "layers/conv2d/vars" in file else first_group(file)
        if damage == "nan":
            group["0"][...] = np.nan
        elif damage == "link":
            del group["0"]
            group["0"] = h5py.ExternalLink("other.h5", "/x")
        else:
            del group["0"]
            group.create_dataset("0", (136_000, 136_000), "f4", chunks=(1000, 1000))


def first_group(file):
    found = []
    file.visititems(lambda name, item: found.append(item.parent) if isinstance(item, h5py.Dataset) else None)
    return found[0]


def with_lambda(path):
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)]).save(path)


def with_os_system(path):
    trained().save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    call = {"module": "os", "class_name": "system", "registered_name": "system", "config": {"command": "touch called"}}
    parts["config.json"] = json.dumps(call)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def with_nan(path):
    model = trained()
    model.set_weights([array * np.nan for array in model.get_weights()])
    model.save(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_lambda, "class 'Sequential', not a network that keras_preact built"),
        (with_os_system, "class 'system'"),
        (with_nan, "stem_conv/kernel.*not finite"),
    ],
    ids=["lambda", "os.system", "nan"],
)
def test_a_keras_file_that_asks_for_code_or_is_not_finite_is_refused_in_a_sentence(
    write, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.keras")
    (tmp_path / "card.json").write_text(json.dumps(run_card(build())))
    verbs = [["verify", "."], ["evaluate", "."], ["inspect", "."], ["inspect", "model.keras"]]
    for command in [*verbs, ["explain", "model.keras", "--output", "report.html"]]:
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert re.search(rf"keras-preact: `\w+` must be .*Received.*model.keras.*{message}", said)
        assert "safe_mode" not in said
        assert len(said) < 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "model.keras"]


def test_a_hash_that_is_given_is_never_passed_over(home, monkeypatch):
    write_osmr(home / "downloads" / "weights.bin", arrays_of(trained()))
    card = card_of(home / "downloads" / "weights.bin")
    unknown = dataclasses.replace(card, digest=None)
    fetch = functools.partial(keras_preact.fetch_weights, card.name)
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: unknown)
    path = fetch(digest=card.digest)
    with pytest.raises(ValueError, match="`file` must be one whose hash is sha256:0000"):
        fetch(digest=f"sha256:{0:064}")
    assert fetch() == path  # what was there stays
    monkeypatch.setattr(keras_preact.zoo, "get_card", lambda name: card)
    with pytest.raises(ValueError, match=r"`digest` must be left out for tiny\.pets\.test, whose file has sha"):
        fetch(digest=f"sha256:{0:064}")
    with pytest.raises(ValueError, match="`digest` must be"):
        fetch(digest="rubbish")
