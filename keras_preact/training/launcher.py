"""Local workers: started together, watched, ended together, and started again from their last checkpoint."""

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from keras_preact.errors import argument_error, check_integer
from keras_preact.training.signals import NUMBERS

log = logging.getLogger(__name__)

END_SECONDS = 10.0
WRONG_USAGE = 2  # the exit status of a command with wrong arguments, which no restart mends
POLL_SECONDS = 0.2


def launch(command: Sequence[str], workers: int = 2, max_restarts: int = 3, backend: str | None = None) -> int:
    """Runs a command as several workers of one job on this machine, until all have finished.

    As soon as one ends otherwise than with status 0, all are ended: SIGTERM, and SIGKILL 10 s later. Then the job is
    started again, which resumes from its last checkpoint. A worker whose peers do not come ends by itself after
    KERAS_PREACT_START_DEADLINE seconds (60 if unset).

    Args:
        command: A list: the program and its arguments. Each worker gets TF_CONFIG, and the KERAS_DISTRIBUTION
            variables that JAX reads.
        workers: Their number.
        max_restarts: How often the job is started again.
        backend: The Keras backend, if not the environment's.

    Returns:
        The exit status: 0; 2, without a restart, for a command that is refused; else that of the worker that failed
        first at the last try, or of its peer if both have ended by the time of a look; 128 plus the number for a
        signal.

    Raises:
        ValueError: If `command` is no list of words, its program is not there, `workers` is below 1, or `max_restarts`
            below 0.
    """
    check_command(command)
    workers, restarts = check_integer("workers", workers), check_integer("max_restarts", max_restarts, minimum=0)
    for number in range(restarts + 1):
        ports = free_ports(workers)
        status = run_together(command, [_environment(ports, worker, backend) for worker in range(workers)])
        if status in (0, WRONG_USAGE):
            return status
        left = restarts - number
        what = f"starting the job again, {left - 1} more times at most" if left else "giving up"
        log.warning(f"a worker ended with status {status}; {what}.")
    return status


def check_command(command: Sequence[str]) -> None:
    """Raises a `ValueError` if a command is no list of words, or this machine has no such program."""
    if isinstance(command, str) or not command or not all(isinstance(word, (str, os.PathLike)) for word in command):
        raise argument_error("command", "a list of words, the program first", command)
    if shutil.which(command[0]) is None:
        raise argument_error("command", "a list of words, the program first, which this machine has", command[0])


def run_together(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Runs a command once in each environment; returns 0, or the status of the first that failed: then all are ended.

    SIGTERM, SIGHUP and SIGINT end all, and then this call, with `SystemExit` (`KeyboardInterrupt` for SIGINT); a second
    one kills at once. Each process has a session of its own, so that a terminal's Ctrl-C reaches this one alone. On
    Linux, what kills this process kills them.

    Args:
        command: A list: the program and its arguments.
        environments: A dict of variables for each process.
    """
    signals: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []
    before = _note(signals)
    try:
        for environment in environments:
            processes.append(_started(command, environment))
        status = _watch(processes, signals)
    finally:
        _end(processes, signals)
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else SystemExit(128 + signals[0])
    return status


def _note(signals):
    """Makes signals that ask to end append their number to a list; returns the handlers before, by number."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in NUMBERS}
    before = {number: handler for number, handler in found.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _frame: signals.append(number))
    return before


# The system's own bond: a worker whose launcher is gone gets SIGKILL. It holds through exec, which is why this program
# becomes the worker's; a function between fork and exec could hang, where other threads hold locks.
_BOUND = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(parent):
    sys.exit("keras-preact: the launcher is gone.")
os.execvpe(command[0], command, os.environ)
"""


def _started(command, environment):
    """Starts a process that ends when this one does, in a session of its own."""
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _BOUND, str(os.getpid()), *map(str, command)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)


def _watch(processes, signals):
    while not signals:
        states = [process.poll() for process in processes]
        failed = [state for state in states if state]
        if failed:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(state == 0 for state in states):
            return 0
        time.sleep(POLL_SECONDS)
    return 128 + signals[0]


def _end(processes, signals):
    """Ends all processes: SIGTERM, and SIGKILL 10 s later, or as soon as one signal more comes."""
    for process in processes:
        _send(process, signal.SIGTERM)
    deadline, known = time.monotonic() + END_SECONDS, len(signals)
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline or len(signals) > known:
            for process in processes:
                _send(process, signal.SIGKILL)
                process.wait()
        time.sleep(POLL_SECONDS / 4)


def _send(process, number):
    """Sends a signal to a process that runs, and to what it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _environment(ports, number, backend):
    addresses = [f"127.0.0.1:{port}" for port in ports]
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
    return {
        **os.environ,
        **({"KERAS_BACKEND": backend} if backend else {}),
        "TF_CONFIG": json.dumps(task),
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(ports)),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(number),
    }


def free_ports(count: int) -> list[int]:
    """Returns numbers of ports that nothing listens on, on the loopback address."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
