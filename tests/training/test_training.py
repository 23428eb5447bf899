"""Recipes, optimizers, batches, and whole runs of a small network on the embedded digits."""

import dataclasses
import importlib.util
import json
import pathlib
import re
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.data import Augmentation, from_arrays, load
from keras_preact.data.batches import EvaluationBatches, TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.network.spec import ShortcutSpec, StemSpec
from keras_preact.training import provenance, recipes
from keras_preact.training.evaluation import evaluation_metrics
from keras_preact.training.levels import segments
from keras_preact.training.optimizers import RecipeSGD, make_optimizer, make_schedule
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import RECIPES
from keras_preact.training.strategies import Devices, make_devices
from keras_preact.training.training_model import Crossentropy, ErrorPercent, TrainingModel

QUICK = RECIPES["digits"].replace(epochs=1, global_batch_size=128, warmup_steps=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory, savedmodel):
    """A finished run of a network of 11 layers, and its card."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    card = keras_preact.train("ResNet11", recipe=QUICK.replace(epochs=3), output=folder, verbose=0)
    return folder, card


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"epochs.*at least 1.*0"),
        ({"learning_rate": float("nan")}, r"learning_rate.*finite.*nan"),
        ({"momentum": 1.0}, r"momentum.*\[0, 1\)"),
        ({"schedule": "cosin"}, r'schedule.*Nearest: "cosine"'),
        ({"weight_decay_kind": "L2"}, r'weight_decay_kind.*Nearest: "l2"'),
        ({"momentum_rule": "pytorch"}, r'momentum_rule.*Nearest: "torch"'),
        ({"precision": "float8"}, r'precision.*Nearest: "float'),
        ({"drops": (2,)}, r"drops.*schedule"),
        ({"schedule": "steps", "drops": (4, 2)}, r"drops.*growing"),
        ({"schedule": "plateau"}, r"patience.*plateau"),
        ({"early_stopping": 2}, r"validation_images.*test images"),
        ({"ema": 1.0}, r"ema.*\[0, 1\)"),
        ({"batch_size": 3}, r'Recipe field.*"global_batch_size".*Nearest: "global_batch_size"'),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe().replace(**fields)


@pytest.mark.parametrize("rule", ["caffe", "torch"])
@pytest.mark.parametrize("kind", ["l2", "l2_kernels", "decoupled"])
def test_weight_decay_is_the_step_computed_by_hand(kind, rule):
    """At one learning rate both rules of momentum make the same steps."""
    recipe = Recipe(learning_rate=0.5, schedule="constant", momentum=0.9, weight_decay=0.1, weight_decay_kind=kind)
    optimizer = make_optimizer(recipe.replace(momentum_rule=rule), steps_per_epoch=1)
    variables = {"conv_kernel": (2.0, 0.3), "gamma": (1.0, -0.2)}
    kept = {name: keras.Variable(value, name=name) for name, (value, _) in variables.items()}
    velocity = dict.fromkeys(variables, 0.0)
    expected = {name: value for name, (value, _) in variables.items()}
    for _ in range(2):
        grads = [keras.ops.convert_to_tensor(gradient) for _, gradient in variables.values()]
        optimizer.apply(grads, list(kept.values()))
        for name, (_, gradient) in variables.items():
            decays = kind == "l2" or (kind == "l2_kernels" and name.endswith("kernel"))
            if kind == "decoupled":
                expected[name] -= 0.5 * 0.1 * expected[name]
            total = gradient + 0.1 * expected[name] * decays
            velocity[name] = 0.9 * velocity[name] - 0.5 * total
            expected[name] += velocity[name]
    for name, variable in kept.items():
        assert float(variable.value) == pytest.approx(expected[name], rel=1e-6)


def torchs_step(value, velocity, gradient, rate, nesterov):
    """`torch.optim.SGD`: the velocity is a sum of gradients, and is multiplied by the present rate."""
    velocity = 0.9 * velocity + gradient
    return value - rate * (gradient + 0.9 * velocity if nesterov else velocity), velocity


def caffes_step(value, velocity, gradient, rate, nesterov):
    """Caffe's and Keras' SGD: what the velocity took up keeps the rate that it had then."""
    velocity = 0.9 * velocity - rate * gradient
    return value + (0.9 * velocity - rate * gradient if nesterov else velocity), velocity


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("rule", "step"), [("torch", torchs_step), ("caffe", caffes_step)])
def test_momentum_follows_the_recipes_rule_across_a_warm_up_and_a_drop(rule, step, nesterov):
    recipe = Recipe(steps=9, schedule="steps", warmup_steps=2, drops=(5,), weight_decay=0.1, nesterov=nesterov, ema=0.8)
    optimizer = make_optimizer(recipe.replace(momentum_rule=rule), steps_per_epoch=3)
    variable, average = keras.Variable(2.0, name="kernel", dtype="float64"), None
    value, velocity = 2.0, 0.0
    for number, rate in enumerate([0.01] * 2 + [0.1] * 3 + [0.01] * 4):
        gradient = 0.3 * (-1) ** (number // 2) + value
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")], [variable])
        value, velocity = step(value, velocity, gradient + 0.1 * value, rate, nesterov)
        average = value if average is None else 0.8 * average + 0.2 * value
        assert float(variable.value) == pytest.approx(value, abs=1e-6)
    optimizer.use_average([variable])
    assert float(variable.value) == pytest.approx(average, abs=1e-6)


@pytest.mark.parametrize(("rule", "length"), [("torch", 0.1), ("caffe", 0.91)])
def test_after_a_drop_torchs_step_is_a_tenth_and_caffes_runs_on(rule, length):
    """Under one gradient, long after the start, where velocities are 10 times it."""
    optimizer = RecipeSGD(0.1, momentum=0.9, momentum_rule=rule)
    variable, gradient = keras.Variable(0.0), keras.ops.convert_to_tensor(1.0)
    positions = []
    for step in range(202):
        optimizer.learning_rate = 0.1 if step < 201 else 0.01
        optimizer.apply([gradient], [variable])
        positions.append(float(variable.value))
    before, after = np.diff(positions)[-2:]
    assert before == pytest.approx(-1.0, rel=1e-3)
    assert after == pytest.approx(-length, rel=1e-3)


def test_recipes_follow_their_sources_rule():
    rules = {name: recipe.momentum_rule for name, recipe in RECIPES.items()}
    assert {name for name, rule in rules.items() if rule == "torch"} == {"fair_cifar", "fair_imagenet"}
    copy = RecipeSGD.from_config(make_optimizer(RECIPES["fair_cifar"], 10).get_config())
    assert copy.momentum_rule == "torch"


def test_steps_drop_after_their_epochs_and_warm_up_first():
    recipe = Recipe(epochs=6, learning_rate=1.0, schedule="steps", warmup_steps=2, drops=(2, 4))
    schedule = make_schedule(recipe, steps_per_epoch=3)
    rates = [float(schedule(step)) for step in range(18)]
    assert rates == pytest.approx([0.1] * 2 + [1.0] * 4 + [0.1] * 6 + [0.01] * 6)


def test_cosine_grows_from_zero_and_ends_at_zero():
    schedule = make_schedule(Recipe(epochs=4, learning_rate=0.4, warmup_steps=4), steps_per_epoch=5)
    rates = [float(schedule(step)) for step in range(21)]
    assert rates[:5] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert rates[12] == pytest.approx(0.2)
    assert rates[20] == pytest.approx(0.0, abs=1e-9)


def test_error_percent_counts_wrong_images():
    metric = ErrorPercent()
    metric.update_state(np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 0]])
    assert float(metric.result()) == 25.0


def test_label_smoothing_is_keras_own_on_whole_numbers():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], "float32")
    ours = Crossentropy(3, 0.1)(np.array([0, 2]), probabilities)
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(np.eye(3)[[0, 2]], probabilities)
    assert float(ours) == pytest.approx(float(theirs))
    plain = Crossentropy(3)(np.array([0, 2]), probabilities)
    assert float(plain) == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2)
    shares = Crossentropy(3)(np.eye(3, dtype="float32")[[0, 2]], probabilities)
    assert float(shares) == pytest.approx(float(plain))


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


def test_a_batch_that_does_not_fill_the_replicas_is_refused():
    Devices("mirrored", 2, "CPU").check_batch("global_batch_size", 360)
    with pytest.raises(ValueError, match=r"global_batch_size.*multiple of the 12 replicas.*128.*Nearest: 120"):
        Devices("mirrored", 12, "CPU").check_batch("global_batch_size", 128)


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


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
def test_workers_that_built_a_network_before_they_met_are_told_to_pass_a_file(strategy, tmp_path, monkeypatch):
    """TensorFlow looks for no peers once it has computed, and a network that is there cannot be taken along."""
    network = keras_preact.ResNet(11, input_shape=(16, 16, 1), num_classes=3)
    cluster = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(ValueError, match=r"strategy.*of one process.*multi_worker.*Pass .* a file's path"):
        keras_preact.finetune(network, "digits", steps=2, output=tmp_path / "run", strategy=strategy, verbose=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "total", "expected"),
    [
        (0, 30, [(0, 3, 10)]),
        (10, 30, [(1, 3, 10)]),
        (13, 30, [(1, 2, 7), (2, 3, 10)]),
        (0, 25, [(0, 2, 10), (2, 3, 5)]),
        (23, 25, [(2, 3, 2)]),
        (30, 30, []),
    ],
)
def test_a_run_goes_on_within_an_epoch_and_may_end_in_one(step, total, expected):
    assert list(segments(step, total, 10)) == expected


def test_a_linear_schedule_rises_and_falls():
    schedule = make_schedule(Recipe(schedule="linear", steps=10, learning_rate=1.0, warmup_steps=2), 5)
    assert [round(float(schedule(step)), 6) for step in (0, 1, 2, 6, 10)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert float(make_schedule(Recipe(schedule="linear", steps=10, learning_rate=1.0), 5)(0)) == 1.0


def test_gradients_are_clipped_by_their_norm_together():
    optimizer = make_optimizer(Recipe(learning_rate=1.0, schedule="constant", weight_decay=0.0, clip_norm=1.0), 1)
    variables = [keras.Variable(0.0, name="a"), keras.Variable(0.0, name="b")]
    optimizer.apply([keras.ops.convert_to_tensor(3.0), keras.ops.convert_to_tensor(4.0)], variables)
    assert [float(variable.value) for variable in variables] == pytest.approx([-0.6, -0.8])


def test_the_paper_recipe_is_the_papers():
    recipe = RECIPES["paper_cifar"]
    schedule = make_schedule(recipe, 390)
    rates = {step: round(float(schedule(step)), 5) for step in (0, 399, 400, 31_999, 32_000, 47_999, 48_000)}
    assert rates == {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001}
    assert recipe.total_steps(390) == 64_000
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)


def test_a_recipe_keeps_its_name_with_another_seed_and_says_what_else_was_changed():
    paper = RECIPES["paper_cifar"]
    assert len({recipe.source for recipe in RECIPES.values()}) == len(RECIPES)
    another = paper.replace(seed=3, precision="mixed_bfloat16")
    assert recipes.named(another) == ("paper_cifar", another)
    name, changed = recipes.named(paper.replace(seed=3, momentum=0.8))
    assert (name, changed.source) == ("custom", f"paper_cifar with its own momentum; {paper.source}")
    assert recipes.named(changed) == (name, changed)
    mine = Recipe(source="mine")
    assert recipes.named(mine) == ("custom", mine)


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


def test_recipe_fields_are_keywords_and_options_may_be_specs_but_nothing_that_json_cannot_hold(tmp_path):
    options = {"shortcut": ShortcutSpec("constant_scaling", scale=0.3)}
    fields = {"global_batch_size": 128, "steps": 2, "learning_rate": 0.05}
    card = keras_preact.train("ResNet11", **fields, model_options=options, output=tmp_path / "run", verbose=0)
    assert {name: card["recipe"][name] for name in fields} == fields
    assert card["recipe"]["name"] == "custom"
    assert card["recipe"]["source"].startswith("digits with its own steps, global_batch_size, learning_rate; ")
    assert (card["options"]["shortcut"]["scale"], card["network"]["spec"]["shortcut"]["scale"]) == (0.3, 0.3)
    with pytest.raises(ValueError, match=r"`model_options` must be values that JSON can hold.*not JSON serializable"):
        keras_preact.train("ResNet11", recipe=QUICK, model_options={"name": object()}, output=tmp_path / "other")
    with pytest.raises(ValueError, match=r"`model_options` must be values that JSON can hold"):
        keras_preact.train("ResNet11", recipe=QUICK, model_options={"stem": StemSpec}, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


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
    assert good == predictions[0]
    with pytest.raises(ValueError, match=r"existing.*none.png"):
        keras_preact.predict(folder, tmp_path / "none.png")


class LossOfTwo(keras.callbacks.Callback):
    """Keeps the training loss of two images of equal probabilities."""

    def on_train_end(self, logs=None):
        labels, probabilities = np.array([1, 0]), keras.ops.full((2, 10), 0.1, "float64")
        self.loss = self.model.compute_loss(None, labels, probabilities, training=False)


def test_a_float64_run_has_a_float64_loss_and_says_what_an_epoch_leaves_out(tmp_path, capsys, caplog):
    caplog.set_level("INFO", "keras_preact")
    train, test, kept = load("digits").train, load("digits").test, LossOfTwo()
    data = from_arrays(train.images[:100], train.labels[:100], test.images[:40], test.labels[:40])
    recipe = QUICK.replace(steps=1, global_batch_size=32, precision="float64", label_smoothing=0.1)
    keras_preact.train("ResNet11", data=data, recipe=recipe, output=tmp_path, callbacks=[kept], verbose=0)
    assert keras.backend.standardize_dtype(kept.loss.dtype) == "float64"
    assert float(kept.loss) == pytest.approx(np.log(10), abs=1e-14)
    assert keras.config.floatx() == "float32"
    assert keras.models.load_model(tmp_path / "model.keras").loss.dtype == "float64"
    assert capsys.readouterr().out == ""  # verbose is 0
    assert (
        "An epoch is 3 whole batches of 32: the last 4 images of its order, others in each epoch, are left"
        in caplog.text
    )


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


def test_the_same_seed_trains_the_same(tmp_path):
    cards = [
        keras_preact.train("ResNet11", recipe=QUICK, output=tmp_path / str(number), strategy="none", verbose=0)
        for number in range(2)
    ]
    first, second = ((tmp_path / str(number) / "history.csv").read_text() for number in range(2))
    assert first == second
    assert cards[0]["error_percent"] == cards[1]["error_percent"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ResNet163"}, r"depth.*163.*Nearest"),
        ({"model": "VGG16"}, r"model.*VGG16.*Nearest|model.*vgg16.*Nearest"),
        ({"data": "digit"}, r'data.*Nearest: "digits"'),
        ({"recipe": "digit"}, r'recipe.*Nearest: "digits"'),
        ({"recipe": 3}, r"recipe.*3"),
        ({"epoch": 3}, '`epoch` must be left out, as train has no such argument.*Nearest: "epochs"'),
        ({"outpt": "run"}, '`outpt`.*Nearest: "output"'),
        ({"epochs": 0}, "epochs.*at least 1"),
        ({"recipe": "paper_cifar", "epochs": 3}, "`epochs` must be left out.*64,000 steps.*Pass steps"),
        ({"strategy": "mirror"}, r'strategy.*Nearest: "mirrored"'),
        ({"checkpoint_steps": -1}, r"checkpoint_steps.*at least 0.*-1"),
        ({"recipe": QUICK.replace(global_batch_size=5000)}, r"global_batch_size.*at most the 1437"),
        ({"model_options": {"shortcut": "gated"}}, r"shortcut.*gated"),
    ],
)
def test_wrong_input_writes_nothing(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.train(**{"model": "ResNet11", **arguments}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path):
    recipe = QUICK.replace(learning_rate=1e30, schedule="constant")
    with pytest.raises(
        FloatingPointError, match=r"loss is .* at step \d+, learning rate 1e\+30.*There is no checkpoint"
    ):
        keras_preact.train("ResNet11", recipe=recipe, output=tmp_path / "run", verbose=0)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "card.json").exists()


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


def test_a_full_disk_ends_the_run_and_the_same_call_goes_on(tmp_path, monkeypatch):
    arguments = dict(recipe=QUICK.replace(epochs=2), output=tmp_path / "run", strategy="none", verbose=0)
    savez, calls = np.savez, []

    def full(*positional, **arrays):
        calls.append(None)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        savez(*positional, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left.*last good checkpoint is .*run/checkpoints/0000000"):
        keras_preact.train("ResNet11", **arguments)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000011"]
    assert not (tmp_path / "run" / "card.json").exists()
    keras_preact.train("ResNet11", **arguments)
    assert (tmp_path / "run" / "history.csv").read_text().count("\n") == 3


def test_a_card_says_on_what_device_and_of_which_commit_it_is(run):
    _, card = run
    folder = pathlib.Path(keras_preact.__file__).parents[1]
    done = subprocess.run(["git", "describe", "--always"], cwd=folder, capture_output=True, text=True)
    assert card["commit"] == (done.stdout.strip() if (folder / ".git").exists() else None)
    assert card["devices"]["name"] == provenance.device_name()
