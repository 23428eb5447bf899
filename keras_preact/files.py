"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator

from keras_preact.errors import argument_error
from keras_preact.types import PathLike

ALIVE = ".alive"  # in an aside: locked as long as its writer lives
DOWNLOAD = "download"
REPLACED = ".replaced."
ASIDE = re.compile(r"\.(.+)\.[^.]+\.aside")  # the folder in which a file of that name is written
ABANDONED = 60.0  # seconds after which an aside without ALIVE, which is made first, is a killed writer's
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
TRIES = 1000  # each fails only when another writer is at the same folder at the same moment


@contextlib.contextmanager
def written_aside(path: PathLike) -> Iterator[pathlib.Path]:
    """Yields a path in the same folder to write to; renames it to `path` at the end, or removes it on an error.

    The yielded path has the name of `path`, in a temporary folder, so that endings like `.weights.h5` stay. A folder
    is written and renamed the same way, and changes places with one that is there in a single step, so that `path` is
    a whole folder at every moment, also with several writers at once: the last one's stays. What a killed writer left
    beside `path` is removed at the start.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_asides(path.parent, path.name)
    aside, lock = _new_aside(path)
    try:
        yield aside / path.name
        _sync(aside / path.name)
        _replace(path, aside / path.name)
    finally:
        lock.release()
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path):
    """Has the system write a file, or those in a folder, to the disk: else a rename may survive a power cut alone."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with open(file, "r+b") as opened:
                os.fsync(opened.fileno())


def check_local(argument: str, path: PathLike) -> pathlib.Path:
    """Returns a path as a `Path`; a `ValueError` about `argument` if it is a URL, or what `Path` has made of one."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        hint = "A URL is for the runs of `train` and `finetune`, as a string."
        raise argument_error(argument, "a local path", str(path), hint)
    return pathlib.Path(path)


def check_writable(argument: str, path: PathLike) -> None:
    """Raises a `ValueError` about an argument unless `path` is a folder that can be written in, or could be made."""
    path = pathlib.Path(path).absolute()
    above = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        expected = "where files can be written"
        raise argument_error(argument, expected, str(path), f"In {above}: {error.strerror}.") from error


def _new_aside(path):
    """Makes a temporary folder beside `path`, and returns it and the lock by which others see that its writer lives.

    Between the making and the locking, one who removes what killed writers left may lock it: it is theirs, then.
    """
    import filelock

    for _ in range(TRIES):
        aside = pathlib.Path(tempfile.mkdtemp(".aside", f".{path.name}.", path.parent))
        lock = filelock.FileLock(aside / ALIVE)
        try:
            lock.acquire(timeout=0)
        except (filelock.Timeout, FileNotFoundError) as error:
            problem = error
            shutil.rmtree(aside, ignore_errors=True)
            continue
        except (OSError, NotImplementedError):  # a file system without locks: nobody else can lock it either
            pass
        return aside, lock
    raise problem


def _replace(path, new):
    """Renames `new` to `path`, where another writer may put a folder, or take one away, at any time."""
    for _ in range(TRIES):
        try:
            if path.is_dir() and new.is_dir():  # a file takes no folder's place
                _exchange(path, new)
            else:
                os.replace(new, path)
            return
        except OSError as error:
            problem = error
            if not (os.path.lexists(new) and error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)):
                raise
    raise problem


def _exchange(path, new):
    """Lets the folder `path` and `new` change places, in one step on Linux, where the file system can do it."""
    with contextlib.suppress(AttributeError):  # a system whose C library has no such function
        rename = ctypes.CDLL(None, use_errno=True).renameat2
        if not rename(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE):
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTSUP):
            raise OSError(number, os.strerror(number), str(path))
    _exchange_in_two_steps(path, new)


def _exchange_in_two_steps(path, new):
    """Moves the folder `path` beside `new`, and `new` to `path`; `remove_asides` completes it after a kill."""
    old = pathlib.Path(tempfile.mkdtemp(prefix=REPLACED, dir=new.parent)) / path.name
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        with contextlib.suppress(OSError):  # another writer's folder may be there by now
            os.rename(old, path)
        raise


def is_aside(entry: PathLike, name: str | None = None) -> bool:
    """Returns whether a path is a folder in which `written_aside` writes a file called `name`, or any if None."""
    entry = pathlib.Path(entry)
    match = ASIDE.fullmatch(entry.name)
    if match is None or name not in (None, match[1]) or entry.is_symlink() or not entry.is_dir():
        return False
    with contextlib.suppress(OSError):  # its writer may be done just now
        names = {ALIVE, DOWNLOAD, match[1]}
        return all(inside.name in names or inside.name.startswith(REPLACED) for inside in entry.iterdir())
    return False


def remove_asides(folder: PathLike, name: str | None = None, is_ours: bool = False) -> None:
    """Removes what killed processes left half written in a folder, and completes a replacement that was cut short.

    Args:
        folder: A path; nothing is done if it does not exist.
        name: Of the file or folder that was written; any if None.
        is_ours: Whether this process alone writes in `folder`. If not, what a living process writes is left alone.
    """
    try:
        entries = sorted(pathlib.Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name[0] == "." and is_aside(entry, name):
            with contextlib.nullcontext(True) if is_ours else _abandoned(entry) as abandoned:
                if abandoned:
                    with contextlib.suppress(FileNotFoundError):  # its writer was done just now, and removes it, too
                        _complete(entry)
                    shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _abandoned(aside):
    """Yields whether a killed writer left the folder `aside`; if so, holds its lock meanwhile: nobody takes it."""
    import filelock

    lock = filelock.FileLock(aside / ALIVE)
    try:
        if (aside / ALIVE).exists() or time.time() - aside.stat().st_mtime > ABANDONED:
            lock.acquire(timeout=0)
    except (OSError, NotImplementedError):  # a `Timeout`, which is an OSError; it is gone; no locks here
        pass
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _complete(aside):
    """Puts the new folder in its place where a kill between the two steps of an exchange left nothing."""
    path = aside.with_name(ASIDE.sub(r"\1", aside.name))
    new = aside / path.name  # whole once something was to be replaced by it
    if any(aside.glob(f"{REPLACED}*/{path.name}")) and new.exists() and not os.path.lexists(path):
        try:
            os.rename(new, path)
        except OSError:
            if not os.path.lexists(path):  # else another writer's is there by now
                raise


def write_text(path: PathLike, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sha256(path: PathLike) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    return file_digest(path).removeprefix("sha256:")


def file_digest(path: PathLike, algorithm: str = "sha256") -> str:
    """Returns the hash of a file as cards have it, `sha256:...`, in small letters.

    Args:
        path: The file's.
        algorithm: `"sha256"`, `"sha1"` or `"md5"`, or a hash that begins so, for one to compare with it.
    """
    algorithm = algorithm.partition(":")[0]
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
