"""What works alone works together: every pair of choices is part of a run that trains, resumes and is measured again.

The rows are those of `combinations.py`. A slice of each environment runs here, all of them with `-m long`.
"""

import json
import os
import pathlib
import subprocess
import sys

import combinations
import pytest
from processes import Process, launching, program

PROGRAM = pathlib.Path(combinations.__file__)
SLICE = slice(1, 2)  # the first row of each environment has all that is usual; this one has what is not, and resumes


def check(environment, folder, numbers):
    log, words = folder / "log", (str(PROGRAM), environment, str(folder), *map(str, numbers))
    if environment.startswith("jax"):
        with open(log, "w") as output:
            status = subprocess.run([sys.executable, *words], stdout=output, stderr=output).returncode
    else:
        status = Process(launching, program, *words, log=log).wait()
    lines = log.read_text().splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    passed = {line for line in lines if line.startswith("passed")}
    assert not failed, "\n".join(failed)
    assert status == 0, "\n".join(lines[-30:])
    assert passed == {f"passed {number}" for number in numbers}


def numbers_of(environment):
    return [number for number, row in enumerate(combinations.rows()) if row["environment"] == environment]


@pytest.mark.parametrize(
    "environment", ["none", "mirrored", "workers", "jax", pytest.param("jax_data_parallel", marks=pytest.mark.long)]
)
def test_some_combinations(environment, tmp_path):
    check(environment, tmp_path, numbers_of(environment)[SLICE])


@pytest.mark.long
@pytest.mark.parametrize("environment", combinations.AXES["environment"])
def test_every_pair_of_choices(environment, tmp_path):
    check(environment, tmp_path, numbers_of(environment))


def test_the_rows_hold_every_pair_that_is_possible():
    values = [(axis, value) for axis, options in combinations.AXES.items() for value in options]
    found = set()
    for row in combinations.rows():
        found |= {(one, other) for one in row.items() for other in row.items()}
    refused = {(("environment", environment), ("precision", "float64")) for environment in ("jax", "jax_data_parallel")}
    missing = [(one, other) for one in values for other in values if one[0] < other[0] and (one, other) not in found]
    assert set(missing) == refused


def test_the_rows_are_the_same_in_every_process():
    """A row is named by its number, to a process that makes the rows again."""
    program = "import combinations, json; print(json.dumps(combinations.rows()))"
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(PROGRAM.parent)}
        printed = subprocess.check_output([sys.executable, "-c", program], env=environment)
        assert json.loads(printed) == json.loads(json.dumps(combinations.rows()))
