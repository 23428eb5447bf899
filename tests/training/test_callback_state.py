"""What a resumed run gives back to callbacks, and that nothing that is not finite ends in a card."""

import contextlib
import csv
import dataclasses
import math
import threading

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import files
from keras_preact.data import from_arrays
from keras_preact.data.dataset import ArraySplit
from keras_preact.training import checkpoints, finish, run_folder
from keras_preact.training.callback_state import Saved
from keras_preact.training.callbacks import RunFiles, StopOnNonFiniteLoss

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(48, 8, 8, 1), dtype=np.uint8), np.arange(48) % 3
DATA = from_arrays(IMAGES, LABELS, IMAGES[:9], LABELS[:9])
RECIPE = keras_preact.Recipe(epochs=4, global_batch_size=16, learning_rate=0.01)

pytestmark = pytest.mark.usefixtures("eager")


def train(output, recipe=RECIPE, **arguments):
    return keras_preact.train(
        "ResNet8", data=DATA, recipe=recipe, output=output, strategy="none", verbose=0, **arguments
    )


class Kill(BaseException):
    """Stands for SIGKILL at some place."""


class Calls(keras.callbacks.Callback):
    """Keeps what it is told of a training, in which it overrides a hook that stands for another, too."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append(f"begin of {self.params['epochs']}")

    def on_batch_end(self, batch, logs=None):
        self.calls.append("batch")

    def on_train_end(self, logs=None):
        self.calls.append(f"end at {logs['loss']:.3f}")


class KillAfter(keras.callbacks.Callback):
    """Kills at the start of an epoch, from 0; never if None."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Kill


class Losses(keras.callbacks.Callback):
    """A callback of one's own, with a state of its own."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(logs["loss"])

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = list(state["losses"])


def best_weights(patience=2):
    return keras.callbacks.EarlyStopping("loss", mode="max", patience=patience, restore_best_weights=True)


def test_callbacks_of_ones_own_and_the_best_weights_are_resumed(tmp_path):
    """The best epoch lies before the kill: without its weights the resumed run would end with others."""
    losses = {}
    for name, kill in (("whole", None), ("killed", 2)):
        with pytest.raises(Kill) if kill else contextlib.nullcontext():
            train(tmp_path / name, callbacks=[best_weights(), Losses(), KillAfter(kill)])
    losses = Losses()
    train(tmp_path / "killed", callbacks=[losses, KillAfter(None), best_weights()])  # in another order
    history = (tmp_path / "whole" / run_folder.HISTORY).read_text()
    assert (tmp_path / "killed" / run_folder.HISTORY).read_text() == history
    assert len(losses.losses) == len(history.splitlines()) - 1 >= 3
    ours, theirs = (run_folder.load_model(tmp_path / name).get_weights() for name in ("killed", "whole"))
    assert all(map(np.array_equal, ours, theirs))


def test_two_callbacks_of_a_class_have_a_state_each():
    two = [keras.callbacks.EarlyStopping(), keras.callbacks.EarlyStopping()]
    Saved(["EarlyStopping"] * 2, [{"wait": 1}, {"wait": 5}], {}).restore(two)
    assert [callback.wait for callback in two] == [1, 5]


def test_a_callback_that_saves_every_so_many_steps_counts_on():
    before, after = (keras.callbacks.ModelCheckpoint("model.keras", save_freq=10) for _ in range(2))
    for step in range(14):
        before._should_save_on_batch(step)
    Saved.from_callbacks([before]).restore([after])
    assert [after._should_save_on_batch(step) for step in range(7)] == [False] * 5 + [True, False]


def kill(*_):
    raise Kill


def test_best_weights_are_set_once_at_the_end_of_a_training_of_several_fits(tmp_path, monkeypatch):
    """The last epoch is short, so it takes a `fit` of its own; a run may be killed in it, or before its card."""
    recipe = RECIPE.replace(steps=7)
    train(tmp_path / "plain", recipe)
    train(tmp_path / "whole", recipe, callbacks=[best_weights(9), calls := Calls()])
    histories = [(tmp_path / name / run_folder.HISTORY).read_text() for name in ("plain", "whole")]
    assert histories[0] == histories[1]
    end = f"end at {float(list(csv.DictReader(histories[0].splitlines()))[-1]['loss']):.3f}"
    assert (calls.calls[1:-1], calls.calls[-1]) == (["batch"] * 7, end)

    plain, whole = (run_folder.load_model(tmp_path / name).get_weights() for name in ("plain", "whole"))
    assert not all(map(np.array_equal, plain, whole))
    with pytest.raises(Kill):
        train(tmp_path / "killed", recipe, callbacks=[best_weights(9), KillAfter(2)])
    monkeypatch.setattr(finish, "save", kill)
    with pytest.raises(Kill):
        train(tmp_path / "killed", recipe, callbacks=[best_weights(9)])
    monkeypatch.undo()
    train(tmp_path / "killed", recipe, callbacks=[best_weights(9), calls := Calls()])
    assert calls.calls == ["begin of 3", end]
    assert all(map(np.array_equal, run_folder.load_model(tmp_path / "killed").get_weights(), whole))


@pytest.mark.parametrize(
    "callback", [keras.callbacks.ReduceLROnPlateau("loss"), keras.callbacks.LearningRateScheduler(float)]
)
def test_a_rate_has_one_master(callback, tmp_path):
    train(tmp_path / "run", RECIPE.replace(epochs=1, schedule="constant"), callbacks=[callback])
    for changes in ({"schedule": "constant", "warmup_steps": 1}, {"schedule": "cosine"}):
        with pytest.raises(ValueError, match=r"`callbacks` must be none that sets the rate, which the recipe's"):
            train(tmp_path / "other", RECIPE.replace(**changes), callbacks=[callback])
    with pytest.raises(ValueError, match="`callbacks` must be a list of"):
        train(tmp_path / "other", callbacks=callback)
    assert not (tmp_path / "other").exists()


def test_keras_callback_for_checkpoints_writes_the_network(tmp_path):
    whole, weights = tmp_path / "whole.keras", tmp_path / "kept.weights.h5"
    kept = keras.callbacks.ModelCheckpoint
    callbacks = [kept(whole), kept(weights, save_weights_only=True)]
    train(tmp_path / "run", RECIPE.replace(epochs=1), callbacks=callbacks)
    again = keras_preact.ResNet(8, input_shape=(8, 8, 1), num_classes=3)
    again.load_weights(weights)
    for network in (keras.models.load_model(whole), again):
        x = IMAGES.astype("float32") / 128 - 1
        np.testing.assert_allclose(network(x), run_folder.load_model(tmp_path / "run")(x), atol=1e-6)


def test_a_checkpoint_of_before_gives_counters_in_the_order_of_the_callbacks():
    state = {"counters": [{"wait": 2, "best": 0.5}, {}], "history": []}
    callbacks = [keras.callbacks.ReduceLROnPlateau(), Losses()]
    Saved.of(checkpoints.Checkpoint(3, {}, state), callbacks).restore(callbacks[:1])
    assert (callbacks[0].wait, callbacks[0].best) == (2, 0.5)


class Words(keras.callbacks.Callback):
    best = "the first epoch"  # no counter, though called as one


def test_a_state_is_a_copy_and_words_are_no_counters():
    losses = Losses()
    saved = Saved.from_callbacks([losses, Words()])
    losses.losses.append(0.5)
    assert saved.plain() == [{"class": "Losses", "state": {"losses": []}}, {"class": "Words", "state": {}}]


class Half(keras.callbacks.Callback):
    def state_dict(self):
        return {}


class NoJson(Half):
    def state_dict(self):
        return {"set": {1, 2}}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (print, "keras.callbacks.Callback objects"),
        (Half(), "both state_dict and load_state_dict"),
        (NoJson(), "a state that JSON can hold.*NoJson"),
    ],
)
def test_a_callback_that_cannot_be_resumed_is_refused_before_anything_is_written(callback, message, tmp_path):
    with pytest.raises(ValueError, match=f"`callbacks` must be.*{message}"):
        train(tmp_path / "run", callbacks=[callback])
    assert not list(tmp_path.iterdir())


class KillIn(keras.callbacks.Callback):
    """Kills at the start of the `number`-th validation, from 1."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def on_test_begin(self, logs=None):
        self.left -= 1
        if not self.left:
            raise Kill


def test_a_kill_in_the_validation_of_a_short_last_epoch_loses_none_of_it(tmp_path):
    recipe = RECIPE.replace(steps=4)  # of three in an epoch
    train(tmp_path / "whole", recipe)
    with pytest.raises(Kill):
        train(tmp_path / "killed", recipe, callbacks=[KillIn(2)], checkpoint_steps=4)
    train(tmp_path / "killed", recipe, checkpoint_steps=4)
    whole, killed = ((tmp_path / name / run_folder.HISTORY).read_text() for name in ("whole", "killed"))
    assert len(whole.splitlines()) == 3
    assert killed == whole


@pytest.mark.filterwarnings("ignore:The checkpoint .* is damaged")
def test_a_run_whose_checkpoints_are_damaged_begins_anew_where_it_may(tmp_path):
    with pytest.raises(Kill):
        train(tmp_path / "run", callbacks=[KillAfter(2)])
    for file in (tmp_path / "run" / run_folder.CHECKPOINTS).glob("*/arrays.npz"):
        file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="Pass --overwrite"):
        train(tmp_path / "run")
    train(tmp_path / "run", overwrite=True)
    train(tmp_path / "whole")
    again, whole = ((tmp_path / name / run_folder.HISTORY).read_text() for name in ("run", "whole"))
    assert again == whole


def test_what_a_stop_left_out_is_written_at_the_next_start(tmp_path, monkeypatch):
    rows = [{"epoch": 1, "loss": 0.5, "error_percent": 20.0}]
    monkeypatch.setattr(RunFiles, "_plot", lambda files: (files.folder / "curves.png").touch())
    RunFiles(tmp_path, rows).complete()
    assert (tmp_path / run_folder.HISTORY).read_text() == "epoch,loss,error_percent\n1,0.5,20.0\n"
    assert (tmp_path / "curves.png").exists()


def test_an_image_that_cannot_be_read_in_training_is_said_as_it_was(tmp_path):
    class Broken(ArraySplit):
        def read(self, *arguments, **options):
            raise ValueError("photos/cat.png cannot be read.")

    data = dataclasses.replace(DATA, train=Broken(IMAGES, LABELS))
    with pytest.raises(ValueError, match=r"^photos/cat\.png cannot be read\.$"):
        keras_preact.train("ResNet8", data=data, recipe=RECIPE, output=tmp_path / "run", strategy="none", verbose=0)


def test_best_weights_are_refused_beside_an_average_of_them(tmp_path):
    with pytest.raises(ValueError, match="`callbacks` must be without restore_best_weights in a training with ema"):
        train(tmp_path / "run", RECIPE.replace(ema=0.9), callbacks=[best_weights()])


def test_a_card_of_a_path_that_is_no_utf_8_is_written(tmp_path):
    run_folder.write_card(tmp_path, {"model": "resnet8", "data": "caf\udce9"})
    assert "caf\\udce9" in (tmp_path / "card.md").read_text(encoding="utf-8")


def test_best_weights_are_refused_where_the_network_grows(tmp_path):
    recipe = RECIPE.replace(levels=((8, 0, 2), (14, 0, 2)))
    with pytest.raises(ValueError, match="`callbacks` must be without restore_best_weights in a training of levels"):
        keras_preact.train("ResNet14", data=DATA, recipe=recipe, output=tmp_path / "run", callbacks=[best_weights()])


class StopAtOnce(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_a_training_that_is_ended_before_the_network_has_grown_has_no_card(tmp_path):
    recipe = RECIPE.replace(levels=((8, 0, 2), (14, 0, 2)))
    for callback, error, message in (
        (keras.callbacks.EarlyStopping("loss"), ValueError, "without EarlyStopping in a training of levels"),
        (StopAtOnce(), RuntimeError, "ended the training at 8 layers, before the level of 14"),
    ):
        with pytest.raises(error, match=message):
            keras_preact.train(
                "ResNet14", data=DATA, recipe=recipe, output=tmp_path / "run", callbacks=[callback], strategy="none"
            )
        assert (tmp_path / "run").exists() == (error is RuntimeError)
    assert not (tmp_path / "run" / run_folder.CARD).exists()
    again = dict(data=DATA, recipe=recipe, output=tmp_path / "run", strategy="none", verbose=0)
    with pytest.raises(ValueError, match="`output` must be a run that reached its last level"):
        keras_preact.train("ResNet14", **again)
    assert keras_preact.train("ResNet14", overwrite=True, **again)["network"]["spec"]["units"] == [2, 2, 2]


# Not finite


@pytest.mark.parametrize("name", ["loss", "val_loss"])
def test_a_loss_that_is_not_finite_ends_the_training(name):
    logs = {"loss": 1.0, "val_loss": 1.0, name: math.nan}
    with pytest.raises(FloatingPointError, match=f"The {'validation ' * (name == 'val_loss')}loss is nan at step 7"):
        StopOnNonFiniteLoss(0.1, step=7).on_epoch_end(0, logs)


class Spoil(keras.callbacks.Callback):
    def on_train_end(self, logs=None):  # after the last checkpoint
        bias = self.model.network.get_layer("predictions").bias
        bias.assign(bias + np.inf)


def test_weights_that_are_not_finite_at_the_end_have_no_card(tmp_path):
    recipe = RECIPE.replace(epochs=1)
    with pytest.raises(
        FloatingPointError, match=r"predictions/bias holds values that are not finite.*last good checkpoint"
    ):
        train(tmp_path / "run", recipe, callbacks=[Spoil()])
    assert not (tmp_path / "run" / run_folder.CARD).exists()
    assert not (tmp_path / "run" / run_folder.MODEL).exists()
    assert math.isfinite(train(tmp_path / "run", recipe)["error_percent"])


def test_a_test_loss_that_is_not_finite_has_no_card(tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "measure", lambda *_: {"loss": math.nan, "error_percent": 12.5})
    with pytest.raises(FloatingPointError, match="The loss on the test images is nan"):
        train(tmp_path / "run", RECIPE.replace(epochs=1))
    assert not (tmp_path / "run" / run_folder.CARD).exists()


# Checkpoints from elsewhere


def claim(path, change):
    """Writes a checkpoint's arrays again with a claim that is too large, and its checksums."""
    folder = next(iter(sorted(path.glob("[0-9]*"))))
    change(folder / checkpoints.ARRAYS)
    names = (checkpoints.ARRAYS, checkpoints.STATE, checkpoints.PROCESSES)
    sums = "".join(f"{files.sha256(folder / name)}  {name}\n" for name in names)
    (folder / checkpoints.SUMS).write_text(sums)
    return folder


def zeros_zipped(path):
    np.savez_compressed(path, weights=np.zeros(3_000_000))


def shape_of_terabytes(path):
    content = path.read_bytes()
    before = b"'shape': (50000,), }" + b" " * 20
    assert before in content
    path.write_bytes(content.replace(before, b"'shape': (9999999999999,), }".ljust(len(before))))


@pytest.mark.parametrize(
    ("change", "message"), [(zeros_zipped, "is said to unpack to 24,000"), (shape_of_terabytes, "is said to hold")]
)
def test_what_a_checkpoint_claims_is_held_to_its_bytes_before_it_is_unpacked(change, message, tmp_path, monkeypatch):
    arrays = {"weights": np.arange(50_000.0)}
    checkpoints.save(tmp_path, checkpoints.Checkpoint(3, arrays, {}))
    folder = claim(tmp_path, change)
    monkeypatch.setattr(np, "load", None)
    with pytest.warns(UserWarning, match=message), pytest.raises(ValueError, match="one checkpoint at least is whole"):
        checkpoints.newest(tmp_path)
    monkeypatch.undo()
    checkpoints.save(tmp_path, checkpoints.Checkpoint(4, arrays, {}))
    assert (checkpoints.newest(tmp_path).step, folder.name) == (4, "000000003")


class KeepsAFrame(keras.callbacks.Callback):
    """Leaves an exception in a cycle, as matplotlib's parser of labels does: its frame holds those of `fit`."""

    def on_epoch_end(self, epoch, logs=None):
        try:
            raise LookupError
        except LookupError as error:
            kept = error  # in a frame that the exception holds
            assert kept.__traceback__.tb_frame.f_back


def test_a_run_leaves_no_iterator_to_the_end_of_the_process(tmp_path):
    """There it would wait for the interpreter, up to a minute and more."""
    before = set(threading.enumerate())
    train(tmp_path, RECIPE.replace(epochs=1), callbacks=[KeepsAFrame()])
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in left if name.startswith("ThreadPoolExecutor")]  # which reads the batches
