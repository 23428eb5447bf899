"""MirroredStrategy over two logical CPUs, in processes of their own: a second strategy in one process can collide."""

import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parents[1] / "programs" / "two_replicas.py"


@pytest.mark.parametrize(
    "what",
    [
        "synchronized",
        "train",
        pytest.param("averaged", marks=pytest.mark.long),
        pytest.param("levels", marks=pytest.mark.long),
    ],
)
def test_two_replicas(what, tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), what, str(tmp_path)], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith(f"{what}: done")
