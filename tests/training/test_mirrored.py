"""MirroredStrategy over two logical CPUs, in processes of their own: a second strategy in one process can collide."""

import pathlib

import pytest
from processes import Process, program

PROGRAM = pathlib.Path(__file__).parents[1] / "programs" / "two_replicas.py"


@pytest.mark.parametrize(
    "what",
    [
        "synchronized",
        "train",
        "drops",
        "overflow",
        pytest.param("averaged", marks=pytest.mark.long),
        pytest.param("levels", marks=pytest.mark.long),
    ],
)
def test_two_replicas(what, tmp_path):
    process, log = Process(program, PROGRAM, what, tmp_path, log=tmp_path / "log"), tmp_path / "log"
    assert process.wait(900) == 0, log.read_text()[-3000:]
    assert f"{what}: done" in log.read_text().splitlines()
