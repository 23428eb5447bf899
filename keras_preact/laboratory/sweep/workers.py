"""keras-tuner's chief and workers on this machine, ended together when one of them dies."""

import os
from collections.abc import Sequence

from keras_preact.errors import check_integer
from keras_preact.training.launcher import check_command, free_ports, run_together


def launch_search(command: Sequence[str], workers: int = 2) -> int:
    """Runs a program with a keras-tuner search as a chief and several workers, until all have finished.

    keras-tuner's chief waits for ever for a worker that died. Here all are ended as soon as one ends otherwise than
    with status 0; the same call resumes the search, since RandomSearch, Hyperband and BayesianOptimization run the
    trials again that were under way. The chief listens on the loopback address alone.

    Args:
        command: A list: the program and its arguments. Each process gets keras-tuner's KERASTUNER variables; the tuners
            need a `directory` and `overwrite=False`.
        workers: Their number, beside the chief.

    Returns:
        The exit status: 0, or that of the first process that failed; 128 plus the number for a signal.

    Raises:
        ValueError: If `command` is no list of words, its program is not there, or `workers` is below 1.
    """
    check_command(command)
    names = ["chief", *(f"tuner{number}" for number in range(check_integer("workers", workers)))]
    (port,) = free_ports(1)
    chief = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}
    return run_together(command, [{**os.environ, **chief, "KERASTUNER_TUNER_ID": name} for name in names])
