"""Exported models: what they give beside what the Keras model gives, and that nothing half-right is left behind."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_exports import GIVEN, RGB, assert_close, expected, export_onnx, network, photographs, png, run_onnx

import keras_preact
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.exporting import (
    FORMATS,
    ParityError,
    Preprocessing,
    formats,
    parity,
)
from keras_preact.exporting.onnx_graph import write_onnx
from keras_preact.training import export as exporting_command
from keras_preact.weights.cards import TRAINED


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A ResNet-11 that has learnt a little of the digits, as a run folder."""
    folder = tmp_path_factory.mktemp("run") / "run"
    main(["train", "ResNet11", "--epochs", "1", "--global-batch-size", "64", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def exported(digits_run):
    main(["export", str(digits_run), "--formats", *FORMATS])
    return digits_run / "export"


def test_every_format_gives_what_keras_gives_where_keras_cannot_be_imported(exported, digits_run):
    report = json.loads((exported / "parity.json").read_text())
    card = json.loads((digits_run / "card.json").read_text())
    assert list(report["formats"]) == list(FORMATS)
    for name, found in report["formats"].items():
        assert (found["images"], found["repeats"]) == (360, True)
        assert found["megabytes"] > 0.05
        assert set(found["latency_ms"]) == {"1", "32"}
        if name != "litert_int8":
            assert found["probability_difference"] <= 1e-5
            assert found["top1_agreement"] == 1.0
            assert found["error_percent"] == card["error_percent"]
    int8, float32 = (report["formats"][name] for name in ("litert_int8", "litert"))
    assert 0.9 <= int8["top1_agreement"] <= 1.0
    assert int8["probability_difference"] > 1e-4
    assert abs(int8["error_percent"] - float32["error_percent"]) < 5.0
    assert int8["megabytes"] < 0.5 * float32["megabytes"]
    assert report["formats"]["savedmodel"]["encoded_difference"] <= 1e-5


def test_the_report_is_printed_as_a_table(exported, digits_run, capsys):
    report = json.loads((exported / "parity.json").read_text())["formats"]
    lines = parity.table(report)
    assert [line.split()[0] for line in lines] == ["format", *FORMATS]
    assert f"{report['litert']['error_percent']:.2f}" in lines[3]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_signals_of_the_int8_file_are_int8_too(exported):
    tensors = tf.lite.Interpreter(str(exported / "model.int8.tflite")).get_tensor_details()
    zeros = [tensor["quantization_parameters"]["zero_points"] for tensor in tensors if tensor["dtype"] is np.int8]
    assert sum(bool(np.any(zero)) for zero in zeros) > 10  # 0 for weights, -128 for a signal behind a ReLU


def test_images_of_any_size_are_resized_for_what_does_not_resize(tmp_path):
    export_onnx(network(units=(1, 1, 1)), tmp_path / "export", sample_images=photographs(4, 20, 28))


@pytest.mark.parametrize(("classes", "head"), [(1, "sigmoid"), (5, None)])
def test_onnx_has_the_activation_of_the_head(classes, head, tmp_path):
    options = dict(input_shape=RGB.input_shape, num_classes=classes, classifier_activation=head)
    model = keras_preact.build_network(network(units=(1, 1, 1)).spec, **options)
    write_onnx(model, tmp_path / "model.onnx", RGB, range(classes))
    assert_close(run_onnx(tmp_path / "model.onnx", photographs()), expected(model, photographs()))


def test_class_names_and_card_go_with_the_files(exported, digits_run):
    import onnx

    names, card = list("0123456789"), json.loads((digits_run / "card.json").read_text())
    for folder in (exported, exported / "saved_model" / "assets.extra"):
        assert (folder / "class_names.txt").read_text().split() == names
        assert json.loads((folder / "card.json").read_text()) == card
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(exported / "model.onnx").metadata_props}
    assert metadata == {"class_names": names, "card": card}


def test_a_savedmodel_takes_any_number_of_images_and_changes_nothing(exported, digits_run):
    data = load("digits")
    loaded = tf.saved_model.load(exported / "saved_model")
    variables = [variable for parts in loaded.weights.values() for variable in parts.values()]
    before = [variable.numpy() for variable in variables]
    model = keras.models.load_model(digits_run / "model.keras", compile=False)
    preprocessing = Preprocessing(data.image_shape[:2], data.mean, data.std)
    serve, encoded = (loaded.signatures[name] for name in ("serving_default", "encoded"))
    for count in (1, 3, 8):
        images = data.test.images[:count]
        first, second = serve(images=tf.constant(images)), serve(images=tf.constant(images))
        assert_close(first, expected(model, images, preprocessing))
        assert all(np.array_equal(first[name], second[name]) for name in first)
    assert before
    assert all(map(np.array_equal, before, [variable.numpy() for variable in variables]))
    big = np.asarray(tf.image.resize(data.test.images[:2], (40, 30))).astype("uint8")
    files = [png(image[..., 0]) for image in (*big, *data.test.images[:1])]  # of different sizes
    together = encoded(encoded=tf.constant(files))["logits"].numpy()
    one_by_one = [
        serve(images=tf.constant(image[None]))["logits"].numpy()[0] for image in (*big, *data.test.images[:1])
    ]
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


def test_failing_parity_leaves_nothing_and_the_earlier_export_as_it_was(tmp_path, monkeypatch):
    model = network(units=(1, 2, 1))
    export_onnx(model, tmp_path / "export")
    before = {file: file.read_bytes() for file in (tmp_path / "export").iterdir()}

    def write_other(model, *arguments):
        weights = model.get_weights()
        model.set_weights([weight + 0.01 for weight in weights])
        write_onnx(model, *arguments)
        model.set_weights(weights)

    monkeypatch.setattr(formats.onnx_graph, "write_onnx", write_other)
    with pytest.raises(ParityError, match="differs from resnet10 by"):
        export_onnx(model, tmp_path / "new")
    with pytest.raises(ParityError):
        export_onnx(model, tmp_path / "export", overwrite=True)
    monkeypatch.setattr(formats.onnx_graph, "write_onnx", lambda model, file, *_: file.write_bytes(b"not a graph"))
    with pytest.raises(ParityError, match="cannot be run in a fresh process"):
        export_onnx(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == [tmp_path / "export"]
    assert {file: file.read_bytes() for file in (tmp_path / "export").iterdir()} == before


def test_one_output_is_of_class_1_above_a_logit_of_0():
    logits = np.array([[-0.2], [0.2], [0.7]])
    for probabilities in (logits, 1 / (1 + np.exp(-logits))):  # of a head without an activation, of a sigmoid
        found = {"logits": logits, "probabilities": probabilities}
        assert parity.differences(found, found, np.array([0, 1, 1]))["error_percent"] == 0.0


def test_a_reference_is_of_full_precision_whatever_the_gpu_rounds():
    ask = tf.config.experimental.tensor_float_32_execution_enabled
    before = ask()
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        with parity.full_precision():
            assert not ask()
        assert ask()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.parametrize("output", ["gs://bucket/export", "gs:/bucket/export"])
def test_a_url_is_no_folder_to_export_to(output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="`output` must be a local path"):
        keras_preact.export(TRAINED / "resnet164.digits.digits", output)
    with pytest.raises(ValueError, match="`output` must be a local path"):
        keras_preact.keep_weights(TRAINED / "resnet164.digits.digits", output, dtype="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("numbers", [[120.0], [120.0, 110.0]])
def test_a_mean_has_a_number_for_each_channel(numbers, tmp_path):
    network(units=(1, 1, 1)).save_weights(tmp_path / "rgb.weights.h5")
    with pytest.raises(ValueError, match=r"`mean` must be one number for each of the 3 channel\(s\)"):
        keras_preact.export(tmp_path / "rgb.weights.h5", tmp_path / "export", mean=numbers, std=numbers)


def test_what_is_not_what_it_should_be_is_a_problem():
    model = network(units=(1, 1, 1))
    fine = {"repeats": True, "probability_difference": 1e-6, "top1_agreement": 1.0, "relative_logit_difference": 1e-6}
    assert parity._problem("savedmodel", fine, model) is None
    for name, change, message in (
        ("savedmodel", {"repeats": False}, "differently the second time"),
        ("savedmodel", {"encoded_difference": 0.1}, "encoded"),
        ("onnx", {"probability_difference": float("nan")}, "in a probability"),
        ("onnx", {"relative_logit_difference": 0.02}, "by 0.02 of the largest logit"),  # flat probabilities hide it
        ("litert_int8", {"top1_agreement": 0.5}, "on 50.0 % of the images"),
    ):
        assert message in parity._problem(name, {**fine, **change}, model)


def test_logits_in_place_of_probabilities_are_compared_relatively():
    logits = np.array([[4.0, -20.0], [1.0, 3.0]])
    found = parity.differences(
        {"logits": logits + 0.1, "probabilities": logits + 0.1}, {"logits": logits, "probabilities": logits}
    )
    assert found["probability_difference"] == pytest.approx(0.1 / 20)
    softmax = np.array([[0.2, 0.8], [0.5, 0.5]])
    found = parity.differences(
        {"logits": logits, "probabilities": softmax + 0.1}, {"logits": logits, "probabilities": softmax}
    )
    assert found["probability_difference"] == pytest.approx(0.1)


def test_an_export_goes_where_a_link_leads_and_never_in_place_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    export_onnx(network(units=(1, 1, 1)), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "large" / "model.onnx").is_file()
    monkeypatch.chdir(tmp_path / "large")
    with pytest.raises(ValueError, match="`output` must be another folder than the working one"):
        export_onnx(network(units=(1, 1, 1)), ".", overwrite=True)


def test_labels_of_other_classes_are_not_compared(digits_run, monkeypatch):
    digits = keras_preact.load("digits")
    other = dataclasses.replace(digits, class_names=tuple("9876543210"))
    monkeypatch.setattr(exporting_command, "data_of", lambda *_: other)
    with pytest.raises(ValueError, match="`data` must be of the classes that"):
        keras_preact.export(digits_run, digits_run.parent / "other", formats="onnx")


def test_an_export_is_replaced_only_if_asked_and_nothing_else_ever(tmp_path):
    model = network(units=(1, 1, 1))
    export_onnx(model, tmp_path / "export")
    with pytest.raises(ValueError, match="overwrite=True"):
        export_onnx(model, tmp_path / "export")
    export_onnx(model, tmp_path / "export", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(ValueError, match="earlier export"):
        export_onnx(model, tmp_path / "thesis", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="There is a file"):
        export_onnx(model, tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": "onxn"}, 'Nearest: "onnx"'),
        ({"formats": ()}, "one at least"),
        ({"class_names": ("a", "b")}, "5 names"),
        ({"class_names": ("a", "b", "c", "d", "e\nf")}, "one line"),
        ({"sample_images": None}, r"`images` must be a folder of two image files at least.*or sample_images"),
        ({"sample_images": photographs().astype("float32")}, "`sample_images` must be uint8"),
        ({"sample_images": photographs()[:0]}, "one image at least"),
        ({"sample_images": None, "sample_labels": [1, 2]}, "`sample_labels` must be left out without sample_images"),
        ({"sample_labels": [1, 2]}, "one whole number per image"),
        ({"sample_labels": [5] * 6}, "from 0 to 4"),
        ({"formats": "litert_int8"}, "`calibration_images` must be uint8"),
        ({"preprocessing": Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3)}, "preprocessing"),
        ({"preprocessing": None}, "Preprocessing"),
        (
            {"model": keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="logits")])},
            "ends in its classifier",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.export(output=tmp_path / "export", **{"model": network(units=(1, 1, 1)), **GIVEN, **arguments})
    assert not list(tmp_path.iterdir())


@keras.saving.register_keras_serializable("tests")
def own_activation(x):
    return x


def test_a_model_without_classifier_and_an_activation_onnx_does_not_know_are_refused(tmp_path):
    spec = network().spec
    for arguments in ({"include_top": False}, {"features": ["stage1"]}):
        model = keras_preact.build_network(spec, input_shape=(16, 16, 3), **arguments)
        with pytest.raises(ValueError, match="ends in its classifier"):
            export_onnx(model, tmp_path / "export")
    model = keras_preact.build_network(spec, input_shape=(16, 16, 3), num_classes=5, classifier_activation="softplus")
    with pytest.raises(ValueError, match="knows the activations softmax, sigmoid, linear"):
        export_onnx(model, tmp_path / "export")
    assert exporting_command._without_onnx(model, ("savedmodel", "onnx")) == ("savedmodel",)
    model.get_layer("predictions").activation = own_activation
    with pytest.raises(ValueError, match="knows the activations softmax, sigmoid, linear"):
        export_onnx(model, tmp_path / "export")


def test_what_can_be_written_here_is_and_what_the_other_formats_need_is_said(tmp_path, monkeypatch, caplog):
    found = {"tensorflow": object(), "onnx": object()}
    monkeypatch.setattr(formats.importlib.util, "find_spec", found.get)
    with pytest.raises(ImportError, match=r'"onnx" needs onnxruntime: pip install onnxruntime$'):
        export_onnx(network(units=(1, 1, 1)), tmp_path / "export")
    assert formats.check_formats(None) == ("savedmodel", "litert")
    assert 'Left out onnx. The format "onnx" needs onnxruntime: pip install onnxruntime' in caplog.text
    found.clear()
    with pytest.raises(ImportError, match='"savedmodel" needs tensorflow'):
        formats.check_formats(None)


def test_formats_of_tensorflow_are_refused_on_another_backend(tmp_path, monkeypatch):
    model = network(units=(1, 1, 1))
    monkeypatch.setattr(formats.keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match='of "onnx" on the jax backend'):
        keras_preact.export(model, tmp_path / "export", ("onnx", "litert"), **GIVEN)
    assert formats.check_formats(None) == ("onnx",)


def test_the_command_exports_a_keras_file_with_what_it_cannot_know(tmp_path, capsys):
    network(units=(1, 1, 1)).save(tmp_path / "model.keras")
    (tmp_path / "images").mkdir()
    for number, image in enumerate(photographs(4)):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(image))
    command = ["export", str(tmp_path / "model.keras"), "--formats", "onnx"]
    for flags, message in (
        ([], "does not say how its images were normalised"),
        (["--mean", "1", "2", "3", "--std", "4", "5", "6"], "two image files at least"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(command + flags)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    main([*command, "--mean", "1", "2", "3", "--std", "4", "5", "6", "--images", str(tmp_path / "images")])
    assert "100.00 %" in capsys.readouterr().out
    card = json.loads((tmp_path / "model.export" / "card.json").read_text())
    assert card["preprocessing"]["std"] == [4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("what", "formats"),
    [
        ("resnet164.digits.digits", ["onnx"]),
        pytest.param(str(TRAINED / "resnet164.digits.digits"), ["onnx", "litert_int8"], marks=pytest.mark.long),
    ],
)
def test_trained_weights_are_exported_as_their_card_says(what, formats, tmp_path):
    main(["export", what, "--formats", *formats, "--output", str(tmp_path / "export")])
    report = json.loads((tmp_path / "export" / "parity.json").read_text())["formats"]
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert list(report) == formats
    assert report["onnx"]["error_percent"] == card["error_percent"] == 1.1111
    if "litert_int8" in formats:
        assert report["litert_int8"]["error_percent"] < 3.0
    assert "path" not in card
    assert (tmp_path / "export" / "class_names.txt").read_text().split() == list("0123456789")


def test_trained_weights_are_compared_on_given_images_too(tmp_path, capsys):
    for number, image in enumerate(photographs(4)):
        (tmp_path / f"{number}.png").write_bytes(png(image))
    command = ["export", "resnet164.digits.digits", "--formats", "onnx", "--output", str(tmp_path / "export")]
    main([*command, "--images", str(tmp_path)])
    assert json.loads((tmp_path / "export" / "parity.json").read_text())["formats"]["onnx"]["images"] == 2
    with pytest.raises(SystemExit):
        main([*command, "--overwrite", "--mean", "1"])
    assert "mean" in capsys.readouterr().err


def test_a_run_whose_data_is_not_here_is_compared_on_given_images(digits_run, tmp_path, capsys):
    shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "checkpoints"))
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    (tmp_path / "run" / "card.json").write_text(json.dumps({**card, "data": "arrays"}))
    command = ["export", str(tmp_path / "run"), "--formats", "onnx"]
    with pytest.raises(SystemExit):
        main(command)
    message = " ".join(capsys.readouterr().err.split())
    assert "`images` must be a folder of image files to compare on" in message
    assert "The run's data cannot be read: `data_dir` must be the folder of the images" in message
    assert "Its card calls them arrays. On the command line: --data-dir DIR." in message
    main([*command, "--images", str(tmp_path / "run" / "samples")])
    report = json.loads((tmp_path / "run" / "export" / "parity.json").read_text())
    assert report["formats"]["onnx"]["images"] == 3


def test_a_card_says_nothing_of_a_new_head(tmp_path):
    model = keras_preact.ResNet164(weights="digits", num_classes=5)
    with pytest.raises(ValueError, match=r"`images` must be a folder of two image files at least"):
        keras_preact.export(model, tmp_path / "export", "onnx")
    assert not list(tmp_path.iterdir())


def test_one_output_says_two_classes_by_its_probability():
    assert formats._check_labels([0, 1], np.zeros((2, 8, 8, 3)), ["yes"]).tolist() == [0, 1]
    half = {"probabilities": np.array([[0.2], [0.9], [0.6]]), "logits": np.array([[-1.4], [2.2], [0.4]])}
    other = {"probabilities": np.array([[0.2], [0.1], [0.6]]), "logits": np.array([[-1.4], [-2.2], [0.4]])}
    report = parity.differences(half, other, np.array([0, 1, 0]))
    assert report["probability_difference"] == pytest.approx(0.8)
    assert report["top1_agreement"] == pytest.approx(2 / 3)
    assert (report["error_percent"], report["keras_error_percent"]) == (33.3333, 66.6667)


def test_the_card_beside_files_says_what_they_do(tmp_path, digits_run):
    how = Preprocessing((16, 16), (1.0,), (2.0,), crop=np.float32(0.5))
    names = [f"digit {number}" for number in range(10)]
    options = dict(preprocessing=how, class_names=names, verbose=False)
    keras_preact.export(digits_run, tmp_path / "export", "onnx", **options)
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert (card["preprocessing"]["mean"], card["preprocessing"]["crop"]) == ([1.0], 0.5)
    assert (card["classes"], card["error_percent"] > 0) == (names, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "nowhere"}, "`images` must be a folder of two image files at least.*There is no such folder"),
        ({"images": [1, 2]}, "`images` must be the path of a folder.*Arrays are for sample_images"),
        ({"mean": 127.5}, "`mean` must be a sequence of numbers"),
        ({"mean": (1.0,)}, "`mean` must be left out where a card"),
        ({"sample_labels": [1]}, "`sample_labels` must be left out without sample_images"),
        ({"card": {"x": np.float32(1)}, "formats": "onnx"}, "`card` must be a dict that JSON can hold"),
        ({"data_dir": "nowhere"}, "`data_dir` must be left out for digits"),
    ],
)
def test_what_is_asked_is_checked_before_a_network_is_built(options, message, digits_run, tmp_path, monkeypatch):
    if "card" not in options:
        monkeypatch.setattr("keras_preact.training.source.read_model", None)
    with pytest.raises(ValueError, match=message):
        keras_preact.export(digits_run, tmp_path / "export", **options)
    assert not (tmp_path / "export").exists()
