"""Runs that are killed: what goes on is, to the bit, what would have been."""

import random
import signal
import time

import numpy as np
import pytest
from processes import Process

import keras_preact
from keras_preact.data import from_arrays, load
from keras_preact.training import checkpoints
from keras_preact.training.recipe import Recipe

STEPS = 11  # in an epoch: 132 images, and 50 held out
DIGITS = load("digits")
DATA = from_arrays(DIGITS.train.images[:182], DIGITS.train.labels[:182], DIGITS.test.images, DIGITS.test.labels)
RECIPE = Recipe(
    epochs=5,
    global_batch_size=12,
    validation_images=50,
    schedule="plateau",
    patience=1,
    early_stopping=9,
    warmup_steps=0,
    crop_padding=2,
    flip=True,
    ema=0.9,
)


def train(folder):
    """Trains with draws, of dropout too, a falling and then an interrupted learning rate, counters of two callbacks."""
    options = {"model_options": {"shortcut": "dropout"}, "checkpoint_steps": 4, "verbose": 2}
    keras_preact.train("ResNet8", data=DATA, recipe=RECIPE, output=folder, **options)


def start(folder, log):
    return Process(train, folder, log=log)


def last(folder):
    return max((path.name for path in (folder / "checkpoints").glob("[0-9]*")), default="")


def wait_for_another_checkpoint(folder, process):
    before = last(folder)
    while last(folder) == before:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)


def killed(folder, log, how, delay):
    """Runs until some time after the next checkpoint, and returns the exit status of the killed process."""
    process = start(folder, log)
    wait_for_another_checkpoint(folder, process)
    time.sleep(delay)
    process.send_signal(how)
    return process.wait(300)


def finished(folder, log):
    assert start(folder, log).wait(900) == 0, log.read_text()[-3000:]
    return checkpoints.newest(folder / "checkpoints"), (folder / "history.csv").read_text()


def check(tmp_path, kills):
    rng, log = random.Random(0), tmp_path / "log"
    expected, history = finished(tmp_path / "whole", log)
    folder = tmp_path / "killed"
    for number in range(kills):
        assert killed(folder, log, signal.SIGKILL, rng.uniform(0.0, 0.2)) == -signal.SIGKILL
        if number == 0:  # once as a cluster manager does it
            assert killed(folder, log, signal.SIGTERM, 0.0) == 143
        if last(folder) > f"{3 * STEPS:09d}":
            got, got_history = finished(folder, log)
            assert got_history == history
            assert_same(got, expected)
            folder = tmp_path / f"killed{number}"
    got, got_history = finished(folder, log)
    assert got_history == history
    assert_same(got, expected)
    assert keras_preact.evaluate(folder, DATA) == keras_preact.evaluate(tmp_path / "whole", DATA)


def assert_same(got, expected):
    assert got.step == expected.step == 5 * STEPS
    assert got.state == expected.state
    assert got.arrays.keys() == expected.arrays.keys()
    for name in expected.arrays:
        np.testing.assert_array_equal(got.arrays[name], expected.arrays[name], err_msg=name)


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    check(tmp_path, kills=1)


@pytest.mark.long
def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(tmp_path):
    check(tmp_path, kills=20)


def save(folder, first):
    """Saves one checkpoint after the other, of as many arrays as ResNet-164 has."""
    checkpoints.clean(folder)
    for step in range(first, first + 1000):
        arrays = {f"network/{n:05d}": np.full(16_000, step, "float32") for n in range(200)}
        checkpoints.save(folder, checkpoints.Checkpoint(step, arrays, {"history": [step]}))


def check_kills_during_saves(tmp_path, kills):
    rng, step, folder = random.Random(0), 0, tmp_path / "checkpoints"
    for _ in range(kills):
        process = Process(save, folder, step + 1)
        while not any(int(path.name) > step + 1 for path in folder.glob("[0-9]*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        found = checkpoints.newest(folder)
        assert found.step >= step
        assert found.state == {"history": [found.step]}
        assert len(found.arrays) == 200
        assert all((array == found.step).all() for array in found.arrays.values())
        step = found.step
    assert step >= 2 * kills


def test_a_kill_during_a_save_leaves_a_whole_checkpoint(tmp_path):
    check_kills_during_saves(tmp_path, kills=3)


@pytest.mark.long
def test_twenty_kills_during_saves_leave_whole_checkpoints(tmp_path):
    check_kills_during_saves(tmp_path, kills=20)


@pytest.fixture
def three(tmp_path):
    for step in (1, 2, 3):
        arrays = {"weights": np.full(1000, step, "float32"), "metrics": np.zeros((1, 2))}
        checkpoints.save(tmp_path, checkpoints.Checkpoint(step, arrays, {"history": [step], "counters": []}))
    return tmp_path


def test_the_last_two_checkpoints_are_kept(three):
    assert sorted(path.name for path in three.iterdir()) == ["000000002", "000000003"]
    assert checkpoints.newest(three).step == 3


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "bit-flipped": flip_a_bit,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [checkpoints.ARRAYS, checkpoints.STATE, checkpoints.SUMS])
def test_a_damaged_checkpoint_is_seen_and_the_one_before_it_used(three, name, damage):
    DAMAGES[damage](three / "000000003" / name)
    with pytest.warns(UserWarning, match=r"000000003 is damaged .*trying the one before"):
        found = checkpoints.newest(three)
    assert (found.step, found.arrays["weights"][0], found.state["history"]) == (2, 2.0, [2])
    DAMAGES[damage](three / "000000002" / name)
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match=r"output.*one checkpoint at least is whole"),
    ):
        checkpoints.newest(three)


def test_what_is_not_finite_is_not_saved(three):
    bad = checkpoints.Checkpoint(4, {"weights": np.array([1.0, np.nan])}, {})
    with pytest.raises(FloatingPointError, match="weights is not finite after step 4"):
        checkpoints.save(three, bad)
    assert checkpoints.newest(three).step == 3


def test_a_full_disk_leaves_the_checkpoints_that_are_there(three, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(three, checkpoints.Checkpoint(4, {"weights": np.ones(3)}, {}))
    assert sorted(path.name for path in three.iterdir()) == ["000000002", "000000003"]
    assert checkpoints.newest(three).step == 3


def test_two_whole_checkpoints_are_kept_where_a_later_one_was_damaged(tmp_path):
    def save(step):
        checkpoints.save(tmp_path, checkpoints.Checkpoint(step, {"w": np.zeros(2)}, {}, []))

    for step in (100, 200):
        save(step)
    (tmp_path / "000000200" / checkpoints.ARRAYS).write_bytes(b"")
    save(150)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000100", "000000150"]
