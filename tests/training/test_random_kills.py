"""Forty kills at random times over six configurations: each run ends, history included, as if there had been none."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from keras_preact.training import checkpoints, run_folder

KILLS = 7  # of each configuration
CLI = [sys.executable, "-c", "from keras_preact.cli import main; main()"]
TWO_REPLICAS = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from keras_preact.cli import main
main()
"""
SHORT = ("--epochs", "3", "--global-batch-size", "120", "--warmup-steps", "0", "--checkpoint-steps", "4")
VARIED = ("--crop-padding", "2", "--flip", "--ema", "0.9")


@dataclass(frozen=True)
class Configuration:
    """Says what is run: a program, its arguments, and the variables of its environment."""

    arguments: tuple
    program: tuple = tuple(CLI)
    variables: tuple = ()


CONFIGURATIONS = {
    "dropout and a plateau": Configuration(
        (
            *("train", "ResNet11", "--shortcut", "dropout", *SHORT, *VARIED),
            *("--validation-images", "100", "--schedule", "plateau", "--patience", "1"),
        )
    ),
    "layers, float16, two replicas": Configuration(
        (
            *("train", "ResNet11", "--layout", "layers", "--precision", "mixed_float16", "--strategy", "mirrored"),
            *(*SHORT, "--flip"),
        ),
        (sys.executable, "-c", TWO_REPLICAS),
    ),
    "early stopping": Configuration(
        (
            *("train", "ResNet11", *SHORT, "--validation-images", "100", "--early-stopping", "1"),
            *("--learning-rate", "1e-9", "--strategy", "none"),
        )
    ),
    "jax": Configuration(("train", "ResNet11", *SHORT, *VARIED), variables=(("KERAS_BACKEND", "jax"),)),
    "fine-tuning": Configuration(
        (
            *("finetune", "--weights", "{weights}", "--data", "digits", "--freeze", "stem", "stage1"),
            *("--bn", "reestimate", "--layer-decay", "0.5", "--steps", "40", "--checkpoint-steps", "7"),
        )
    ),
    "two workers": Configuration(
        ("launch", "--workers", "2", "--", "train", "ResNet11", "--precision", "float64", *SHORT, *VARIED)
    ),
}


def start(configuration, folder, weights, log):
    arguments = [argument.format(weights=weights) for argument in configuration.arguments]
    environment = {**os.environ, **dict(configuration.variables)}
    command = [*configuration.program, *arguments, "--output", str(folder)]
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def end(process, log):
    assert process.wait(900) == 0, pathlib.Path(log.name).read_text()[-3000:]


def assert_same(ours, theirs):
    assert (ours / run_folder.HISTORY).read_text() == (theirs / run_folder.HISTORY).read_text()
    one, two = (checkpoints.newest(folder / run_folder.CHECKPOINTS) for folder in (ours, theirs))
    assert (one.step, one.state) == (two.step, two.state)
    assert one.arrays.keys() == two.arrays.keys()
    for name, array in two.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], array, err_msg=name)
    cards = [run_folder.read_card(folder) for folder in (ours, theirs)]
    assert cards[0]["error_percent"] == cards[1]["error_percent"]
    weights = [run_folder.load_model(folder).get_weights() for folder in (ours, theirs)]
    assert all(map(np.array_equal, *weights))
    assert not [path for path in ours.rglob(".*") if path.is_dir()], "a half-written file was left"


def check(configuration, tmp_path, kills, seed=0):
    rng, weights = random.Random(seed), tmp_path / "weights"
    with open(tmp_path / "log", "w") as log:
        if "{weights}" in configuration.arguments:
            end(start(CONFIGURATIONS["jax"], weights, None, log), log)
        begun = time.monotonic()
        end(start(configuration, tmp_path / "whole", weights, log), log)
        seconds = time.monotonic() - begun
        folder, finished = tmp_path / "killed0", []
        while kills:
            process = start(configuration, folder, weights, log)
            try:
                process.wait(rng.uniform(0.2, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
            if process.wait() == -signal.SIGKILL:
                kills -= 1
            else:  # it has ended before, or just when it was to be killed
                end(process, log)
                finished.append(folder)
                folder = tmp_path / f"killed{len(finished)}"
        end(start(configuration, folder, weights, log), log)
    for each in (*finished, folder):
        assert_same(each, tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_run_killed_at_random_times_ends_as_if_it_had_not_been(name, tmp_path):
    check(CONFIGURATIONS[name], tmp_path, KILLS)
