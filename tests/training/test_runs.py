"""Runs of a few steps: what is refused, what ends them, and what two of one seed have in common."""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import from_arrays, load
from keras_preact.network.spec import ShortcutSpec, StemSpec
from keras_preact.training.callbacks import PLOTTING_SECONDS, RunFiles
from keras_preact.training.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("eager")

QUICK = RECIPES["digits"].replace(epochs=1, global_batch_size=32, warmup_steps=0)
ALONE = {"strategy": "none", "verbose": 0}
DIGITS = load("digits")
DATA = from_arrays(DIGITS.train.images[:96], DIGITS.train.labels[:96], DIGITS.test.images[:40], DIGITS.test.labels[:40])


def test_recipe_fields_are_keywords_and_options_may_be_specs_but_nothing_that_json_cannot_hold(tmp_path):
    options = {"shortcut": ShortcutSpec("constant_scaling", scale=0.3)}
    fields = {"global_batch_size": 24, "steps": 2, "learning_rate": 0.05}
    card = keras_preact.train("ResNet8", data=DATA, **fields, model_options=options, output=tmp_path / "run", **ALONE)
    assert {name: card["recipe"][name] for name in fields} == fields
    assert card["recipe"]["name"] == "custom"
    assert card["recipe"]["source"].startswith("digits with its own steps, global_batch_size, learning_rate; ")
    assert (card["options"]["shortcut"]["scale"], card["network"]["spec"]["shortcut"]["scale"]) == (0.3, 0.3)
    with pytest.raises(ValueError, match=r"`model_options` must be values that JSON can hold.*not JSON serializable"):
        keras_preact.train("ResNet8", recipe=QUICK, model_options={"units": object()}, output=tmp_path / "other")
    with pytest.raises(ValueError, match=r"`model_options` must be values that JSON can hold"):
        keras_preact.train("ResNet8", recipe=QUICK, model_options={"stem": StemSpec}, output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_options_that_are_usual_are_those_left_out(tmp_path, caplog):
    """The command line always passes them: the run is the same one."""
    caplog.set_level("INFO", "keras_preact")
    command = {
        "ordering": "preactivation",
        "shortcut": "identity",
        "layout": "stacked",
        "unroll": "auto",
        "remat": False,
    }
    card = keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=tmp_path / "run", **command, **ALONE)
    again = keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=tmp_path / "run", **ALONE)
    assert (again["error_percent"], "finished" in caplog.text) == (card["error_percent"], True)
    with pytest.raises(ValueError, match=r"options\.ordering is None there and 'original' here"):
        keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=tmp_path / "run", ordering="original", **ALONE)


def test_of_an_overwritten_run_nothing_is_left_and_a_data_dir_is_absolute(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=folder, **ALONE)
    (folder / "export").mkdir()
    (folder / "export" / "model.onnx").touch()
    (folder / "samples" / "cat.png").touch()
    (folder / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    other = QUICK.replace(seed=1)
    card = keras_preact.train(
        "ResNet8", data=DATA, data_dir="data", recipe=other, output=folder, overwrite=True, **ALONE
    )
    assert not (folder / "export").exists()
    assert not (folder / "samples" / "cat.png").exists()
    assert (folder / "mine.txt").exists()
    assert card["data_dir"] == str(tmp_path / "data")


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
    keras_preact.train("ResNet8", data=data, recipe=recipe, output=tmp_path, callbacks=[kept], **ALONE)
    assert keras.backend.standardize_dtype(kept.loss.dtype) == "float64"
    assert float(kept.loss) == pytest.approx(np.log(10), abs=1e-14)
    assert keras.config.floatx() == "float32"
    assert keras.models.load_model(tmp_path / "model.keras").loss.dtype == "float64"
    assert capsys.readouterr().out == ""  # verbose is 0
    assert (
        "An epoch is 3 whole batches of 32: the last 4 images of its order, others in each epoch, are left"
        in caplog.text
    )


def test_the_same_seed_trains_the_same(tmp_path):
    recipe = QUICK.replace(crop_padding=1, flip=True)
    cards = [
        keras_preact.train("ResNet8", data=DATA, recipe=recipe, output=tmp_path / str(number), **ALONE)
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
        ({"model_options": {"num_classes": 20}}, "`num_classes` must be left out, as train has no such argument"),
        ({"model_options": {"dtype": "float64"}}, "`dtype` must be left out"),
        ({"model_options": {"weights": "digits"}}, "`weights` must be left out"),
    ],
)
def test_wrong_input_writes_nothing(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.train(**{"model": "ResNet8", **arguments}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path):
    recipe = QUICK.replace(learning_rate=1e30, schedule="constant")
    with pytest.raises(
        FloatingPointError, match=r"loss is .* at step \d+, learning rate 1e\+30.*There is no checkpoint"
    ):
        keras_preact.train("ResNet8", data=DATA, recipe=recipe, output=tmp_path / "run", **ALONE)
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "card.json").exists()


def test_a_full_disk_ends_the_run_and_the_same_call_goes_on(tmp_path, monkeypatch):
    arguments = dict(data=DATA, recipe=QUICK.replace(epochs=2), output=tmp_path / "run", **ALONE)
    savez, calls = np.savez, []

    def full(*positional, **arrays):
        calls.append(None)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        savez(*positional, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match=r"No space left.*last good checkpoint is .*run/checkpoints/0000000"):
        keras_preact.train("ResNet8", **arguments)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000003"]
    assert not (tmp_path / "run" / "card.json").exists()
    keras_preact.train("ResNet8", **arguments)
    assert (tmp_path / "run" / "history.csv").read_text().count("\n") == 3


def test_curves_are_plotted_at_the_end_and_now_and_then_before(tmp_path, monkeypatch):
    plotted = []

    def plot(files):
        plotted.append(len(files.rows))
        files.is_plotted = True

    monkeypatch.setattr(RunFiles, "_plot", plot)
    files = RunFiles(tmp_path)
    for epoch in range(2):
        files.on_epoch_end(epoch, {"loss": 1.0})
    assert plotted == []
    files.plotted -= PLOTTING_SECONDS
    files.on_epoch_end(2, {"loss": 1.0})
    files.on_train_end()
    assert plotted == [3]
    files.plotted += PLOTTING_SECONDS
    files.on_epoch_end(3, {"loss": 1.0})
    files.on_train_end()
    assert plotted == [3, 4]
