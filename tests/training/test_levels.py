"""Trainings in levels, and trainings that begin with trained weights."""

import contextlib
import re

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import from_arrays
from keras_preact.data.preparation import Preparation
from keras_preact.training import checkpoints, evaluation
from keras_preact.training.levels import Level, level_at, levels_of
from keras_preact.training.recipe import Recipe

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(45, 16, 16, 3)).astype("uint8"), np.arange(45) % 3
DATA = from_arrays(IMAGES[:24], LABELS[:24], IMAGES[24:], LABELS[24:])
RECIPE = Recipe(
    source="a test's",
    epochs=3,
    levels=((8, 8, 1), (14, 12, 1), (14, 0, 1)),
    global_batch_size=8,
    learning_rate=0.01,
    crop_padding=2,
    flip=True,
    ema=0.9,
)

pytestmark = pytest.mark.usefixtures("eager")


class Stop(Exception):
    """Ends a run as a kill would, but not the process."""


class StopAfter(keras.callbacks.Callback):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Stop


class Seen(keras.callbacks.Callback):
    """Keeps the depth of the network, and the side of the images, of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((self.model.network.spec.depth, self.model.preparation.size))


def train(output, **arguments):
    options = dict(data=DATA, recipe=RECIPE, output=output, verbose=0, strategy="none", checkpoint_steps=1)
    return keras_preact.train(**{"model": "ResNet14", **options, **arguments})


@pytest.fixture(scope="module", autouse=True)
def _few_steps_for_the_statistics():
    """Measures the statistics that belong to the average of the weights in 7 steps, not in 44."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "OLD_STATISTICS", 0.5)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, eager, _few_steps_for_the_statistics):
    folder = tmp_path_factory.mktemp("levels") / "whole"
    return folder, train(folder)


def test_levels_end_where_their_epochs_do():
    levels = levels_of(RECIPE, steps_per_epoch=10)
    assert levels == [Level(8, 8, 10), Level(14, 12, 20), Level(14, 0, 30)]
    assert [level_at(levels, step) for step in (0, 1, 10, 11, 20, 21, 30)] == [0, 0, 0, 1, 1, 2, 2]
    assert levels_of(Recipe(epochs=2, image_size=12), 5) == [Level(None, 12, 10)]


def test_a_training_in_levels_ends_with_the_whole_network(whole):
    folder, card = whole
    assert card["network"]["spec"]["units"] == [2, 2, 2]
    assert card["network"]["name"] == "resnet14"
    assert tuple(card["network"]["input_shape"]) == (16, 16, 3)
    assert keras_preact.evaluate(folder, DATA)["error_percent"] == card["error_percent"]
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 3
    assert card["recipe"]["levels"] == [list(level) for level in RECIPE.levels]


def test_a_resume_is_the_same_to_the_bit_in_every_level(whole, tmp_path, capsys):
    shown = []
    for steps in (2, 4, None):  # of 9: within a level, then at the end of one
        with pytest.raises(Stop) if steps else contextlib.nullcontext():
            train(tmp_path / "cut", verbose=2, callbacks=[StopAfter(steps)] if steps else [])
        shown.append(re.findall("Epoch .*", capsys.readouterr().out))
    assert shown == [["Epoch 1/3"], ["Epoch 1/3", "Epoch 2/3"], ["Epoch 2/3", "Epoch 3/3"]]
    ours, theirs = (checkpoints.newest(folder / "checkpoints") for folder in (tmp_path / "cut", whole[0]))
    assert ours.step == theirs.step == 9
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)
    assert ours.state == theirs.state


def test_a_resume_after_two_deepenings_draws_the_same_new_units(tmp_path):
    grow = RECIPE.replace(levels=tuple((depth, 8, 1) for depth in (8, 14, 20, 26)), epochs=4, ema=0.0)
    train(tmp_path / "whole", model="ResNet26", recipe=grow)
    with pytest.raises(Stop):
        train(tmp_path / "cut", model="ResNet26", recipe=grow, callbacks=[StopAfter(8)])  # of 12: in the third level
    train(tmp_path / "cut", model="ResNet26", recipe=grow)
    ours, theirs = (checkpoints.newest(tmp_path / name / "checkpoints").arrays for name in ("cut", "whole"))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_the_model_is_the_average_of_the_weights_with_statistics_of_its_own(whole):
    end = checkpoints.newest(whole[0] / "checkpoints").arrays
    model = keras.models.load_model(whole[0] / "model.keras")
    raw = {variable.path: end[f"network/{number:05d}"] for number, variable in enumerate(model.variables)}
    kernel, mean = model.get_layer("stem_conv").kernel, model.get_layer("stem_bn").moving_mean
    assert not np.array_equal(kernel, raw[kernel.path])
    assert any(np.array_equal(kernel, array) for name, array in end.items() if name.startswith("optimizer/"))
    assert not np.array_equal(mean, raw[mean.path])


def test_levels_in_float16_keep_the_scale_of_the_loss_and_resume(tmp_path):
    half = RECIPE.replace(levels=((8, 8, 1), (14, 8, 1), (20, 0, 1)), ema=0.0, precision="mixed_float16")
    train(tmp_path / "whole", model="ResNet20", recipe=half)
    with pytest.raises(Stop):
        train(tmp_path / "cut", model="ResNet20", recipe=half, callbacks=[StopAfter(5)])
    train(tmp_path / "cut", model="ResNet20", recipe=half)
    ours, theirs = (checkpoints.newest(tmp_path / name / "checkpoints").arrays for name in ("cut", "whole"))
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)
    loaded = keras.models.load_model(tmp_path / "whole" / "model.keras")
    assert int(loaded.optimizer.iterations) == 9


@pytest.mark.filterwarnings("ignore:The checkpoint .* is damaged")
def test_a_run_that_cannot_go_on_begins_anew_as_in_a_new_folder(whole, tmp_path):
    with pytest.raises(Stop):
        train(tmp_path / "anew", callbacks=[StopAfter(5)])
    for path in (tmp_path / "anew" / "checkpoints").rglob("*.npz"):
        path.write_bytes(b"damaged")
    train(tmp_path / "anew", overwrite=True, callbacks=[seen := Seen()])
    assert seen.seen == [(8, 8), (14, 12), (14, 0)]
    assert (tmp_path / "anew" / "history.csv").read_text() == (whole[0] / "history.csv").read_text()


def test_a_training_begins_with_weights_which_are_deepened_and_adds_up_what_they_took(whole, tmp_path):
    folder, first = whole
    still = Recipe(epochs=1, global_batch_size=8, learning_rate=0.0, weight_decay=0.0, source="a test's")
    card = train(tmp_path / "deeper", model="ResNet20", recipe=still, start=folder)
    assert card["start"]["weights"] == str(folder.resolve())
    assert [link["weights"] for link in card["chain"]] == [str(folder.resolve())]
    assert card["chain"][0]["digest"] == card["start"]["digest"]
    for name in ("seconds", "cpu_seconds"):
        assert card[f"total_{name}"] == pytest.approx(card[name] + first[name], abs=0.11)
    before, after = (keras.models.load_model(path / "model.keras") for path in (folder, tmp_path / "deeper"))
    kernels = [network.get_layer("predictions").kernel.numpy() for network in (before, after)]
    np.testing.assert_array_equal(*kernels)
    again = train(tmp_path / "again", model="ResNet20", recipe=still, start=tmp_path / "deeper")
    assert [link["weights"] for link in again["chain"]] == [card["start"]["weights"], again["start"]["weights"]]
    total = sum(run["cpu_seconds"] for run in (first, card, again))
    assert again["total_cpu_seconds"] == pytest.approx(total, abs=0.31)


def test_what_cannot_be_deepened_can_begin_with_its_own_weights(tmp_path):
    network = keras_preact.ResNet(8, input_shape=(16, 16, 3), num_classes=3, shortcut="exclusive_gating")
    still = Recipe(epochs=1, global_batch_size=8, learning_rate=0.0, weight_decay=0.0, source="a test's")
    options = {"shortcut": "exclusive_gating"}
    train(tmp_path / "run", model="ResNet8", recipe=still, start=network, model_options=options)
    trained = keras.models.load_model(tmp_path / "run" / "model.keras")
    np.testing.assert_array_equal(
        trained.get_layer("stem_conv").get_weights(), network.get_layer("stem_conv").get_weights()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_classes": 3, "shortcut": {"name": "constant_scaling", "scale": 0.9, "branch_scale": 1.0}},
            "differ in shortcut",
        ),
        ({"num_classes": 4}, "num_classes: start 4, network 3. For other classes or images, see finetune"),
    ],
)
def test_weights_of_another_network_are_no_start(options, message, tmp_path):
    network = keras_preact.ResNet(8, input_shape=(16, 16, 3), **options)
    still = Recipe(epochs=1, global_batch_size=8)
    with pytest.raises(ValueError, match=f"`start` must be weights of this network.*{message}"):
        train(tmp_path / "run", model="ResNet8", recipe=still, start=network)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": RECIPE.replace(levels=((8, 8, 3),))}, r"levels.*end with the network's depth, 14"),
        ({"recipe": RECIPE.replace(levels=((9, 8, 1), (14, 0, 2)))}, r"depth.*6n \+ 2.*9"),
        ({"model_options": {"units": (1, 2, 3)}}, r"levels.*of one depth for a network of units=\(1, 2, 3\)"),
        ({"recipe": RECIPE.replace(levels=((8, 17, 1), (14, 0, 2)))}, r"levels \(image size\).*at most 16"),
        ({"recipe": Recipe(epochs=1, image_size=17, global_batch_size=8)}, r"image_size.*at most 16"),
        ({"model_options": {"ordering": "bn_after_addition"}}, r"ordering.*BN follows the addition"),
        ({"start": "digits"}, r"weights.*Nearest: resnet164\.digits\.digits"),
        ({"start": "resnet164.digits.digits"}, r"start.*at most \(1, 1, 1\) units deep.*not made shallower"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": ((8, 8),)}, r"levels.*\(depth, image size, epochs\)"),
        ({"levels": ((14, 8, 1), (8, 0, 2))}, "levels.*growing depth"),
        ({"levels": ((8, 8, 0),)}, r"levels \(epochs\).*at least 1"),
        ({"levels": ((8, 8, 1),), "epochs": 2}, "epochs.*1, the sum"),
        ({"levels": ((8, 8, 1),), "epochs": 1, "steps": 5}, "steps.*0 with `levels`"),
        ({"levels": ((8, 8, 1),), "epochs": 1, "image_size": 8}, "image_size.*0 with `levels`"),
        (
            {"levels": ((8, 8, 1),), "epochs": 1, "early_stopping": 1, "validation_images": 5},
            "early_stopping.*0 with `levels`.*shallower network",
        ),
    ],
)
def test_wrong_levels_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_training_images_are_resized_on_the_device_and_others_are_not():
    preparation = Preparation(DATA, image_size=8)
    images = np.full((2, 16, 16, 3), 100, "uint8")
    images[1, :, 8:] = 200
    inputs = {"images": images}
    small, _ = preparation(inputs, None, training=True)
    assert small.shape == (2, 8, 8, 3)
    own, _ = preparation(inputs, None)
    assert own.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(small[0], own[0, :8, :8], rtol=1e-5)
    np.testing.assert_allclose(small[1, 0, :3], own[1, 0, :3], rtol=1e-5)
    np.testing.assert_allclose(small[1, 0, 5:], own[1, 0, 13:], rtol=1e-5)
    assert Preparation(DATA, image_size=16).size == 0
