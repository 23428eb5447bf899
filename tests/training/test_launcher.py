"""Workers end with their launcher, however that ends, and also when they hang."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import keras_preact
from keras_preact.training import launcher, strategies
from keras_preact.training.signals import EndingSignals

HANG = """
import os, pathlib, signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
pathlib.Path(sys.argv[1], str(os.getpid())).touch()
time.sleep(600)
"""
LAUNCH = """
import sys
sys.argv[0] = "keras-preact"  # whose start imports no Keras
from keras_preact.training import launcher
raise SystemExit(launcher.launch([sys.executable, "-c", sys.argv[1], sys.argv[2]], 2))
"""


def end_by_signals():
    """Makes signals end this process that nohup, or a shell in the background, has it ignore."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([signal.SIGKILL], -signal.SIGKILL),
        ([signal.SIGHUP, signal.SIGHUP], 129),
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGINT], 130),
    ],
    ids=lambda value: "-".join(number.name for number in value) if isinstance(value, list) else None,
)
def test_workers_that_hang_end_with_their_launcher(sent, status, tmp_path):
    command = [sys.executable, "-c", LAUNCH, HANG, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=end_by_signals)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert all(os.getpgid(pid) == pid for pid in workers)  # a terminal's Ctrl-C does not reach them
    begun = time.monotonic()
    for number in sent:
        process.send_signal(number)
        time.sleep(0.6)
    found = process.wait(30)
    process.stderr.close()
    wait_until(lambda: not any(map(is_running, workers)), 5)
    assert time.monotonic() - begun < 9  # before the 10 s that one signal leaves them
    assert found in (status, -signal.SIGINT if status == 130 else status)


@pytest.mark.parametrize("command", ["train ResNet8", [], ["train", 8]])
def test_a_command_is_a_list_of_words(command):
    with pytest.raises(ValueError, match="`command` must be a list of words, the program first"):
        keras_preact.launch(command)


def test_a_program_that_is_not_there_is_not_started_again(caplog):
    with pytest.raises(ValueError, match=r"which this machine has\. Received: command='no_such_program'"):
        keras_preact.launch(["no_such_program"])
    assert not caplog.records


def test_a_job_that_goes_on_failing_is_given_up_with_its_status(caplog):
    assert keras_preact.launch([sys.executable, "-c", "raise SystemExit(3)"], workers=1, max_restarts=1) == 3
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "a worker ended with status 3; starting the job again, 0 more times at most.",
        "a worker ended with status 3; giving up.",
    ]


DEAF_UNLESS_SECOND = """
import json, os, pathlib, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    while not any(pathlib.Path(sys.argv[1]).iterdir()):
        time.sleep(0.02)
    raise SystemExit(5)
"""


def test_a_worker_that_hears_no_signal_is_killed_when_its_peer_has_died(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "END_SECONDS", 0.5)
    command = [sys.executable, "-c", DEAF_UNLESS_SECOND + HANG, str(tmp_path)]
    assert keras_preact.launch(command, workers=2, max_restarts=0) == 5
    (deaf,) = tmp_path.iterdir()
    assert not is_running(int(deaf.name))


def test_a_deadline_is_a_number_of_seconds(monkeypatch):
    for text in ("abc", "-1", "nan"):
        monkeypatch.setenv(strategies.DEADLINE, text)
        with pytest.raises(ValueError, match="`KERAS_PREACT_START_DEADLINE` must be a number of seconds"):
            strategies._start_deadline()


def test_a_second_ctrl_c_ends_the_steps_at_once():
    reached, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

    def step():
        with EndingSignals("") as signals, signals.deferred():
            signal.raise_signal(signal.SIGINT)
            reached.append("the end of the step")
            signal.raise_signal(signal.SIGINT)
            reached.append("what must not run")

    try:
        with pytest.raises(KeyboardInterrupt):
            step()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == ["the end of the step"]
