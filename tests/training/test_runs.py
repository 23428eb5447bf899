"""Runs of a few steps: what is refused, what ends them, and what two of one seed have in common."""

import os
import signal
import weakref
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import exporting
from keras_preact.data import from_arrays, load
from keras_preact.errors import ParityError
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.network.spec import StemSpec
from keras_preact.training import run_folder, trainer
from keras_preact.training.callbacks import PLOTTING_SECONDS, RunFiles, curves
from keras_preact.training.recipes import RECIPES
from keras_preact.training.signals import EndingSignals

pytestmark = pytest.mark.usefixtures("eager")

QUICK = RECIPES["digits"].replace(epochs=1, global_batch_size=32, warmup_steps=0)
ALONE = {"strategy": "none", "verbose": 0}
DIGITS = load("digits")
DATA = from_arrays(DIGITS.train.images[:96], DIGITS.train.labels[:96], DIGITS.test.images[:40], DIGITS.test.labels[:40])
ONE_CLASS = from_arrays(DATA.train.images, np.zeros(96, int), DATA.test.images, np.zeros(40, int))
EARLY_DROPS = {"steps": 1000, "drops": (300, 600)}


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


@pytest.mark.parametrize("spelling", ["exclusive_gating", {"name": "exclusive_gating"}])
def test_a_shortcut_is_the_same_one_however_it_is_spelled(spelling):
    before, now = ({"options": {"shortcut": each}} for each in (spelling, ShortcutSpec("exclusive_gating").to_dict()))
    assert list(run_folder.differences(*run_folder.comparable(before, now))) == []
    assert list(run_folder.differences(*run_folder.comparable(before, {"options": {}})))


def test_a_folder_that_was_never_made_holds_no_run_to_overwrite(tmp_path):
    """As of a worker whose copy of a new URL is its own."""
    run_folder.remove_another(tmp_path / "copy" / "run", {"model": "resnet8"}, overwrite=True)
    assert not list((tmp_path / "copy" / "run" / run_folder.CHECKPOINTS).iterdir())


def test_a_damaged_card_in_the_output_is_named_so(tmp_path):
    for name in ("experiment.json", "card.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"`output` must be a folder whose card.json is whole"):
        run_folder.finished_card(tmp_path, overwrite=False)


def test_of_an_overwritten_run_nothing_is_left_and_a_data_dir_is_absolute(tmp_path, monkeypatch, registries):
    keras_preact.register_data("placed", lambda data_dir: DATA)
    folder = tmp_path / "run"
    keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=folder, **ALONE)
    (folder / "export").mkdir()
    (folder / "export" / "model.onnx").touch()
    (folder / "samples" / "cat.png").touch()
    (folder / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    other = QUICK.replace(seed=1)
    card = keras_preact.train(
        "ResNet8", data="placed", data_dir="data", recipe=other, output=folder, overwrite=True, **ALONE
    )
    assert not (folder / "export").exists()
    assert not (folder / "samples" / "cat.png").exists()
    assert (folder / "mine.txt").exists()
    assert card["data_dir"] == str(tmp_path / "data")
    given = keras_preact.load("placed", "data")  # as sweeps and tables load it once
    card = keras_preact.train("ResNet8", data=given, recipe=other, output=tmp_path / "given", **ALONE)
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


def test_another_seed_begins_with_other_weights(tmp_path):
    still = QUICK.replace(steps=1, learning_rate=0.0, weight_decay=0.0)
    kernels = []
    for seed in (0, 1):
        keras_preact.train("ResNet8", data=DATA, recipe=still.replace(seed=seed), output=tmp_path / str(seed), **ALONE)
        kernels.append(run_folder.load_model(tmp_path / str(seed)).get_layer("stem_conv").get_weights()[0])
    assert not np.array_equal(*kernels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ResNet163"}, r"depth.*163.*Nearest"),
        ({"model": SimpleNamespace(name="mine")}, "`model` must be the name.*SimpleNamespace.*into start="),
        ({"model": "resnet164.digits.digits"}, "`model` must be the name of a network.*into start="),
        ({"model": "VGG16"}, r"model.*VGG16.*Nearest|model.*vgg16.*Nearest"),
        ({"data": "digit"}, r'data.*Nearest: "digits"'),
        ({"recipe": "digit"}, r'recipe.*Nearest: "digits"'),
        ({"recipe": 3}, r"recipe.*3"),
        ({"precision": "bfloat16"}, r'precision.*Nearest: "mixed_bfloat16"'),
        ({"start": "nowhere", "data": "nowhere"}, "`start` must be a network of keras_preact, a name of"),
        ({"ordering": "orignal", "data": "nowhere"}, '`ordering` must be one of .*Nearest: "original"'),
        ({"model": "ResNet14", "units": (1, 2), "data": "nowhere"}, "`widths`|`units`"),
        ({"epoch": 3}, '`epoch` must be left out, as train has no such argument.*Nearest: "epochs"'),
        ({"outpt": "run"}, '`outpt`.*Nearest: "output"'),
        ({"epochs": 0}, "epochs.*at least 1"),
        ({"recipe": "paper_cifar", "epochs": 3}, "`epochs` must be left out.*64,000 steps.*Pass steps"),
        ({"epochs": 3, "steps": "100"}, r"`steps` must be a whole number.*'100'"),
        ({"strategy": "mirror"}, r'strategy.*Nearest: "mirrored"'),
        ({"checkpoint_steps": -1}, r"checkpoint_steps.*at least 0.*-1"),
        ({"recipe": QUICK.replace(global_batch_size=5000)}, r"global_batch_size.*at most the 1437"),
        ({"model_options": {"shortcut": "gated"}}, r"shortcut.*gated"),
        ({"layout": "layers", "remat": True}, "remat"),
        ({"model_options": {"num_classes": 20}}, "`num_classes` must be left out, as train has no such argument"),
        ({"model_options": {"dtype": "float64"}}, "`dtype` must be left out"),
        ({"model_options": {"weights": "digits"}}, "`weights` must be left out"),
        ({"recipe": "paper_cifar", **EARLY_DROPS, "warmup_steps": 400}, "`warmup_steps` must be below 300.*=400"),
        ({"recipe": "fair_cifar", "warmup_steps": 80 * 22}, "`warmup_steps` must be below 1,760.*=1760"),  # 22 steps
        ({"data": ONE_CLASS}, "`data` must be of two classes at least.*arrays, of 1"),
    ],
)
def test_wrong_input_writes_nothing(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.train(**{"model": "ResNet8", **arguments}, output=tmp_path / "runs" / "run")
    assert not list(tmp_path.iterdir())


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
    files.complete()
    assert plotted == [3]
    files.plotted += PLOTTING_SECONDS
    files.on_epoch_end(3, {"loss": 1.0})
    files.complete()
    assert plotted == [3, 4]


def test_curves_say_on_which_images_an_epoch_is_measured(tmp_path, monkeypatch):
    pictures = []
    monkeypatch.setattr(RunFiles, "_plot", lambda files: pictures.append(curves(files.rows, files.evaluated)))
    for count in (0, 32):
        recipe = QUICK.replace(steps=1, validation_images=count)
        keras_preact.train("ResNet8", data=DATA, recipe=recipe, output=tmp_path / str(count), **ALONE)
    labels = [[line.get_label() for axes in figure.axes for line in axes.lines] for figure in pictures]
    assert labels == [["training", "test"] * 2, ["training", "validation"] * 2]


def test_a_savedmodel_that_differs_costs_a_run_its_savedmodel_alone(tmp_path, monkeypatch, caplog):
    """There are two test images, and the folder has the SavedModel of another process."""
    compared = []

    def export(network, path, preprocessing, class_names, images):
        compared.append(images)
        raise ParityError("The SavedModel differs from resnet8.")

    monkeypatch.setattr(exporting, "can_export", lambda: True)
    monkeypatch.setattr(exporting, "export_savedmodel", export)
    (tmp_path / run_folder.SAVED_MODEL).mkdir()
    (tmp_path / run_folder.EXPERIMENT).write_text("{}")
    few = from_arrays(DATA.train.images, DATA.train.labels, DATA.test.images[:2], DATA.test.labels[:2])
    card = keras_preact.train("ResNet8", data=few, steps=1, output=tmp_path, overwrite=True, **ALONE)
    np.testing.assert_array_equal(compared, few.test.images[None])
    assert not (tmp_path / run_folder.SAVED_MODEL).exists()
    assert run_folder.read_card(tmp_path)["error_percent"] == card["error_percent"]
    assert "The run has no saved_model/: The SavedModel differs from resnet8." in caplog.text


def test_a_network_that_is_evaluated_stays_compiled_as_it_was():
    network = keras_preact.ResNet(8, input_shape=DATA.image_shape)
    optimizer, loss = keras.optimizers.SGD(0.25), keras.losses.SparseCategoricalCrossentropy()
    network.compile(optimizer, loss, metrics=["accuracy"])
    before = network.get_compile_config(), network.metrics
    assert keras_preact.evaluate(network, DATA).keys() == {"error_percent", "loss"}
    assert (network.optimizer, network.loss) == (optimizer, loss)
    assert (network.get_compile_config(), network.metrics) == before


def test_the_model_of_a_run_with_an_average_has_the_optimizer_of_its_recipe(tmp_path):
    recipe = QUICK.replace(steps=1, ema=0.5, learning_rate=0.05, schedule="constant")
    options = {"bn_momentum": 0.1}  # whose statistics are measured anew in two steps
    keras_preact.train("ResNet8", data=DATA, recipe=recipe, model_options=options, output=tmp_path, **ALONE)
    model = keras.models.load_model(tmp_path / run_folder.MODEL)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    before = model.get_weights()
    model.fit(DATA.normalized(DATA.train.images[:8]), DATA.train.labels[:8], verbose=0)
    assert all(not np.array_equal(*pair) for pair in zip(before, model.get_weights()) if pair[0].ndim == 4)


def test_nothing_of_a_run_that_a_signal_ends_outlives_it():
    """An iterator of TensorFlow that goes with the interpreter waits for it for ever."""

    class Iterator:
        pass

    def fit():
        iterator = Iterator()
        seen.append(weakref.ref(iterator))
        os.kill(os.getpid(), signal.SIGTERM)

    seen = []
    with pytest.raises(SystemExit) as stop, EndingSignals("It ends."):
        fit()
    assert stop.tb is not None
    assert seen[0]() is None


def test_a_run_returns_the_same_when_it_has_finished_and_takes_none_for_no_callbacks(tmp_path):
    run = dict(recipe="digits", steps=2, global_batch_size=32, output=tmp_path / "run", verbose=0, callbacks=None)
    first = keras_preact.train("ResNet8", **run)
    assert keras_preact.train("ResNet8", **run) == first
    digits = keras_preact.load("digits")
    images = keras_preact.preprocess_input(digits.test.images[:2], first)
    np.testing.assert_allclose(images, digits.normalized(digits.test.images[:2]), rtol=1e-6)
    ((name, _),) = keras_preact.decode_predictions(np.eye(10)[3:4], first, top=1)[0]
    assert name == "3"
    with pytest.raises(ValueError, match=r"`card` must be a Card, a model that has one, or what `train` returned"):
        keras_preact.preprocess_input(images, {"model": "resnet8"})


def test_a_run_that_another_process_ends_meanwhile_is_not_made_again(tmp_path, monkeypatch):
    run, make_devices, cards = dict(data=DATA, recipe=QUICK, output=tmp_path / "run", **ALONE), trainer.make_devices, []

    def late(strategy):
        monkeypatch.undo()
        cards.append(keras_preact.train("ResNet8", **run))
        return make_devices(strategy)

    monkeypatch.setattr(trainer, "make_devices", late)
    assert keras_preact.train("ResNet8", **run) == cards[0]
    assert len(cards[0]["processes"]) == 1


def test_no_folder_is_emptied_that_was_no_run(tmp_path):
    for name in ("history.csv", "card.json"):  # of another's training, of an export
        folder = tmp_path / name.partition(".")[0]
        (folder / "checkpoints").mkdir(parents=True)
        (folder / name).write_text('{"model": "resnet8", "recipe": {}}')
        with pytest.raises(ValueError, match=r"`output` must be a new or empty folder, or a run's folder.*'\.$"):
            keras_preact.train("ResNet8", data=DATA, recipe=QUICK, output=folder, overwrite=True, **ALONE)
        assert sorted(path.name for path in folder.iterdir()) == sorted(["checkpoints", name])


def test_a_checkpoint_that_cannot_be_removed_is_not_resumed_as_anothers(tmp_path, monkeypatch):
    def refused(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(run_folder.shutil, "rmtree", refused)
    with pytest.raises(PermissionError):
        run_folder.remove_checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": (each for each in ())}, "`callbacks` must be a list.*generator"),
        ({"callbacks": 3}, "`callbacks` must be a list.*int"),
        ({"overwrite": "false"}, "`overwrite` must be True or False"),
        ({"skip_corrupt": 1}, "`skip_corrupt` must be True or False"),
        ({"verbose": "off"}, "`verbose` must be"),
        ({"strategy": "mirored"}, 'Nearest: "mirrored"'),
        ({"checkpoint_steps": -1}, "`checkpoint_steps` must be"),
        ({"model_options": ["stacked"]}, "`model_options` must be a dict. Received: model_options='list'"),
        ({"model_options": {"bn_synchronized": True}}, "It is a field of the recipe"),
        ({"callbacks": [keras.callbacks.EarlyStopping()]}, "`callbacks` must be none that decides by the test images"),
        (
            {"callbacks": [keras.callbacks.BackupAndRestore("backup")]},
            "`callbacks` must be none that resumes a training",
        ),
        ({"callbacks": [keras.callbacks.SwapEMAWeights()]}, "`callbacks` must be without swap_on_epoch"),
        (
            {"callbacks": [keras.callbacks.SwapEMAWeights(True)], "ema": 0.9},
            "`callbacks` must be without swap_on_epoch",
        ),
        ({"recipe": "paper_cifar", "schedule": "cosine"}, r"`drops` must be \(\) with schedule=\"cosine\".*--drops"),
        ({"seed": 2**32 - 2, "levels": ((8, 0, 1), (14, 0, 1)), "epochs": 2}, "`seed` must be at most 4,294,967,293"),
    ],
)
def test_what_is_wrong_is_refused_before_data_are_looked_for(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.train("ResNet8", data="cifar10", data_dir="/nowhere", output=tmp_path / "run", **options)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (((9, 0, 1), (14, 0, 1)), "`levels` must be of depths"),
        (((8, 64, 1), (14, 0, 1)), r"`levels \(image size\)` must"),
    ],
)
def test_wrong_levels_are_called_so(levels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.train("ResNet14", data=DATA, levels=levels, epochs=2, output=tmp_path / "run", **ALONE)


def test_drops_after_the_end_are_said_and_keras_callbacks_know_that_an_error_is_to_fall(tmp_path, caplog):
    recipe = QUICK.replace(schedule="steps", drops=(500,), warmup_steps=0, nesterov=False)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "val_error_percent", save_best_only=True)
    keras_preact.train("ResNet8", data=DATA, recipe=recipe, output=tmp_path / "run", callbacks=[best], **ALONE)
    assert "The learning rate does not fall at 500 of `drops`: the training ends before." in caplog.text
    assert best.monitor_op(1.0, 2.0)
