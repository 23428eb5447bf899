"""Exported models: what they give beside what the Keras model gives, and that nothing half-right is left behind."""

import io
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.data.files import FileSplit
from keras_preact.exporting import (
    FORMATS,
    ParityError,
    Preprocessing,
    export_savedmodel,
    formats,
    parity,
    reload,
)
from keras_preact.exporting.inference import inference_weights, outputs, stacked
from keras_preact.exporting.litert import write_litert
from keras_preact.exporting.onnx_graph import write_onnx
from keras_preact.exporting.preprocessing import cut, prepared, resized
from keras_preact.exporting.savedmodel import write_savedmodel
from keras_preact.network.spec import NetworkSpec, StemSpec
from keras_preact.training.predictor import read_image
from keras_preact.weights.cards import TRAINED

RGB = Preprocessing((16, 16), (110.0, 120.0, 130.0), (50.0, 60.0, 70.0))
FIVE = ("a", "b", "c", "d", "e")


def photographs(count=6, height=16, width=16, seed=0):
    """Smooth uint8 images, whose borders and channels differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).astype("float32")
    return np.asarray(tf.image.resize(coarse, (height, width), "bicubic")).clip(0, 255).astype("uint8")


def network(layout="stacked", dtype=None, **fields):
    """Returns a small network whose weights no symmetry hides and whose BNs have statistics."""
    spec = {"units": (1, 7, 2), "widths": (4, 4, 6), "stem": {"width": 4}, "unit": "basic", **fields}
    keras.utils.set_random_seed(0)
    model = keras_preact.build_network(
        NetworkSpec(**spec), input_shape=RGB.input_shape, num_classes=5, layout=layout, dtype=dtype
    )
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name.endswith(("gamma", "beta", "bias")):
            variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    for _ in range(3):
        model(prepared(photographs(8, seed=2), RGB), training=True)
    return model


def expected(model, images, preprocessing=RGB):
    outputs = [model.output, model.get_layer("pool").output]
    values = keras.Model(model.input, outputs)(prepared(images, preprocessing), training=False)
    probabilities, features = (np.asarray(tf.cast(value, tf.float64)) for value in values)
    kernel, bias = model.get_layer("predictions").get_weights()
    return {"probabilities": probabilities, "logits": features @ kernel + bias, "features": features}


def assert_close(found, wanted, bound=1e-5):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.abs(np.asarray(found[name]) - value).max() <= bound * max(1.0, np.abs(value).max()), name


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))


def png(image, kind="png"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


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


@pytest.mark.parametrize("layout", ["stacked", "layers"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_savedmodel_of_either_layout_and_of_half_precision(layout, dtype, tmp_path):
    model, images = network(layout, dtype), photographs(5, 20, 28)
    export_savedmodel(model, tmp_path / "saved", RGB, FIVE, images)
    loaded = tf.saved_model.load(tmp_path / "saved")
    # bfloat16 has 8 bits, and TensorFlow rounds a compiled function's operations elsewhere than eager ones.
    assert_close(loaded.serve(tf.constant(images)), expected(model, images), 1e-5 if dtype == "float32" else 2e-2)
    jpeg = loaded.signatures["encoded"](encoded=tf.constant([png(images[0], "jpeg")]))
    decoded = np.asarray(Image.open(io.BytesIO(png(images[0], "jpeg"))))[None]
    np.testing.assert_allclose(jpeg["logits"], loaded.serve(decoded)["logits"], atol=1e-5)


def test_a_savedmodel_refuses_images_of_other_channels(tmp_path):
    """Three grey images hold as many numbers as one of three channels."""
    write_savedmodel(network(units=(1, 1, 1)), tmp_path / "saved", RGB, FIVE)
    serve = tf.saved_model.load(tmp_path / "saved").signatures["serving_default"]
    for shape in ((3, 16, 16, 1), (3, 20, 20, 1)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            serve(images=tf.zeros(shape, tf.uint8))


def test_no_images_have_no_answers(tmp_path):
    write_savedmodel(network(), tmp_path / "saved", RGB, FIVE)
    loaded = tf.saved_model.load(tmp_path / "saved")
    given = [loaded.serve(tf.zeros((0, *size, 3), tf.uint8)) for size in ((16, 16), (20, 30), (0, 0))]
    for answers in (*given, loaded.serve_encoded(tf.zeros((0,), tf.string))):
        assert {name: tuple(value.shape) for name, value in answers.items()} == {
            "probabilities": (0, 5),
            "logits": (0, 5),
            "features": (0, 6),
        }


def test_files_are_cut_even_if_they_have_the_networks_size(tmp_path):
    """As those of a data set are; pixels of that size may have been cut already."""
    model, image = network(units=(1, 1, 1)), photographs(1)
    preprocessing = Preprocessing(RGB.size, RGB.mean, RGB.std, 0.8)
    report = keras_preact.export(
        model, tmp_path / "export", "savedmodel", **{**GIVEN, "preprocessing": preprocessing, "verbose": False}
    )
    assert report["formats"]["savedmodel"]["encoded_difference"] <= 1e-5
    loaded = tf.saved_model.load(tmp_path / "export" / "saved_model")
    assert_close(loaded.serve(tf.constant(image)), expected(model, image))
    centre = cut(image, preprocessing)
    assert np.abs(centre - image).max() > 10
    assert_close(loaded.serve_encoded(tf.constant([png(image[0])])), expected(model, centre))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float16"])
def test_a_savedmodel_of_half_precision_answers_in_numbers_that_numpy_has(dtype, tmp_path):
    model = stacked(network(units=(1, 1, 1)), dtype)
    report = keras_preact.export(model, tmp_path / "export", "savedmodel", **{**GIVEN, "verbose": False})
    assert report["formats"]["savedmodel"]["probability_difference"] <= 2e-2
    loaded = tf.saved_model.load(tmp_path / "export" / "saved_model")
    assert {value.dtype for value in loaded.serve(tf.constant(photographs())).values()} == {tf.float32}
    assert parity.tolerance(model) > parity.tolerance(network(units=(1, 1, 1)))


def test_half_precision_rounds_where_the_model_does():
    model, images = network(dtype="mixed_bfloat16"), prepared(photographs(), RGB)
    found = outputs(model, inference_weights(model), images)["probabilities"]
    np.testing.assert_array_equal(found, model(images, training=False))


VARIANTS = {
    "original, zero_pad": {"ordering": "original", "widening": "zero_pad"},
    "bn_after_addition": {"ordering": "bn_after_addition"},
    "relu_before_addition, exclusive gating": {"ordering": "relu_before_addition", "shortcut": "exclusive_gating"},
    "relu_only, scaling": {"ordering": "relu_only_preactivation", "shortcut": "constant_scaling"},
    "plain bottleneck": {"shortcut": "none", "unit": "bottleneck"},
    "conv1x1, biases": {
        "shortcut": "conv1x1",
        "conv_bias": ("stem", "branch", "last", "shortcut"),
        "stochastic_depth": 0.3,
    },
    "raw, dropout, input norm": {
        "widening_reads": "raw",
        "shortcut": "dropout",
        "stem": {"width": 4, "input_norm": "center"},
    },
    "imagenet stem": {"stem": StemSpec(8, 7, 2, pool="negative_infinity"), "unit": "bottleneck", "stride_on": "3x3"},
    "bare stem, same": {"stem": {"width": 4, "activates": False, "pool": "same"}},
    "bare stem, zero": {"stem": {"width": 4, "activates": False, "pool": "zero", "input_norm": "plain"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_of_the_paper_is_the_same_in_onnx_and_savedmodel(variant, tmp_path):
    model, images = network(**VARIANTS[variant]), photographs()
    wanted = expected(model, images)
    write_onnx(model, tmp_path / "model.onnx", RGB, FIVE)
    assert_close(run_onnx(tmp_path / "model.onnx", images), wanted)
    write_savedmodel(model, tmp_path / "saved", RGB, FIVE)
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert_close(loaded.serve(tf.constant(images)), wanted)


@pytest.mark.parametrize("variant", ["original, zero_pad", "imagenet stem"])
def test_litert_takes_every_network_and_the_batch_stays_free(variant, tmp_path):
    model = network("layers", **VARIANTS[variant])
    write_litert(model, tmp_path / "model.tflite", RGB)
    runner, _ = reload.load_litert(str(tmp_path / "model.tflite"))
    for count in (1, 6):
        assert_close(runner(photographs(count)), expected(model, photographs(count)))


GIVEN = {"preprocessing": RGB, "class_names": FIVE, "sample_images": photographs()}


def export_onnx(model, path, **arguments):
    return keras_preact.export(model, path, "onnx", **{**GIVEN, "verbose": False, **arguments})


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


def test_what_is_not_what_it_should_be_is_a_problem():
    model = network(units=(1, 1, 1))
    fine = {"repeats": True, "probability_difference": 1e-6, "top1_agreement": 1.0}
    assert parity._problem("savedmodel", fine, model) is None
    for name, change, message in (
        ("savedmodel", {"repeats": False}, "differently the second time"),
        ("savedmodel", {"encoded_difference": 0.1}, "encoded"),
        ("onnx", {"probability_difference": float("nan")}, "in a probability"),
        ("litert_int8", {"top1_agreement": 0.5}, "on 50.0 % of the images"),
    ):
        assert message in parity._problem(name, {**fine, **change}, model)


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


def test_a_model_without_classifier_and_an_activation_onnx_does_not_know_are_refused(tmp_path):
    spec = network().spec
    for arguments in ({"include_top": False}, {"features": ["stage1"]}):
        model = keras_preact.build_network(spec, input_shape=(16, 16, 3), **arguments)
        with pytest.raises(ValueError, match="ends in its classifier"):
            export_onnx(model, tmp_path / "export")
    model = keras_preact.build_network(spec, input_shape=(16, 16, 3), num_classes=5, classifier_activation="softplus")
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


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.6])
@pytest.mark.parametrize("shape", [(16, 16, 3), (12, 18, 3)])
@pytest.mark.parametrize("size", [(48, 33), (33, 47), (20, 10), (12, 18)])
def test_images_of_any_size_are_cut_as_data_sets_of_files_are_read(size, shape, crop, tmp_path):
    images, paths = photographs(2, *size), [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(paths, images):
        path.write_bytes(png(image))
    how = Preprocessing(shape[:2], RGB.mean, RGB.std, crop)
    files = FileSplit(paths, [0, 0], shape, round(min(shape[:2]) / crop)).read([0, 1])
    for path, pixels in zip(paths, files):
        np.testing.assert_array_equal(read_image(path, how), pixels)
    traced = tf.function(
        lambda images: resized(images, how), input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)]
    )
    wanted = images if size == shape[:2] else files  # what has the network's size stays
    np.testing.assert_allclose(traced(images), wanted, atol=1)  # half a level may be rounded to the other side
    np.testing.assert_array_equal(resized(images, how), traced(images))


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (1.0,)},
        {"std": (0.0,) * 3},
        {"size": (16, 16, 3)},
        {"crop": 0.0},
        {"crop": 1.1},
        {"interpolation": "cubic"},
    ],
)
def test_preprocessing_must_make_sense(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Preprocessing(**{"size": (16, 16), "mean": (0.0,) * 3, "std": (1.0,) * 3, **values})


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
    "what", ["resnet164.digits.digits", pytest.param(str(TRAINED / "resnet164.digits.digits"), marks=pytest.mark.long)]
)
def test_trained_weights_are_exported_as_their_card_says(what, tmp_path):
    main(["export", what, "--formats", "onnx", "litert_int8", "--output", str(tmp_path / "export")])
    report = json.loads((tmp_path / "export" / "parity.json").read_text())["formats"]
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert report["onnx"]["error_percent"] == card["error_percent"] == 1.1111
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
    assert "The run's data cannot be read: `data` must be an existing folder of images" in message
    main([*command, "--images", str(tmp_path / "run" / "samples")])
    report = json.loads((tmp_path / "run" / "export" / "parity.json").read_text())
    assert report["formats"]["onnx"]["images"] == 3


def test_a_card_says_nothing_of_a_new_head(tmp_path):
    model = keras_preact.ResNet164(weights="digits", num_classes=5)
    with pytest.raises(ValueError, match=r"`images` must be a folder of two image files at least"):
        keras_preact.export(model, tmp_path / "export", "onnx")
    assert not list(tmp_path.iterdir())


def test_a_savedmodel_costs_1001_layers_what_it_costs_164(tmp_path):
    sizes = []
    for build in (keras_preact.ResNet164, keras_preact.ResNet1001):
        model = build()
        write_savedmodel(model, tmp_path / model.name, Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3), range(10))
        sizes.append((tmp_path / model.name / "saved_model.pb").stat().st_size)
    assert sizes[1] < 1.02 * sizes[0] < 1e6


def test_one_output_says_two_classes_by_its_probability():
    half = {"probabilities": np.array([[0.2], [0.9], [0.6]]), "logits": np.zeros((3, 1))}
    other = {"probabilities": np.array([[0.2], [0.1], [0.6]]), "logits": np.zeros((3, 1))}
    report = parity._compared(half, other, np.array([0, 1, 0]))
    assert report["probability_difference"] == pytest.approx(0.8)
    assert report["top1_agreement"] == pytest.approx(2 / 3)
    assert (report["error_percent"], report["keras_error_percent"]) == (33.3333, 66.6667)
