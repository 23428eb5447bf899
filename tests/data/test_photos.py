"""The photos people have: one folder of them through train, finetune, evaluate, predict, export and serving."""

import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import shlex
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.commands.runs import pasted
from keras_preact.data import files, folders, identity, load
from keras_preact.exporting.encoded import on_its_side
from keras_preact.laboratory.analysis.sources import find_network
from keras_preact.training import evaluation, publish, run_folder
from keras_preact.training.predictor import read_images
from keras_preact.weights.preprocessing import Preprocessing

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(80)
NESTED, BROKEN, CUT, EMPTY = "2024/on the beach/IMG 1.jpg", "ant/photo.heic", "ant/cut.jpg", "Käfer/nothing.png"
CLASSES = ("Käfer", "ant", 'bee\'s "nest"', "dodo")
NOISE = (".DS_Store", "ant/.DS_Store", "__MACOSX/ant/._a.jpg", "notes.txt", "ant/Thumbs.db", "ant/.hidden/x.png")
RNG = np.random.default_rng(0)


def picture(red, green, blue, width=18, height=20):
    """A picture of about one colour, brighter at its top, in which no two corners are alike."""
    ramp = np.linspace(1.2, 0.6, height)[:, None] * np.linspace(0.9, 1.1, width)
    noise = RNG.integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.array([red, green, blue]) * ramp[..., None] + noise).clip(0, 255).astype("uint8"))


def write_photos(folder):
    """Writes a folder as people have it; returns the paths of the files in it that are whole images."""
    colours = {"ant": (200, 60, 50), CLASSES[0]: (60, 190, 70), CLASSES[2]: (60, 80, 200)}
    kinds = {f"{number}.png": {} for number in range(6)}
    kinds |= {f"{number} b.jpg": {"quality": 95} for number in range(3)}
    kinds |= {
        NESTED: {"exif": on_its_side()},
        "grey.jpg": "L",
        "cmyk.jpg": "CMYK",
        "moving.gif": "P",
        "deep.png": "I;16",
    }
    whole = []
    for name, colour in colours.items():
        for file, how in kinds.items():
            path, image = folder / name / file, picture(*colour)
            path.parent.mkdir(parents=True, exist_ok=True)
            if how == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype("uint16") * 256 + 7)
            elif isinstance(how, str):
                image = image.convert(how)
            image.save(path, **(how if isinstance(how, dict) else {}))
            whole.append(path)
        see_through = picture(*colour).quantize(8)
        see_through.save(folder / name / "palette.png", transparency=bytes([255, 0, 100, 255]))
        whole.append(folder / name / "palette.png")
    (folder / "dodo").mkdir()
    picture(90, 90, 90).save(folder / "dodo" / "the only one.png")
    (folder / "empty").mkdir()
    (folder / "nobody" / "inside").mkdir(parents=True)
    for name in NOISE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / BROKEN).write_bytes(HEIC)
    (folder / EMPTY).write_bytes(b"")
    contents = (folder / "ant" / "0 b.jpg").read_bytes()
    (folder / CUT).write_bytes(contents[:-40])
    return sorted([*whole, folder / "dodo" / "the only one.png"])


def said(*arguments):
    """Runs the command line; returns its status, and what it said on standard output and standard error."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("the") / "Anna's photos"
    return folder, write_photos(folder)


SHORT = ("--image-size", "16", "--steps", "3", "--warmup-steps", "0", "--global-batch-size", "8")


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """The run folder of three steps on the photos, and what was said."""
    run = tmp_path_factory.mktemp("runs") / "Anna's run"
    status, out, err = said("train", "ResNet11", "--data", photos[0], "--skip-corrupt", *SHORT, "--output", run)
    assert status == 0, err
    return run, out, err


def test_what_cannot_be_read_is_named_with_its_reason_before_anything_is_written(photos, tmp_path):
    folder, whole = photos
    status, _, err = said("train", "ResNet11", "--data", folder, *SHORT, "--output", tmp_path / "run")
    assert status == 2
    assert "nothing.png" in err  # the first of them
    assert "It is empty. 3 of 49 files cannot be read. Repair or remove such files" in err
    assert "--skip-corrupt" in err
    assert not list(tmp_path.iterdir())
    assert len(whole) == 49 - 3


def test_training_takes_every_image_and_says_once_what_it_left_out(trained, photos):
    run, out, err = trained
    folder, whole = photos
    card = json.loads((run / "card.json").read_text())
    assert (card["classes"], card["skip_corrupt"]) == (list(CLASSES), True)
    train, test = map(int, re.search(r"(\d+) training and (\d+) test images", out).groups())
    assert train + test == len(whole)
    notes = err.splitlines()
    (left_out,) = [note for note in notes if "cannot be read" in note]
    assert "Left out 3 of 49 files" in left_out
    for path, reason in (
        (CUT, "image file is truncated"),
        (BROKEN, "It is a HEIC photo, which Pillow does not read: convert it to JPEG, or pip install pillow-heif."),
        (EMPTY, "It is empty."),
    ):
        assert f"{path}: {reason}" in left_out
    (empty,) = [note for note in notes if "without an image" in note]
    assert empty.endswith("Left out the classes without an image (2): empty, nobody.")
    (untested,) = [note for note in notes if "without a test image" in note]
    assert untested.endswith("Classes without a test image (1 of 4): dodo.")
    (others,) = [note for note in notes if "no image by its name" in note]
    assert "(2): " in others
    assert "notes.txt" in others
    assert "Thumbs.db" in others
    assert len(notes) == 4
    data = load(str(folder), image_size=16, skip_corrupt=True)
    paths = [pathlib.Path(path) for path in [*data.train.paths, *data.test.paths]]
    assert sorted(paths) == whole
    assert folder / "ant" / NESTED in paths


def test_what_to_do_next_can_be_pasted_into_a_shell(trained):
    run, out, _ = trained
    lines = [shlex.split(line) for line in out.partition("Next:")[2].splitlines() if "predict" in line]
    (command,) = lines
    assert command[:3] == ["keras-preact", "predict", str(run)]
    assert [pathlib.Path(path).suffix for path in command[3:] if pathlib.Path(path).is_file()] == [".png", ".png"]
    assert pasted("predict", pathlib.Path("-x y"), "it's") == "  keras-preact predict './-x y' 'it'\"'\"'s'"


def test_evaluate_verify_and_explain_leave_out_what_the_run_did(trained, tmp_path, monkeypatch):
    run, _, _ = trained
    card = json.loads((run / "card.json").read_text())
    status, out, _ = said("evaluate", run)
    assert (status, json.loads(out)["error_percent"]) == (0, card["error_percent"])
    monkeypatch.setattr(evaluation, "measure", lambda network, data: {**card, "loss": 1.0})
    assert publish.verify(run).agrees
    assert publish.verify(publish.keep_weights(run, tmp_path), card["data"]).agrees
    assert find_network(str(run))[1].class_names == CLASSES


def test_photos_that_have_moved_are_asked_for_by_the_flag_that_says_where(trained, tmp_path):
    card = json.loads((trained[0] / "card.json").read_text())
    shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "run" / "card.json").write_text(json.dumps({**card, "data": "/gone/photos"}))
    for flags, received in (((), None), (["--data-dir", "x"], "x")):
        status, _, err = said("evaluate", tmp_path / "run", *flags)
        assert status == 2
        assert f"`data_dir` must be the folder of the images that {tmp_path}/run was trained on." in err
        assert f"Received: data_dir={received!r}. Its card calls them /gone/photos." in err


def test_explain_reads_photos_in_the_size_of_its_flag(trained, tmp_path):
    for index, color in enumerate(("red", "blue") * 4):
        path = tmp_path / color / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        picture(*((200, 0, 0) if color == "red" else (0, 0, 200)), width=18 + index).save(path)
    assert find_network("ResNet11", tmp_path, image_size=16)[1].image_shape == (16, 16, 3)
    with pytest.raises(ValueError, match="`image_size` must be left out with a trained network"):
        find_network(str(trained[0]), tmp_path, image_size=16)


def test_evaluate_and_verify_have_the_flag_that_their_error_names(trained, photos, tmp_path, monkeypatch):
    run, _, _ = trained
    card = json.loads((run / "card.json").read_text())
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    (tmp_path / "run" / "card.json").write_text(json.dumps({**card, "skip_corrupt": False}))
    error = {"error_percent": card["error_percent"]}
    monkeypatch.setattr(evaluation, "measure", lambda network, data: {**error, "loss": 1.0})
    for verb in (["evaluate", tmp_path / "run", "--data", photos[0]], ["verify", tmp_path / "run"]):
        status, _, err = said(*verb)
        assert status == 2
        assert "--skip-corrupt" in err
        status, _, err = said(*verb, "--skip-corrupt")
        assert status == 0, err


@pytest.fixture(scope="module")
def predicted(trained, photos):
    """What `predict` says of the folder: its status, {path: {class: probability}}, and what is on standard error."""
    status, out, err = said("predict", trained[0], photos[0], "--top", "4")
    found = {}
    for line in out.splitlines():
        if line.startswith(" "):
            share, name = line.split(" %  ")
            list(found.values())[-1][name] = float(share) / 100
        else:
            found[line] = {}
    return status, found, err


def test_predict_answers_for_the_good_files_of_a_folder_and_lists_the_bad(trained, photos, predicted):
    run, _, _ = trained
    folder, whole = photos
    status, found, err = predicted
    assert status == 1
    assert list(found) == [str(path) for path in whole]
    assert {tuple(sorted(classes)) for classes in found.values()} == {CLASSES}
    assert "3 of 49 files cannot be read:" in err
    assert f"{folder / CUT}: image file is truncated" in err
    assert f"{folder / BROKEN}: It is a HEIC photo" in err
    for name, message in (("empty", "a folder with images in it"), ("none", "an existing file, or a folder of images")):
        status, out, err = said("predict", run, folder / "ant" / "0.png", folder / name)
        assert (status, out) == (2, "")
        assert message in err


def test_a_photo_is_seen_as_a_viewer_shows_it(tmp_path):
    upright = picture(200, 60, 50, 14, 30)
    upright.save(tmp_path / "0.png")
    for number, turn in files.TURNS.items():
        back = {turn.ROTATE_90: turn.ROTATE_270, turn.ROTATE_270: turn.ROTATE_90}.get(turn, turn)
        upright.transpose(back).save(tmp_path / f"{number}.png", exif=on_its_side(number))
        upright.transpose(back).save(tmp_path / f"{number}.tif", exif=on_its_side(number))
    paths = sorted(tmp_path.iterdir())
    assert {look.size for look in files.look(paths)} == {(30, 14)}
    pixels, _ = read_images(paths, Preprocessing((30, 14), (0.0,) * 3, (1.0,) * 3))
    assert len(pixels) == 1 + 2 * 7
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.asarray(upright), pixels.shape))


@pytest.fixture(scope="module")
def served(trained):
    """The SavedModel that `export` writes, read back, and what was said."""
    run, _, _ = trained
    status, _, err = said("export", run, "--formats", "savedmodel")
    assert status == 0, err
    report = json.loads((run / "export" / "parity.json").read_text())["formats"]["savedmodel"]
    assert report["encoded_difference"] <= 1e-4
    return tf.saved_model.load(run / "export" / "saved_model")


def test_what_is_served_is_what_is_predicted_and_a_broken_file_loses_no_other(served, predicted, photos):
    folder, whole = photos
    paths = [folder / CUT, *whole, folder / BROKEN, folder / EMPTY]
    contents = tf.constant([path.read_bytes() for path in paths])
    probabilities = served.signatures["encoded"](encoded=contents)["probabilities"].numpy()
    bad = np.isnan(probabilities).all(axis=1)
    assert [path for path, is_bad in zip(paths, bad) if is_bad] == [folder / CUT, folder / BROKEN, folder / EMPTY]
    answers = served.signatures["classify"](encoded=contents)
    names, scores = answers["classes"].numpy(), answers["scores"].numpy()
    assert names.shape == scores.shape == (len(paths), 4)
    found = predicted[1].values()
    for row, name, score, wanted in zip(probabilities[~bad], names[~bad], scores[~bad], found, strict=True):
        np.testing.assert_allclose(row, [wanted[each] for each in CLASSES], atol=2e-3)
        assert [each.decode() for each in name] == sorted(CLASSES, key=lambda each: -row[CLASSES.index(each)])
        np.testing.assert_array_equal(score, np.sort(row)[::-1])
    assert (names[bad] == b"").all()
    assert np.isnan(scores[bad]).all()
    none = served.signatures["classify"](encoded=tf.zeros((0,), tf.string))
    assert {name: tuple(value.shape) for name, value in none.items()} == {"classes": (0, 4), "scores": (0, 4)}
    worst = served.signatures["encoded"](encoded=tf.constant([b"no image"]))["features"].numpy()
    assert np.isnan(worst).all()


def test_grey_weights_are_fine_tuned_on_photos_in_colour(photos, tmp_path):
    spec = keras_preact.NetworkSpec((1,), (4,), "basic", stem={"width": 4})
    keras_preact.build_network(spec, input_shape=(16, 16, 1), num_classes=7).save(tmp_path / "grey.keras")
    flags = ("--freeze", "stem", *SHORT, "--skip-corrupt", "--output", tmp_path / "run")
    status, out, err = said("finetune", "--weights", tmp_path / "grey.keras", "--data", photos[0], *flags)
    assert status == 0, err
    assert "reads 3 channels instead of 1: repeated, and multiplied by 1/3." in out
    card = run_folder.read_card(tmp_path / "run")
    assert (card["classes"], card["skip_corrupt"]) == (list(CLASSES), True)


# What files.py and folders.py promise, without a network.


def saved(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def test_of_16_bits_the_upper_8_are_taken_and_32_bits_have_no_white(tmp_path):
    levels = (np.arange(12).reshape(3, 4) * 5000 + 99).astype("uint16")
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path / name, levels)
        np.testing.assert_array_equal(np.asarray(files.open_image(path, 1)), levels >> 8)
        assert files.look([path]) == [files.Look((3, 4), True)]
    (tmp_path / "a.pgm").write_bytes(b"P5 4 3 65535\n" + levels.astype(">u2").tobytes())
    np.testing.assert_array_equal(np.asarray(files.open_image(tmp_path / "a.pgm", 3))[..., 1], levels >> 8)
    for kind in ("float32", "int32"):
        path = saved(tmp_path / f"{kind}.tif", levels.astype(kind))
        with pytest.raises(ValueError, match=r"data.*32\.tif.*32 bits, and nothing says which one is white"):
            files.open_image(path, 1)
        assert "32 bits" in files.look([path])[0].problem


def test_heic_is_read_where_its_package_is_installed(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(HEIC)
    with pytest.raises(ValueError, match=r"a\.heic.*HEIC photo.*convert it to JPEG, or pip install pillow-heif"):
        files.open_image(tmp_path / "a.heic", 3)
    registered = []
    package = types.SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    files._register_heif.cache_clear()
    files.look([tmp_path / "a.heic"] * 2)
    assert registered == [True]
    files._register_heif.cache_clear()


def test_a_class_keeps_an_image_to_train_on(tmp_path):
    test = [name for name in "abcdefghijklmnopqrstuvwxyz" if is_test(f"few/{name}.png")]
    for name in test[:2]:
        saved(tmp_path / "all" / "few" / f"{name}.png", np.zeros((4, 4), "uint8"))
    for name in "abcdefghijklmnopqrstuvwxyz":
        saved(tmp_path / "all" / "many" / f"{name}.png", np.full((4, 4), 99, "uint8"))
    data = load(tmp_path / "all")
    assert data.class_names == ("few", "many")
    assert np.bincount(data.train.labels).tolist()[0] == 2
    assert (data.test.labels == 1).all()


def is_test(key):
    return hashlib.sha256(key.encode()).digest()[0] < 51


def test_folders_that_lead_back_to_themselves_are_walked_once(tmp_path):
    saved(tmp_path / "album" / "deep" / "a.png", np.zeros((4, 4), "uint8"))
    (tmp_path / "album" / "deep" / "back").symlink_to(tmp_path / "album")
    (tmp_path / "elsewhere").mkdir()
    saved(tmp_path / "elsewhere" / "b.jpg", np.zeros((4, 4), "uint8"))
    (tmp_path / "album" / "linked").symlink_to(tmp_path / "elsewhere")
    images, others = folders.image_files(tmp_path / "album")
    assert [os.path.relpath(path, tmp_path / "album") for path in images] == ["deep/a.png", "linked/b.jpg"]
    assert others == []


def test_many_names_are_cut_short():
    assert folders.some("abc") == "a, b, c"
    assert folders.some("abcdefg") == "a, b, c, d, e and 2 more"


def test_every_test_class_without_a_training_image_is_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "keras_preact")
    for name in ("train/a/1.png", "train/c/1.png", "test/b/1.png", "test/a/1.png", "test/d/1.png"):
        saved(tmp_path / name, np.zeros((4, 4), "uint8"))
    with pytest.raises(ValueError, match=r"training images, in train/.*'b, d'"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "test" / "b")
    shutil.rmtree(tmp_path / "test" / "d")
    assert load(tmp_path).class_names == ("a", "c")
    assert "Classes without a test image (1 of 2): c." in caplog.text


def test_image_files_are_known_again_by_their_names_labels_and_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    for number in range(8):
        path = tmp_path / "photos" / ("ant", "bee")[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(10, 20, 30).save(path)
    known = identity.digest(load(str(tmp_path / "photos"), image_size=16))
    assert identity.digest(load(str(tmp_path / "photos"), image_size=16)) == known
    changes = {
        "another size": lambda: picture(10, 20, 30, width=40).save(path),
        "another name": lambda: path.rename(path.with_name("other.bmp")),
        "another class": lambda: path.with_name("other.bmp").rename(tmp_path / "photos" / "ant" / "7.bmp"),
    }
    seen = [known]
    for name, change in changes.items():
        change()
        seen.append(identity.digest(load(str(tmp_path / "photos"), image_size=16)))
        assert len(set(seen)) == len(seen), name
