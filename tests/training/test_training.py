"""Recipes, optimizers, batches, and whole runs of a small network on the embedded digits."""

import dataclasses
import importlib.util
import json
import re
import subprocess
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.data import Augmentation, from_arrays, load
from keras_preact.data.batches import EvaluationBatches, TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.training import provenance
from keras_preact.training.evaluation import batch_size, check_classes, evaluation_metrics
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.recipes import RECIPES
from keras_preact.training.strategies import Devices, make_devices
from keras_preact.training.training_model import Crossentropy, TrainingModel

QUICK = RECIPES["digits"].replace(epochs=1, global_batch_size=128, warmup_steps=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, savedmodel):
    """A finished run of a network of 11 layers, and its card."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    card = keras_preact.train("ResNet11", recipe=QUICK.replace(epochs=3), output=folder, verbose=0)
    return folder, card


def test_the_digits_are_a_fixed_split():
    data = load("digits")
    assert data.train.images.shape == (1437, 16, 16, 1)
    assert data.test.images.shape == (360, 16, 16, 1)
    assert data.class_names == tuple("0123456789")
    assert np.bincount(data.test.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert int(data.test.images.sum(dtype=np.int64)) == 7163276
    normalized = data.normalized(data.train.images)
    assert abs(normalized.mean()) < 1e-4
    assert abs(normalized.std() - 1) < 1e-4


@pytest.mark.parametrize(
    ("count", "replicas", "size"),
    [(1, 1, 1), (9, 1, 9), (256, 1, 256), (257, 1, 129), (360, 1, 180), (10_000, 1, 250), (9, 2, 10), (360, 8, 184)],
)
def test_few_images_are_computed_twice_in_an_evaluation(count, replicas, size):
    assert batch_size(count, replicas) == size


def test_a_batch_that_does_not_fill_the_replicas_is_refused():
    Devices("mirrored", 2, "CPU").check_batch("global_batch_size", 360)
    with pytest.raises(ValueError, match=r"global_batch_size.*multiple of the 12 replicas.*128.*Nearest: 120"):
        Devices("mirrored", 12, "CPU").check_batch("global_batch_size", 128)


def test_metrics_of_two_replicas_are_added_up_where_one_goes_on():
    total, count = keras.Variable(0.0), keras.Variable(0.0)
    Devices("none", 1, "CPU").scatter([total, count], np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert (float(total.value), float(count.value)) == (4.0, 6.0)


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("jax_data_parallel", {}, r'strategy.*"auto" or one of "none", "mirrored".*on the tensorflow backend'),
        ("multi_worker", {}, r"TF_CONFIG.*cluster.*keras-preact launch"),
        ("multi_worker", {"TF_CONFIG": "{"}, r"TF_CONFIG.*JSON"),
        ("auto", {"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps"}}'}, r"TF_CONFIG.*index"),
        ("tpu", {}, r"strategy.*where there is no TPU"),
        ("horovod", {}, r"strategy.*Nearest"),
    ],
)
def test_devices_that_are_not_there_are_refused(name, variables, message, monkeypatch):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        make_devices(name)


def test_no_thread_tunes_the_batches_which_their_iterators_end_would_wait_for():
    dataset = make_devices("none").dataset(lambda: iter([np.arange(2)]), ((2,), "int64"))
    assert [list(batch.numpy()) for batch in dataset] == [[0, 1]]
    assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
def test_workers_that_built_a_network_before_they_met_are_told_to_pass_a_file(strategy, tmp_path, monkeypatch):
    """TensorFlow looks for no peers once it has computed, and a network that is there cannot be taken along."""
    network = keras_preact.ResNet(11, input_shape=(16, 16, 1), num_classes=3)
    cluster = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match=r"strategy.*of one process.*multi_worker.*Pass .* a file's path"):
        keras_preact.finetune(network, "digits", steps=2, output=tmp_path / "run", strategy=strategy, verbose=0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_holds_what_the_readme_says(run):
    folder, card = run
    assert {path.name for path in folder.iterdir()} == {
        "model.keras",
        "saved_model",
        "card.json",
        "card.md",
        "history.csv",
        "curves.png",
        "samples",
        "experiment.json",
        "checkpoints",
    } | ({"tensorboard"} if importlib.util.find_spec("tensorboard") else set())
    written = json.loads((folder / "card.json").read_text())
    assert written["error_percent"] == card["error_percent"] < 60
    asked = QUICK.replace(epochs=3)
    source = f"digits with its own epochs, global_batch_size, warmup_steps; {asked.source}"
    assert written["recipe"] == {
        "name": "custom",
        **json.loads(json.dumps(dataclasses.asdict(asked.replace(source=source)))),
    }
    assert set(written["versions"]) == {"keras_preact", "python", "keras", "tensorflow", "numpy"}
    assert (folder / "history.csv").read_text().count("\n") == 4
    assert "error_percent" in (folder / "card.md").read_text()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_one_loss_and_one_error_are_shown_of_each_image_once(tmp_path, capsys):
    """Labels are smoothed and the test images do not fill their batch, both of which Keras' own val_loss would show.

    The network computes in training as in inference, and stays, so both losses can be computed from its probabilities.
    """
    digits, rows = load("digits"), []
    data = from_arrays(
        digits.train.images[:64], digits.train.labels[:64], digits.test.images[:90], digits.test.labels[:90]
    )
    network = keras_preact.ResNet(11, input_shape=data.image_shape)
    model = TrainingModel(network, Preparation(data, Augmentation()), fixed_statistics=True)
    model.compile(
        keras.optimizers.SGD(0.0), Crossentropy(10, label_smoothing=0.3), weighted_metrics=evaluation_metrics()
    )
    shown = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rows.append(set(logs)),
        on_test_batch_end=lambda batch, logs: rows.append(set(logs)),
    )
    tested = EvaluationBatches(data, "test", 64)
    history = model.fit(
        TrainingBatches(data, 32, 0), validation_data=tested, shuffle=False, callbacks=[shown], verbose=2
    ).history
    assert rows == [{"loss", "error_percent"}] * 4
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "loss" in line)
    assert re.findall(r"(\w+): ", line) == ["error_percent", "loss", "val_error_percent", "val_loss"]
    for prefix, split, smoothing in (("", data.train, 0.3), ("val_", data.test, 0.0)):
        pixels = (split.images - np.float32(data.mean)) / np.float32(data.std)
        probabilities = network.predict(pixels, verbose=0)
        shares = (1 - smoothing) * np.eye(10)[split.labels] + smoothing / 10
        loss = -np.mean(np.sum(shares * np.log(probabilities), axis=1))
        assert history[f"{prefix}loss"] == pytest.approx([loss], rel=1e-5)
        wrong = np.mean(np.argmax(probabilities, axis=1) != split.labels)
        assert history[f"{prefix}error_percent"] == pytest.approx([100 * wrong], rel=1e-5)
    assert model.evaluate(tested, verbose=0, return_dict=True)["loss"] == pytest.approx(
        history["val_loss"][0], rel=1e-6
    )


def test_evaluate_measures_the_same_again(run):
    folder, card = run
    assert keras_preact.evaluate(folder)["error_percent"] == card["error_percent"]


def test_classes_that_came_or_went_are_refused():
    digits = load("digits")
    for trained in (digits.class_names[:9], (*digits.class_names, "ten")):
        with pytest.raises(ValueError, match=rf"`data` must be of the {len(trained)} classes.*data=10"):
            check_classes(SimpleNamespace(classes=trained, name="run"), digits)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("1023456789", r"`data` must be of the classes that .* was trained on, as '0'\. Received: data='1'"),
        ("abcdefghij", None),
    ],
)
def test_classes_in_another_order_are_refused_and_other_names_are_said(names, message, run, caplog):
    digits = load("digits")
    data = dataclasses.replace(digits, class_names=tuple(names))
    if message:
        with pytest.raises(ValueError, match=message):
            keras_preact.evaluate(run[0], data)
    else:
        assert keras_preact.evaluate(run[0], data) == keras_preact.evaluate(run[0], digits)
        assert "have other names than those of" in caplog.text


def test_logits_are_not_taken_for_probabilities(run):
    model = keras_preact.ResNet164(weights="digits", classifier_activation=None)
    for use in (keras_preact.evaluate, lambda network: keras_preact.predict(network, run[0] / "samples")):
        with pytest.raises(
            ValueError, match="`model` must be a network that returns probabilities, not linear outputs"
        ):
            use(model)


def test_the_weights_of_a_training_are_the_networks_and_no_images():
    network = keras_preact.ResNet(8, input_shape=(16, 16, 1))
    data = load("digits")
    model = TrainingModel(network, Preparation(data, Augmentation(), resident=True))
    assert any(weight.shape == data.train.images.reshape(len(data.train), -1).shape for weight in model.weights)
    assert [array.shape for array in model.get_weights()] == [array.shape for array in network.get_weights()]


def test_a_warm_up_that_the_training_does_not_reach_the_end_of_is_said(tmp_path, caplog):
    recipe = QUICK.replace(steps=1, warmup_steps=3)
    keras_preact.train("ResNet8", recipe=recipe, output=tmp_path / "run", verbose=0)
    assert "The learning rate rises for 3 steps, and the training has 1." in caplog.text


def test_what_is_no_data_no_path_and_no_name_is_said_by_its_type(run):
    arrays = np.zeros((4, 8, 8, 1), "uint8"), np.zeros(4, int)
    for use, message in (
        (lambda: keras_preact.train("ResNet11", data=arrays), "`data` must be a name, .*from_arrays"),
        (lambda: keras_preact.evaluate(run[0], arrays[0]), "`data` must be a name, .*Received: data='a ndarray'"),
        (lambda: keras_preact.predict(run[0], [arrays[0]]), "`images` must be the path of a file.*preprocess_input"),
        (
            lambda: keras_preact.export(run[0], run[0] / "e", images=arrays[0]),
            "`images` must be the path.*sample_images",
        ),
        (
            lambda: keras_preact.train(keras_preact.ResNet(8)),
            "`model` must be the name .*Received: model='a ResidualNetw",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_a_data_set_that_is_loaded_takes_no_place(run):
    for name, value in (("data_dir", "nowhere"), ("skip_corrupt", True)):
        with pytest.raises(ValueError, match=f"`{name}` must be left out with a DataSet"):
            keras_preact.train("ResNet11", data=load("digits"), **{name: value})


def test_the_savedmodel_takes_uint8_images_of_any_size(run):
    folder, _ = run
    data = load("digits")
    loaded = tf.saved_model.load(folder / "saved_model")
    served = loaded.serve
    model = keras.models.load_model(folder / "model.keras")
    expected = model.predict(data.normalized(data.test.images[:7]), verbose=0)
    outputs = served(tf.constant(data.test.images[:7]))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(keras.ops.softmax(outputs["logits"]), expected, atol=1e-5)
    assert served(tf.zeros((1, 40, 30, 1), tf.uint8))["probabilities"].shape == (1, 10)
    assert (folder / "saved_model" / "assets.extra" / "class_names.txt").read_text().split() == list("0123456789")


def test_predict_reads_image_files(run, tmp_path):
    folder, card = run
    data = load("digits")
    paths = sorted((folder / "samples").glob("*.png"))
    assert len(paths) == 5
    predictions = keras_preact.predict(folder, paths, top=2)
    assert [len(prediction.classes) for prediction in predictions] == [2] * 5
    model = keras.models.load_model(folder / "model.keras")
    firsts = np.stack([data.test.images[list(data.test.labels).index(label)] for label in range(5)])
    expected = model.predict(data.normalized(firsts), verbose=0)
    for prediction, row in zip(predictions, expected):
        assert prediction.classes[0] == (card["classes"][row.argmax()], pytest.approx(row.max(), abs=1e-5))
    (tmp_path / "no.png").write_text("no image")
    bad, good = keras_preact.predict(folder, [tmp_path / "no.png", paths[0]], top=2)
    assert (bad.classes, bad.problem) == ((), "It is of no kind that Pillow reads, or damaged at its beginning.")
    assert [name for name, _ in good.classes] == [name for name, _ in predictions[0].classes]
    assert [p for _, p in good.classes] == pytest.approx([p for _, p in predictions[0].classes], abs=1e-5)
    with pytest.raises(ValueError, match=r"existing.*none.png"):
        keras_preact.predict(folder, tmp_path / "none.png")


def test_a_run_folder_is_overwritten_only_if_asked(run, tmp_path):
    folder, _ = run
    before = (folder / "card.json").read_text()
    with pytest.raises(ValueError, match=r"output.*another run: recipe.epochs is 3 there and 1 here.*--overwrite"):
        keras_preact.train("ResNet11", recipe=QUICK, output=folder)
    assert (folder / "card.json").read_text() == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"run's folder.*Received"):
        keras_preact.train("ResNet11", recipe=QUICK, output=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_same_call_again_returns_the_finished_run(run, caplog):
    caplog.set_level("INFO", "keras_preact")
    folder, card = run
    again = keras_preact.train("ResNet11", recipe=QUICK.replace(epochs=3), output=folder)
    assert again == json.loads(json.dumps({**card, "folder": str(folder)}))
    assert "finished" in caplog.text


def test_a_step_compiles_once_with_xla_and_static_shapes():
    data, augmentation = load("digits"), Augmentation(crop_padding=2, flip=True)
    spec = keras_preact.NetworkSpec((1, 7), (4, 4), "single", stem={"width": 4})
    network = keras_preact.build_network(spec, input_shape=data.image_shape)
    model = TrainingModel(network, Preparation(data, augmentation))
    model.compile(make_optimizer(QUICK, 3), Crossentropy(10), weighted_metrics=evaluation_metrics(), jit_compile=False)
    batches = TrainingBatches(data, 32, 0, augmentation)
    step = tf.function(model.train_step, jit_compile=True, autograph=False)
    step(batches[0])  # TensorFlow traces once more where variables, here the metrics', are made
    traces = step.experimental_get_tracing_count()
    assert np.isfinite([float(step(batches[number])["loss"]) for number in range(1, 4)]).all()
    assert step.experimental_get_tracing_count() == traces


def test_a_card_says_on_what_device_and_of_which_commit_it_is(run):
    _, card = run
    assert card["commit"] == provenance.commit()
    assert re.match(r"\d+ x \w+", card["devices"]["name"])


def test_a_commit_is_dirty_where_a_file_was_changed(tmp_path):
    assert provenance.commit(tmp_path) is None

    def git(*words):
        names = ["-c", "user.name=x", "-c", "user.email=x@y.z"]
        return subprocess.run(["git", *names, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("as it was")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "--short", "HEAD").strip()
    assert provenance.commit(tmp_path) == head
    (tmp_path / "file").write_text("changed")
    assert provenance.commit(tmp_path) == f"{head}-dirty"
