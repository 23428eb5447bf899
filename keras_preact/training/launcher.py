"""Local workers: started together, watched, ended together, and started again from their last checkpoint."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

from keras_preact.errors import check_integer

END_SECONDS = 10.0
WRONG_USAGE = 2  # the exit status of a command with wrong arguments, which no restart mends
POLL_SECONDS = 0.2


def launch(command, workers, max_restarts=3, backend=None):
    """Runs a command as several workers of one job on this machine, until all have finished.

    As soon as one ends otherwise than with status 0, all are ended: SIGTERM, and SIGKILL 10 s later. Then the job is
    started again, which goes on from its last checkpoint. A worker whose peers do not come ends by itself after
    KERAS_PREACT_START_DEADLINE seconds (60 if unset).

    Args:
        command: A list: the program and its arguments. Each worker gets TF_CONFIG, and the KERAS_DISTRIBUTION
            variables that JAX reads.
        workers: Their number.
        max_restarts: How often the job is started again.
        backend: The Keras backend, if not the environment's.

    Returns:
        The exit status: 0; 2, without a restart, for a command that is refused; else that of the first worker that
        failed at the last try, 128 plus the number for a signal.

    Raises:
        ValueError: If `workers` is below 1, or `max_restarts` below 0.
    """
    workers, restarts = check_integer("workers", workers), check_integer("max_restarts", max_restarts, minimum=0)
    for number in range(restarts + 1):
        ports = free_ports(workers)
        status = run_together(command, [_environment(ports, worker, backend) for worker in range(workers)])
        if status in (0, WRONG_USAGE):
            return status
        left = restarts - number
        what = f"starting the job again, {left - 1} more times at most" if left else "giving up"
        print(f"keras-preact: a worker ended with status {status}; {what}.", file=sys.stderr, flush=True)
    return status


def run_together(command, environments):
    """Runs a command once in each environment; returns 0, or the status of the first that failed: then all are ended.

    Args:
        command: A list: the program and its arguments.
        environments: A dict of variables for each process.
    """
    processes = [subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) for environment in environments]

    def forward(signal_number, _frame):
        raise SystemExit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        return _watch(processes)
    finally:
        _end(processes)
        signal.signal(signal.SIGTERM, before)


def _watch(processes):
    while True:
        states = [process.poll() for process in processes]
        failed = [state for state in states if state]
        if failed:
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if all(state == 0 for state in states):
            return 0
        time.sleep(POLL_SECONDS)


def _end(processes):
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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


def free_ports(count):
    """Returns numbers of ports that nothing listens on, on the loopback address."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
