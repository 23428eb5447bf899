"""Several processes as one job over loopback, started by `keras-preact launch`, and what becomes of one that dies."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from processes import Process, command, launching

from keras_preact.training import checkpoints
from keras_preact.training.launcher import free_ports

PROGRAM = [sys.executable, "-m", "keras_preact"]
TRAIN = [
    *("train", "ResNet8", "--epochs", "4", "--global-batch-size", "12", "--precision", "float64", "--flip"),
    *("--learning-rate", "0.01", "--clip-norm", "0.5", "--bn-synchronized"),
]


def on(backend):
    """Returns the environment variables of a process on a backend; JAX has float64 only where it is told to."""
    return {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}


STEPS = 4  # in an epoch


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 48 training images and 22 for the test, in three classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 22)):
        for number in range(count):
            path = folder / split / f"class{number % 3}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def launched(workers, images, folder, log, backend):
    run = [*TRAIN, "--data", str(images), "--output", str(folder)]
    return started(["launch", "--workers", str(workers), "--max-restarts", "3", "--", *run], log, backend)


def started(words, log, backend):
    """Starts `keras-preact`, and returns the process: on TensorFlow, which takes long to import, a fork."""
    if backend == "tensorflow":
        return Process(launching, command, *words, log=log)
    with open(log, "a") as output:
        return subprocess.Popen([*PROGRAM, *words], stdout=output, stderr=output, env=on(backend))


def workers_of(process):
    """Returns the process numbers of a launcher's workers, the first worker's first."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(number) for number in file.read().split()]


def wait_for_checkpoint(folder, step, process):
    while not any(int(path.name) >= step for path in (folder / "checkpoints").glob("[0-9]*")):
        assert process.poll() is None, "the job ended too early"
        time.sleep(0.02)


def end(folder):
    with contextlib.suppress(FileNotFoundError):
        return checkpoints.newest(folder / "checkpoints")


def assert_near(got, expected, bound):
    assert got.step == expected.step == 4 * STEPS
    for name, array in expected.arrays.items():
        if name != "metrics":
            np.testing.assert_allclose(got.arrays[name], array, rtol=0, atol=bound, err_msg=name)


def check(tmp_path, images, workers, backend="tensorflow", kills=(signal.SIGKILL, signal.SIGTERM)):
    log = tmp_path / "log"
    assert launched(workers, images, tmp_path / "whole", log, backend).wait(900) == 0, log.read_text()[-4000:]
    process = launched(workers, images, tmp_path / "killed", log, backend)
    for number, how in enumerate(kills, start=1):
        wait_for_checkpoint(tmp_path / "killed", number * STEPS, process)
        os.kill(workers_of(process)[-1], how)
    assert process.wait(900) == 0, log.read_text()[-4000:]
    run = [*TRAIN, "--data", str(images), "--strategy", "none", "--output", str(tmp_path / "alone")]
    alone = started(run, log, backend)
    assert alone.wait(900) == 0, log.read_text()[-4000:]
    whole, killed = end(tmp_path / "whole"), end(tmp_path / "killed")
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(killed.arrays[name], array, err_msg=name)
    assert killed.state == whole.state
    card = json.loads((tmp_path / "whole" / "card.json").read_text())
    assert card["command"].startswith("keras-preact train ResNet8 ")
    text = log.read_text()
    # That of the killed worker, or of its peer, if both have ended when the launcher looks.
    for left in range(2, 2 - len(kills), -1):
        assert re.search(rf"a worker ended with status [1-9]\d*; starting the job again, {left} more times", text)
    assert_near(whole, end(tmp_path / "alone"), 1e-6)


def test_two_workers_equal_one_and_survive_a_kill(tmp_path, images):
    check(tmp_path, images, 2, kills=(signal.SIGKILL,))


@pytest.mark.long
def test_three_workers_equal_one_and_survive_kills(tmp_path, images):
    check(tmp_path, images, 3)


@pytest.mark.long
def test_two_processes_of_jax_equal_one_and_survive_kills(tmp_path, images):
    check(tmp_path, images, 2, "jax")


def test_a_worker_whose_peer_never_comes_says_so_and_ends(tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), "KERAS_PREACT_START_DEADLINE": "4"}
    log = tmp_path / "log"
    alone = Process(command, *TRAIN, "--output", tmp_path / "run", environment=environment, log=log)
    assert alone.wait(120) == -signal.SIGKILL
    assert f"not all of the 2 workers {', '.join(addresses)} came within 4 s" in log.read_text()
    assert not (tmp_path / "run").exists()
