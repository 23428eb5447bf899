"""The package on JAX, in a process in which importing TensorFlow raises."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[1] / "programs" / "jax_without_tensorflow.py"


@pytest.mark.parametrize("what", ["training", "layouts"])
def test_jax_without_tensorflow(what, tmp_path):
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), what, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(f"{what}: done")


def test_a_run_on_four_devices_equals_one_on_one(tmp_path):
    program = PROGRAM.with_name("four_devices.py")
    done = subprocess.run([sys.executable, str(program), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("four devices: done")
