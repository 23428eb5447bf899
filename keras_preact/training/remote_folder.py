"""Run folders on an object store (`gs://bucket/run`): a run works in a local copy, whose files are copied there."""

import contextlib
import hashlib
import importlib
import pathlib
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

from keras_preact.errors import argument_error
from keras_preact.files import is_aside
from keras_preact.names import path_inside
from keras_preact.training import checkpoints, run_folder
from keras_preact.types import PathLike
from keras_preact.weights.store import cache_folder

LAST = (checkpoints.SUMS, run_folder.CARD)  # files that say that others are whole


def is_remote(path: PathLike) -> bool:
    """Returns whether a run folder is a URL."""
    return "://" in str(path)


def lock_path(output: PathLike) -> pathlib.Path:
    """Returns the path whose lock a run in `output` holds; of a URL one in the cache, which only this machine heeds."""
    if not is_remote(output):
        return pathlib.Path(output)
    return cache_folder() / "runs" / hashlib.sha256(str(output).rstrip("/").encode()).hexdigest()[:32]


def without_scheme(output: str) -> str:
    """Returns the path that a URL of a local file, `file:///folder`, stands for; anything else as it is."""
    parts = urllib.parse.urlsplit(output)
    return urllib.request.url2pathname(parts.path) if parts.scheme == "file" and not parts.netloc else output


@contextlib.contextmanager
def local_copy(output: PathLike) -> Iterator[tuple[pathlib.Path, Callable[[], None]]]:
    """Yields the local folder of a run, and a function that copies what is new in it to where it is to be kept.

    A store has no renaming in one step. So `SHA256SUMS` and `card.json` are copied after what they stand for, and a
    checkpoint without its sums, of a process killed while it copied, is passed over.

    Args:
        output: A path, which is yielded itself, or a URL that fsspec knows. What is there is copied first.

    Raises:
        ValueError: If fsspec, or its package for this kind of URL, is not installed, or there is no such kind.
    """
    if not is_remote(output):
        yield pathlib.Path(output), lambda: None
        return
    with tempfile.TemporaryDirectory(prefix="keras_preact.") as folder:
        copy = path_inside("output", pathlib.Path(folder), str(output).partition("://")[2].strip("/"))
        mirror = Mirror(str(output), copy)
        mirror.pull()
        yield mirror.folder, mirror.push


class Mirror:
    """Keeps the files of a URL equal to a folder's.

    Args:
        url: The URL of a folder, which need not exist.
        folder: A local path.
    """

    def __init__(self, url: str, folder: pathlib.Path) -> None:
        try:
            self.store, self.root = importlib.import_module("fsspec").url_to_fs(url)
        except (ImportError, ValueError) as error:
            hint = (
                f"{error}. It takes pip install fsspec, and its package for the store: gcsfs for gs://, s3fs for s3://."
            )
            raise argument_error("output", "a folder, or a URL that fsspec can write to", url, hint) from error
        self.root = self.root.rstrip("/")
        self.folder = folder
        # What the store has: by name, the state of the local file then, None if it was not read.
        self.kept: dict[str, tuple[int, int] | None] = {}

    def pull(self) -> None:
        """Copies what the store has into the folder, but for checkpoints that are not whole.

        Raises:
            ValueError: If a key in the store is no name of a file below the run's; nothing is copied then.
        """
        found = self.store.find(self.root) if self.store.exists(self.root) else []
        self.kept = {path.removeprefix(f"{self.root}/"): None for path in found}
        targets = {name: path_inside("output", self.folder, name) for name in self.kept}
        for name, target in targets.items():
            is_checkpoint = name.startswith(f"{run_folder.CHECKPOINTS}/")
            if is_checkpoint and str(pathlib.PurePosixPath(name).with_name(checkpoints.SUMS)) not in self.kept:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            self.store.get_file(f"{self.root}/{name}", str(target))
            self.kept[name] = _state(target)

    def push(self) -> None:
        """Removes in the store what is gone in the folder, then copies what is new or has changed."""
        here = {path.relative_to(self.folder).as_posix(): path for path in _files(self.folder)}
        for name in sorted(set(self.kept) - set(here), key=lambda name: not name.endswith(LAST)):
            self.store.rm_file(f"{self.root}/{name}")
            del self.kept[name]
        for name in sorted(here, key=lambda name: (name.endswith(LAST), name)):
            state = _state(here[name])
            if self.kept.get(name) != state:
                self.store.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
                self.store.put_file(str(here[name]), f"{self.root}/{name}")
                self.kept[name] = state


def _files(folder):
    """Yields the files in a folder, and in those within, but for what is half written."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif not is_aside(path):
            yield from _files(path)


def _state(path):
    status = path.stat()
    return status.st_size, status.st_mtime_ns
