"""The store: a file by its URL and hash, whole or not at all. This file imports no Keras."""

import functools
import os
import pathlib
import urllib.parse
import zipfile
import zlib
from dataclasses import dataclass

from keras_preact import bounds
from keras_preact.errors import argument_error
from keras_preact.files import DOWNLOAD, file_digest, written_aside
from keras_preact.types import PathLike
from keras_preact.weights.download import Progress, download, read_on, show_progress

PLACE = "KERAS_PREACT_WEIGHTS"
HASHES = {"md5": 32, "sha1": 40, "sha256": 64}  # hexadecimal digits


@dataclass(frozen=True)
class Remote:
    """Says where a file lies and how it is known again.

    Attributes:
        url: Its address.
        digest: Its hash, as `sha256:...`, `sha1:...` or `md5:...`, whichever its author published.
        limit: The most bytes that are read.
        member: If `url` is a zip archive, the name in it of the file, whose hash `digest` is.
        file: What a folder or a mirror calls it; the last part of `url` if None.
        is_mirrored: Whether the folder or the mirror `KERAS_PREACT_WEIGHTS` has it, where that is set.
    """

    url: str
    digest: str
    limit: int
    member: str | None = None
    file: str | None = None
    is_mirrored: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", check_digest(self.digest))

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which a folder or a mirror may hold it: as downloaded, and taken out of its archive."""
        name = self.file or urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1]
        return (name,) if self.member is None else (name, self.member)


def check_digest(digest: str) -> str:
    """Returns `digest` in small letters, as `sha256:...`, `sha1:...` or `md5:...`; a `ValueError` if it is none."""
    algorithm, _, digits = str(digest).lower().partition(":")
    if HASHES.get(algorithm) != len(digits) or set(digits) - set("0123456789abcdef"):
        expected = '"sha256:" and 64 hexadecimal digits (or "sha1:" and 40, "md5:" and 32)'
        raise argument_error("digest", expected, digest)
    return f"{algorithm}:{digits}"


def keras_home() -> pathlib.Path:
    """Returns Keras' folder: `KERAS_HOME` if that is set, else `~/.keras`; it need not exist."""
    return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()


def cache_folder() -> pathlib.Path:
    """Returns the folder of downloads, in Keras' own; it need not exist."""
    return keras_home() / "keras_preact"


def chosen_place(place: PathLike | None = None) -> PathLike | None:
    """Returns where to look first, a folder or the URL of a mirror's: `place`, else `KERAS_PREACT_WEIGHTS`, or None."""
    return place or os.environ.get(PLACE) or None


def is_mirror(place: PathLike) -> bool:
    """Returns whether `place` is a URL; if not, it is a folder."""
    return str(place).startswith(("http://", "https://"))


def fetch(
    remote: Remote,
    path: PathLike,
    place: PathLike | None = None,
    timeout: float = 30.0,
    tries: int = 3,
    pause: float = 1.0,
    slowest: int = bounds.SLOWEST,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Writes the file that `remote` names to `path`, once its hash is right; several processes may do so at once.

    A connection that is cut, stalls or is too slow is taken up again where it ended, if the server can, else from the
    start; so is one whose server gives no length, if what came is not the file.

    Args:
        remote: A `Remote`.
        path: Where to; it appears by a rename within its folder, whole, and is replaced if it exists.
        place: A folder, or the URL of a mirror's folder, to take it from; `KERAS_PREACT_WEIGHTS` if None.
        timeout: Seconds without an answer or a byte after which a try ends.
        tries: How often to try.
        pause: Seconds before the second try; twice as long before every further one.
        slowest: Bytes a minute that a try must bring on the whole, after the first `timeout` seconds.
        progress: A function of (bytes so far, bytes in all or None); draws a line on a terminal if None.

    Returns:
        `path`, a `pathlib.Path`.

    Raises:
        ValueError: If what is found is not the file: another hash, too large, no such address, no such archive.
        ConnectionError: If it cannot be reached, or every try is cut.
    """
    path = pathlib.Path(path)
    source = _source(remote, place)
    with written_aside(path) as aside:
        found = source
        if isinstance(source, str):
            found = aside.with_name(DOWNLOAD)
            is_whole = functools.partial(_is_whole, remote)
            progress = progress or show_progress
            problem = download(source, found, remote.limit, is_whole, timeout, tries, pause, slowest, progress)
            if problem:
                hint = f" Or download it elsewhere, put it into a folder, and set {PLACE} to that folder."
                problem = f"{source} could not be read in {tries} tries: {problem}."
                raise ConnectionError(problem + hint * remote.is_mirrored)
        if remote.member is not None and pathlib.Path(found).name != remote.member:
            _take_out(found, remote, aside)
        else:
            with open(found, "rb") as file:
                _copy(file, aside, remote.limit)
        _check_hash(aside, remote.digest, source)
    return path


def _source(remote, place):
    """Returns what to read: a URL, or the `Path` of a file in the folder `place`."""
    argument = "place" if place else PLACE
    if not remote.is_mirrored or (place := chosen_place(place)) is None:
        return remote.url
    if is_mirror(place):
        return f"{str(place).rstrip('/')}/{remote.names[0]}"
    for name in remote.names:
        if (pathlib.Path(place) / name).is_file():
            return pathlib.Path(place) / name
    raise argument_error(argument, f"a folder that holds {' or '.join(remote.names)}", str(place))


def _copy(source, path, limit):
    with open(path, "wb") as file:
        read_on(source.read, file, None, limit, path)


def _take_out(archive, remote, path):
    """Writes the file that a zip archive holds to `path`. No name in the archive is ever used as a path."""
    try:
        with zipfile.ZipFile(archive) as bundle:
            names = bundle.namelist()
            strange = [
                name for name in names if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")
            ]
            if strange:
                raise argument_error("file", "an archive whose names stay in their folder", strange[0])
            if remote.member not in names:
                raise argument_error("file", f"an archive that holds {remote.member}", names)
            with bundle.open(remote.member) as file:
                _copy(file, path, remote.limit)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise argument_error("file", "a whole zip archive", str(archive), _looks_like(archive)) from error


def _is_whole(remote, path):
    """Returns whether a download is what `remote` names, as far as that is known before an archive is opened."""
    if remote.member is not None:
        return zipfile.is_zipfile(path)
    return file_digest(path, remote.digest) == remote.digest


def _check_hash(path, digest, source):
    if (found := file_digest(path, digest)) != digest:
        hint = f"Of {source}. {_looks_like(path)}".strip()
        raise argument_error("file", f"one whose hash is {digest}", found, hint)


def _looks_like(path):
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    return "It is a web page." if start.startswith((b"<!doctype", b"<html")) else ""
