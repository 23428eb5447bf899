"""Processes that begin with TensorFlow, Keras and the package imported, which takes 9 s of computing otherwise.

They are forks of one process that has imported all this and computed nothing: a fork of one that has would hang.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["keras_preact.cli", "keras_preact.training.trainer", "keras_preact.laboratory.sweep"])


class Process:
    """A process that runs `function(*arguments)`, waited for and signalled as a `subprocess.Popen`.

    Runs in it have no SavedModel and no picture, which take a third of a short one's time.

    Args:
        function: A function of a module, which the process imports.
        *arguments: What can be pickled.
        log: The path of the file that gets what is written to standard output and error; those of this process if None.
        environment: Its variables; those of this process if None. KERAS_BACKEND has been read.
        context: Of `multiprocessing`.
    """

    def __init__(self, function, *arguments, log=None, environment=None, context=_SERVER):
        given = log, dict(os.environ if environment is None else environment)
        ends_with_us = function is not launching  # which starts processes, and ends them
        self._process = context.Process(target=_run, args=(function, arguments, *given), daemon=ends_with_us)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired("a fork", timeout)
        return status

    def send_signal(self, number):
        os.kill(self.pid, number)


def _run(function, arguments, log, environment):
    from keras_preact import exporting
    from keras_preact.training.callbacks import RunFiles

    exporting.can_export = lambda: False
    RunFiles._plot = lambda self: None
    os.environ.clear()
    os.environ.update(environment)
    if log is not None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*arguments)


def command(*arguments):
    """Runs `keras-preact` with arguments."""
    from keras_preact import cli

    sys.argv = ["keras-preact", *map(str, arguments)]
    cli.main()


def program(path, *arguments):
    """Runs a Python file as a program."""
    sys.argv = [str(path), *map(str, arguments)]
    sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(str(path), run_name="__main__")


def launching(function, *arguments):
    """Runs a function in which `launcher.launch` forks this process for each worker, and does not start Python anew."""
    from keras_preact.training import launcher

    launcher._started = _forked
    function(*arguments)


def _forked(words, environment):
    is_command = "keras_preact" in words  # python -P -m keras_preact ...
    worker = (command, *words[words.index("keras_preact") + 1 :]) if is_command else (program, *words[1:])
    return Process(_in_a_session, *worker, environment=environment, context=multiprocessing.get_context("fork"))


def _in_a_session(function, *arguments):
    os.setsid()
    function(*arguments)
