"""One process at a time in a folder; the second is told who is there. A lock ends with its process, however that ends.

This file imports no Keras.
"""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from keras_preact.errors import argument_error
from keras_preact.types import PathLike

log = logging.getLogger(__name__)


class HeldError(ValueError):
    """Says that another process holds a lock, and which."""


@contextlib.contextmanager
def held(path: PathLike, argument: str = "output", wait: bool = False) -> Iterator[bool]:
    """Holds the lock of what is written at `path`, the file `.<name>.lock` beside it, which says who holds it.

    Yields whether it waited for another process, which may have written `path` meanwhile.

    Args:
        path: Of a file or a folder, which need not exist.
        argument: What to call it in the error.
        wait: Whether to wait for the process that holds it, which is said on standard error, instead of the error.

    Raises:
        HeldError: A `ValueError`, if another process, or another call in this one, holds it; it is named.
    """
    import filelock

    path = pathlib.Path(path).resolve()  # one folder has one lock, by whatever name
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    lock, waited = filelock.FileLock(file), False
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        who = holder(path)
        if not wait:
            hint = "Wait until it has ended, or choose another."
            expected = "what no other process is writing to"
            reason = argument_error(argument, expected, str(path), f"It is held by {who}. {hint}")
            raise HeldError(str(reason)) from error
        log.warning(f"waiting for {who}, which writes {path}")
        lock.acquire()
        waited = True
    try:
        with contextlib.suppress(OSError):
            file.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield waited
    finally:
        file.unlink(missing_ok=True)  # filelock sees that a file it waited for is gone, and makes a new one
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # unless something was written
                path.parent.rmdir()


def _this_process():
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now}


def holder(path: PathLike) -> str:
    """Returns in words who holds the lock of `path`: the number of the process, its host, and since when."""
    path = pathlib.Path(path).resolve()
    try:
        who = json.loads(path.with_name(f".{path.name}.lock").read_text(encoding="utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or cannot be read while locked
        return "another process"
