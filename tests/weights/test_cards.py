"""The cards of trained weights: whole, kept, verified; images in and names out by them."""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from weights_files import (
    CLASSES,
    SPEC,
    build,
    images,
    trained,
    with_card,
)

import keras_preact
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.network.costs import network_costs
from keras_preact.training import evaluation, publish
from keras_preact.weights import store
from keras_preact.weights.cards import card_spec, check_file, read_card
from keras_preact.weights.converters import CONVERTERS
from keras_preact.weights.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A card whose file is at hand, and its network."""
    return with_card(tmp_path_factory.mktemp("source"))


def test_a_card_whose_file_is_gone_says_so():
    card = dataclasses.replace(keras_preact.get_card("resnet164.digits.digits"), path="gone/model.weights.h5")
    with pytest.raises(ValueError, match=r"`weights` must be those of a file that exists.*gone/model\.weights\.h5"):
        card.remote()


@pytest.mark.parametrize("algorithm", store.HASHES)
def test_weights_are_held_to_the_hash_of_their_card_whichever_that_is(algorithm, source):
    content = pathlib.Path(source[0].path).read_bytes()
    digest, other = (f"{algorithm}:{hashlib.new(algorithm, each).hexdigest()}" for each in (content, b"others"))
    for written in (digest, digest.upper()):  # as PowerShell prints it
        card = dataclasses.replace(source[0], digest=written)
        check_file(card)
        np.testing.assert_array_equal(build(card).get_weights()[0], source[1].get_weights()[0])
    with pytest.raises(ValueError, match=f"`file` must be one whose hash is {other}, .*Received: file='{digest}'"):
        build(dataclasses.replace(source[0], digest=other))


@pytest.mark.parametrize(
    ("field", "wrong", "message"),
    [
        ("spec", {"units": [2, 2]}, r"`spec` must be a NetworkSpec. Received: spec=\{'units'"),
        ("preprocessing", (8, 8), "`preprocessing` must be a Preprocessing"),
        ("classes", "cats", "`classes` must be a sequence of names.*'cats'"),
        ("classes", 4, "`classes` must be a sequence of names.*=4"),
    ],
)
def test_weights_that_cannot_be_registered_are_refused(field, wrong, message, source):
    card = source[0]
    known = dict(spec=SPEC, preprocessing=card.preprocessing, classes=CLASSES, error_percent=1.0, path=card.path)
    with pytest.raises(ValueError, match=message):
        keras_preact.register_weights(f"resnet{SPEC.depth}.pets.test", **{**known, field: wrong})


@pytest.mark.parametrize("name", keras_preact.list_weights())
def test_a_card_is_whole(name):
    card = keras_preact.get_card(name)
    spec = card_spec(card)
    assert name.split(".")[:2] == [card.network, card.dataset]
    assert int(card.network[6:]) == spec.depth
    assert len(card.classes) == len(set(card.classes)) == {"imagenet": 1000, "cifar100": 100}.get(card.dataset, 10)
    assert card.preprocessing.channels == len(card.preprocessing.std)
    if card.path is None:
        assert card.url.startswith("https://")
        assert card.converter in CONVERTERS
        if card.digest:
            assert store.check_digest(card.digest)
            assert card.remote().limit > 1e6 * card.megabytes
        if card.member:
            assert card.digest.startswith(f"sha1:{card.member.split('-')[-1].removesuffix('.tf2.h5')}")
    bytes_each = 2 if "rounded to float16" in card.published else 4
    assert 1e6 * card.megabytes == pytest.approx(bytes_each * parameters(spec, card), rel=0.25)


def test_hashes_and_errors_are_those_in_the_authors_packages():
    store_of_tf2cv = pathlib.Path(importlib.util.find_spec("tf2cv").origin).parent / "models" / "model_store.py"
    row = re.compile(r"\('(preresnet\w+)', '(\d+)', '([0-9a-f]{40})', '(v[\d.]+)'")
    published = {
        f"{name}-{error}-{sha1[:8]}.tf2.h5": (error, sha1, tag)
        for name, error, sha1, tag in row.findall(store_of_tf2cv.read_text())
    }
    cards = list(map(keras_preact.get_card, keras_preact.list_weights()))
    for card in (card for card in cards if card.converter == "osmr"):
        error, sha1, tag = published[card.member]  # top-5 on ImageNet
        assert card.digest == f"sha1:{sha1}"
        assert card.url.endswith(f"/{tag}/{card.member}.zip")
        assert f"{int(error) / 100:.2f} %" in card.published
    from keras.src.applications.resnet import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

    for card in (card for card in cards if card.converter == "keras_applications"):
        assert card.digest == f"md5:{WEIGHTS_HASHES[f'{card.network}v2'][0]}"
        assert card.url == f"{BASE_WEIGHTS_PATH}{card.network}v2_weights_tf_dim_ordering_tf_kernels.h5"
    assert [sum(card.converter == name for card in cards) for name in CONVERTERS] == [11, 3, 2]


def parameters(spec, card):
    parts = network_costs(spec, card.preprocessing.input_shape, len(card.classes))
    return sum(part.trainable + part.moving for part in parts)


def test_lists_are_by_network_and_data_set():
    assert keras_preact.list_weights("ResNet1001") == ["resnet1001.cifar10.osmr", "resnet1001.cifar100.osmr"]
    assert keras_preact.list_weights(data="digits") == ["resnet164.digits.digits"]
    with pytest.raises(ValueError, match=r'`name` must be .*Nearest: "resnet110.cifar10.osmr"'):
        keras_preact.get_card("resnet110.cifar10")


def test_the_embedded_digits_weights_have_the_error_that_their_card_states(capsys):
    main(["verify", "resnet164.digits.digits"])
    card = keras_preact.get_card("resnet164.digits.digits")
    assert f"error {card.error_percent:.2f} %, stated {card.error_percent:.2f} %: agrees" in capsys.readouterr().out
    assert card.error_percent < 3.0
    assert pathlib.Path(card.path).stat().st_size < 10e6


def test_a_run_is_kept_as_a_card_with_weights_and_history(tmp_path):
    model = trained()
    run = tmp_path / "run"
    run.mkdir()
    model.save(run / "model.keras")
    (run / "history.csv").write_text("epoch\n1\n")
    fields = {
        "model": "resnet14",
        "data": "digits",
        "error_percent": 12.5,
        "recipe": {"name": "ours", "source": "a test", "seed": 3},
        "network": model.get_config(),
        "classes": list(CLASSES),
        "preprocessing": {"size": [8, 8], "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]},
    }
    (run / "card.json").write_text(json.dumps(fields))
    folder = publish.keep_weights(run, tmp_path / "kept", author="A. Stranger", licence="MIT")
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "history.csv",
        "model.weights.h5",
        "run.json",
    ]
    card = read_card(folder)
    assert (card.name, card.error_percent, card.recipe) == ("resnet14.digits.ours", 12.5, "a test; seed 3")
    assert (card.author, card.licence) == ("A. Stranger", "MIT")
    unsigned = read_card(publish.keep_weights(run, tmp_path / "other"))
    assert (unsigned.author, unsigned.licence) == ("", "")
    again = build(card, num_classes=None, shape=None, spec=card_spec(card))
    np.testing.assert_array_equal(again.predict(images(), verbose=0), model.predict(images(), verbose=0))
    with pytest.raises(ValueError, match=r"folder.*card.json"):
        read_card(tmp_path)


def test_a_run_in_mixed_precision_is_kept_with_its_error_in_float32(tmp_path):
    options = dict(steps=4, global_batch_size=32, precision="mixed_bfloat16", output=tmp_path / "run", verbose=0)
    trained = keras_preact.train("ResNet11", recipe="digits", **options)
    run_card = tmp_path / "run" / "card.json"
    fields = json.loads(run_card.read_text())
    run_card.write_text(json.dumps({**fields, "error_percent": 0.0}))  # far from float32's
    folder = publish.keep_weights(tmp_path / "run", tmp_path / "kept")
    card, data = read_card(folder), load("digits")
    network = keras_preact.build_network(card_spec(card), weights=card)
    probabilities = network.predict(data.normalized(data.test.images), verbose=0)
    wrong = 100 * np.mean(probabilities.argmax(axis=1) != data.test.labels)
    assert card.error_percent == pytest.approx(wrong)
    assert card.error_percent == pytest.approx(trained["error_percent"], abs=3.0)
    assert card.published.startswith(
        f"test error {card.error_percent} % in float32 (0.0 % in mixed_bfloat16, as trained)"
    )
    assert publish.verify(folder).agrees


def test_kernels_are_kept_in_float16_and_their_error_is_measured(tmp_path):
    """Of a run, or of weights that were kept before."""
    run = tmp_path / "run"
    keras_preact.train("ResNet11", recipe="digits", steps=4, global_batch_size=32, output=run, verbose=0)
    whole = publish.keep_weights(run, tmp_path / "whole", author="A. Stranger", licence="MIT")
    fields = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps({**fields, "error_percent": 0.0}))  # is not taken over
    half = publish.keep_weights(run, tmp_path / "half", dtype="float16")
    again = publish.keep_weights(whole, tmp_path / "again", dtype="float16", licence="BSD")
    assert (read_card(again).author, read_card(again).licence) == ("A. Stranger", "BSD")
    assert (half / "model.weights.h5").read_bytes() == (again / "model.weights.h5").read_bytes()
    for ours, theirs in zip(*(load_network(folder).variables for folder in (half, whole))):
        rounds = ours.path.endswith("kernel") and len(ours.shape) >= 4
        expected = theirs.numpy().astype("float16").astype("float32") if rounds else theirs.numpy()
        np.testing.assert_array_equal(ours, expected)
        assert rounds == bool(np.any(ours != theirs))
    card = read_card(half)
    assert card.error_percent == pytest.approx(read_card(whole).error_percent, abs=1.0)
    assert card.error_percent > 0
    start = f"test error {card.error_percent} %, kernels rounded to float16, in float32 (0.0 %"
    assert card.published.startswith(start)
    assert publish.verify(half).agrees
    with pytest.raises(ValueError, match=r"`dtype` must be float16 for weights that are kept already"):
        publish.keep_weights(half, tmp_path / "new")
    with pytest.raises(ValueError, match=r"`dtype` must be .*float16"):
        publish.keep_weights(run, tmp_path / "new", dtype="bfloat16")
    assert not (tmp_path / "new").exists()


def load_network(folder):
    card = read_card(folder)
    return keras_preact.build_network(card_spec(card), weights=card)


@pytest.mark.parametrize("name", publish.own_weights())
def test_our_own_weights_are_there_without_a_network(name):
    card = keras_preact.get_card(name)
    check_file(card)
    model = keras_preact.get_model(card.network, weights=name)
    assert (model.card, model.output_shape[-1]) == (card, len(card.classes))
    assert card.error_percent < {"resnet110": 6.37, "resnet164": 5.46}[card.network]  # the paper's, on CIFAR-10


def test_verify_tells_weights_that_are_worse_or_others(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(keras_preact.weights.cards.TRAINED / "resnet164.digits.digits", folder)
    measure = evaluation.measure
    worse = lambda *given: {"error_percent": measure(*given)["error_percent"] + 0.6, "loss": 0.1}  # noqa: E731
    monkeypatch.setattr(evaluation, "measure", worse)
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(tmp_path / "nowhere"), str(folder)])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "nowhere" in captured.err
    assert "DIFFERS" in captured.out  # of the second one, though the first is not there
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(folder)])
    assert stopped.value.code == 1
    with open(folder / "model.weights.h5", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"file.*hash is sha256:.*Received.*model.weights.h5"):
        publish.verify(folder)


def test_the_command_line_lists_and_shows(capsys):
    main(["weights", "list", "--data", "imagenet", "--model", "resnet1001"])
    assert capsys.readouterr().out == "There are no trained weights of that network and data set.\n"
    main(["weights", "list", "--data", "cifar10"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == keras_preact.list_weights(data="cifar10")
    main(["weights", "show", "resnet152.imagenet.osmr_b"])
    assert "sha1:224a0baeb02d642716395f937316e071bd7ec25c" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["resnet50.imagenet.keras_applications", "resnet164.digits.digits"])
def test_a_card_is_shown_with_the_options_of_its_network(name, capsys):
    main(["weights", "show", name])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    spec = card_spec(keras_preact.get_card(name)).to_dict()
    assert {"stem", "stride_on", "conv_bias", "bn_epsilon"} < spec.keys()
    assert all(shown[f"spec.{option}"] == str(value) for option, value in spec.items() if value is not None)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["--data", "cifar-10"], 'data.*"cifar10", "cifar100", "digits", "imagenet".*Received.*Nearest: "cifar10"'),
        (["--model", "ResNet-164"], 'model.*Received.*Nearest: "resnet164"'),
        (["--model", "resnet12"], "depth.*12"),
    ],
)
def test_lists_of_what_there_is_not_are_refused(filters, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "list", *filters])
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)


# Images in, names out.


def test_images_are_resized_cropped_and_normalised_as_pillow_does(source):
    from PIL import Image

    card = dataclasses.replace(
        source[0], preprocessing=Preprocessing((20, 20), (100.0, 110.0, 120.0), (50.0, 60.0, 70.0), 0.8, "bicubic")
    )
    photo = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    resized = Image.fromarray(photo).resize((38, 25), Image.Resampling.BICUBIC)
    crop = np.asarray(resized, "float32")[2:22, 9:29]
    expected = (crop - [100, 110, 120]) / [50, 60, 70]
    prepared = keras_preact.preprocess_input([photo, photo], card)
    assert (prepared.shape, prepared.dtype) == ((2, 20, 20, 3), np.float32)
    np.testing.assert_allclose(prepared[1], expected, atol=1e-5)
    for kind in ("float32", "float64", "int64"):  # whole numbers, as `keras.utils.img_to_array` returns them
        np.testing.assert_array_equal(keras_preact.preprocess_input(photo[None].astype(kind), card)[0], prepared[1])
    unrounded = keras_preact.preprocess_input(photo[None] * np.float32(0.999), card)[0]
    np.testing.assert_allclose(unrounded, expected * 0.999, atol=0.02)
    with pytest.raises(ValueError, match="`image` must be of at most 16,777,216 pixels"):
        keras_preact.preprocess_input(np.zeros((1, 50_000, 1, 3), "uint8"), card)


def test_one_of_several_images_may_be_dark(source):
    images = np.full((2, 8, 8, 3), 120.0, "float32")
    images[1] = 0.0
    images[1, 0, 0] = 1.0
    expected = keras_preact.preprocess_input(images.astype("uint8"), source[0])
    np.testing.assert_array_equal(keras_preact.preprocess_input(images, source[0]), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 8, 8, 1), "uint8"), r"images.*\(batch, height, width, 3\).*\(8, 8, 1\)"),
        (np.zeros((8, 8, 3), "uint8"), r"images.*\(8, 3\)"),
        (np.full((1, 8, 8, 3), 0.5), "images.*0 to 255.*Multiply by 255"),
        (np.full((1, 8, 8, 3), -1.0), "images.*0 to 255.*-1.0"),
        (np.full((1, 8, 8, 3), np.nan), "images.*0 to 255.*nan"),
        (np.zeros((0, 8, 8, 3), "uint8"), "images.*one image at least"),
        (np.full((1, 8, 8, 3), "a"), "images.*0 to 255.*values of type <U1"),
        (np.full((1, 8, 8, 3), None), "images.*0 to 255.*values of type object"),
        (None, r"images.*list of images.*None"),
    ],
)
def test_images_that_are_none_are_refused(wrong, message, source):
    with pytest.raises(ValueError, match=message):
        keras_preact.preprocess_input(wrong, source[0])


def test_predictions_get_their_names(source):
    card, _ = source
    decoded = keras_preact.decode_predictions(np.array([[0.1, 0.2, 0.4, 0.3], [0.7, 0.1, 0.1, 0.1]]), card, top=2)
    assert decoded == [[("cat", 0.4), ("dog", 0.3)], [("ant", 0.7), ("bee", 0.1)]]
    with pytest.raises(ValueError, match=r"probabilities.*\(batch, 4\).*\(2, 3\).*new head"):
        keras_preact.decode_predictions(np.zeros((2, 3)), card)
    for wrong in (np.full((1, 4), np.nan), np.full((1, 4), "a"), [[1.0, 2.0], [3.0]]):
        with pytest.raises(ValueError, match=r"probabilities.*finite numbers"):
            keras_preact.decode_predictions(wrong, card)


def test_a_model_stands_for_its_card():
    model = keras_preact.ResNet(11, input_shape=(16, 16, 1))
    images, numbers = np.full((1, 8, 8, 1), 9, "uint8"), np.eye(10)[:1]
    calls = {keras_preact.preprocess_input: images, keras_preact.decode_predictions: numbers}
    for function, argument in calls.items():
        with pytest.raises(
            ValueError, match=r"`card` must be a Card, a model that has one.*'resnet11, a model without a card'"
        ):
            function(argument, model)
    model.card = card = keras_preact.get_card("resnet164.digits.digits")
    assert keras_preact.decode_predictions(numbers, model) == keras_preact.decode_predictions(numbers, card)
    expected = keras_preact.preprocess_input(images, card)
    np.testing.assert_array_equal(keras_preact.preprocess_input(images, model), expected)


@pytest.mark.parametrize("card", [None, "resnet164.digits.digits", 5])
def test_what_is_no_card_is_refused_with_where_to_get_one(card):
    with pytest.raises(ValueError, match=r"`card` must be a Card, a model that has one.*Received.*get_card"):
        keras_preact.preprocess_input(np.zeros((1, 8, 8, 3), "uint8"), card)
    with pytest.raises(ValueError, match=r"`card` must be a Card, a model that has one.*Received.*get_card"):
        keras_preact.decode_predictions(np.zeros((1, 4)), card)
