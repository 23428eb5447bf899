"""The store: a file by its URL and hash, whole or not at all. This file imports no Keras."""

import contextlib
import functools
import hashlib
import http.client
import os
import pathlib
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from keras_preact import bounds
from keras_preact.errors import argument_error, printable
from keras_preact.files import DOWNLOAD, written_aside
from keras_preact.types import PathLike

PLACE = "KERAS_PREACT_WEIGHTS"
CHUNK = 1 << 18
CONNECT_SECONDS = 3.0
BUSY = (408, 429)  # request timeout, too many requests: the file may well be there
RANGE_REFUSED = 416
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
        check_digest(self.digest)

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which a folder or a mirror may hold it: as downloaded, and taken out of its archive."""
        name = self.file or urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1]
        return (name,) if self.member is None else (name, self.member)


def check_digest(digest: str) -> str:
    """Returns `digest`, as `sha256:...`, `sha1:...` or `md5:...`; raises a `ValueError` if it is none."""
    algorithm, _, digits = str(digest).partition(":")
    if HASHES.get(algorithm) != len(digits) or set(digits) - set("0123456789abcdef"):
        expected = '"sha256:" and 64 hexadecimal digits (or "sha1:" and 40, "md5:" and 32)'
        raise argument_error("digest", expected, digest)
    return digest


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
    progress: Callable[[int, int | None], object] | None = None,
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
            problem = _download(source, found, remote.limit, is_whole, timeout, tries, pause, slowest, progress)
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
    if not remote.is_mirrored or (place := chosen_place(place)) is None:
        return remote.url
    if is_mirror(place):
        return f"{str(place).rstrip('/')}/{remote.names[0]}"
    for name in remote.names:
        if (pathlib.Path(place) / name).is_file():
            return pathlib.Path(place) / name
    raise argument_error(PLACE, f"a folder that holds {' or '.join(remote.names)}", str(place))


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and not newurl.startswith("https://"):
            raise ValueError(f"{req.full_url} leads to {printable(newurl)}, which is not encrypted.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _StartOver(Exception):
    """Says why what has been read so far is of no use."""


class _Transfer:
    """Holds a file that is read from a URL, in as many tries as it takes.

    Args:
        url: Where from.
        file: An open file, which may then hold anything up to `limit` bytes.
        limit: The most bytes that are read.
        is_whole: A function that returns whether the file is all there, asked where the server gives no length.
        progress: A function of (bytes so far, bytes in all or None).
    """

    def __init__(self, url, file, limit, is_whole, progress):
        self.url, self.file, self.limit, self.is_whole, self.progress = url, file, limit, is_whole, progress
        self.tag: str | None = None
        self.ended: int | None = None

    def attempt(self, timeout, slowest):
        """Reads to the end, from where the try before ended if the server can; returns why it failed, "" if not."""
        request = urllib.request.Request(self.url, headers={"User-Agent": "keras_preact"})
        resumes = bool(self.file.tell() and self.tag)
        if resumes and self.tag:
            request.add_header("Range", f"bytes={self.file.tell()}-")
            request.add_header("If-Range", self.tag)
        else:
            self.start_over()
        try:
            with watched(self.file.tell, timeout, slowest) as opener, opener.open(request, timeout=timeout) as answer:
                return self._read(answer, resumes)
        except _StartOver as error:
            self.start_over()
            return str(error)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, resumes)
        except (OSError, http.client.HTTPException) as error:
            return str(getattr(error, "reason", error)) or type(error).__name__

    def start_over(self):
        """Forgets what has been read."""
        self.file.seek(0)
        self.file.truncate()
        self.tag = None

    def _read(self, answer, resumes):
        if answer.status == 206:
            self._check_range(answer.headers.get("Content-Range") or "", resumes)
        else:
            self.start_over()
        self.tag = answer.headers.get("ETag")
        total = _total(answer, self.file.tell(), self.limit, self.url)
        _read(answer.read1, self.file, total, self.limit, self.url, self.progress)
        if total not in (None, self.file.tell()):
            return f"the connection ended after {self.file.tell():,} of {total:,} bytes"
        before, self.ended = self.ended, self.file.tell()
        if total is None and self.ended != before and not self.is_whole():  # what ends twice at one byte was not cut
            raise _StartOver(f"the connection ended after {self.ended:,} bytes, which are not the file")
        return ""

    def _check_range(self, given, resumes):
        """Raises a `_StartOver` unless a part of the file is the one that was asked for."""
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", given)
        if not resumes or found is None or int(found[1]) != self.file.tell():
            asked = f"from byte {self.file.tell():,}" if resumes else "of the whole file"
            raise _StartOver(f'the server answered "{given}" where it was asked for the bytes {asked}')

    def _refused(self, error, resumes):
        problem = f"the server answered {error.code} {error.reason}"
        if error.code == RANGE_REFUSED and resumes:
            self.start_over()
        elif error.code < 500 and error.code not in BUSY:
            raise argument_error("url", "an address that exists", self.url, f"There {problem}.") from error
        return problem


def _download(url, path, limit, is_whole, timeout, tries, pause, slowest, progress):
    """Reads `url` into the file `path`, which may then hold anything up to `limit` bytes; returns why not, or ""."""
    with open(path, "wb") as file:

        def all_there():
            file.flush()
            return is_whole(path)

        transfer = _Transfer(url, file, limit, all_there, progress)
        for attempt in range(tries):
            time.sleep(pause * 2 ** (attempt - 1) if attempt else 0)
            if not (problem := transfer.attempt(timeout, slowest)):
                return ""
    return printable(" ".join(problem.split()))


def is_reachable(url: str) -> bool:
    """Returns whether a connection to the server, or to the proxy for it, opens within `CONNECT_SECONDS`."""
    address = urllib.parse.urlsplit(urllib.request.getproxies().get("https") or url)
    reached = threading.Event()

    def connect():
        with contextlib.suppress(OSError), socket.create_connection((address.hostname, address.port or 443)):
            reached.set()

    # In a thread, as looking a name up has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


@contextlib.contextmanager
def watched(done: Callable[[], int], grace: float, slowest: int) -> Iterator[urllib.request.OpenerDirector]:
    """Yields a urllib opener whose connections are shut down once they are too slow on the whole.

    A timeout starts again with every byte, also with those of headers: a server that sends one now and then would hold
    a reader for ever.

    Args:
        done: A function that returns the number of bytes that have come.
        grace: Seconds before the first of them must have.
        slowest: Bytes a minute that must come from then on.

    Raises:
        OSError: If that was the reason why what was done with the opener failed, or ended early.
    """
    connections: list[socket.socket] = []
    is_over, is_slow = threading.Event(), threading.Event()
    begun, before = time.monotonic(), done()

    def watch():
        while not is_over.wait(min(grace, 1.0) / 4):
            if time.monotonic() - begun > grace + 60 * (done() - before) / slowest:
                is_slow.set()
                for connection in connections:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield _opener(connections)
    except (OSError, http.client.HTTPException, _StartOver):
        if not is_slow.is_set():
            raise
    finally:
        is_over.set()
        watcher.join()
        for connection in connections:
            connection.close()
    if is_slow.is_set():
        raise OSError(f"it brought less than {slowest:,} bytes a minute")


def _opener(connections):
    """Returns a urllib opener that adds a second handle of each socket it opens to `connections`."""

    class Connection(http.client.HTTPConnection):
        def connect(self):
            super().connect()
            connections.append(self.sock.dup())

    class Encrypted(http.client.HTTPSConnection, Connection):  # its `connect` calls that of `Connection` first
        pass

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request):
            return self.do_open(Connection, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request):
            return self.do_open(Encrypted, request)

    return urllib.request.build_opener(_NoDowngrade, Http, Https)


def _total(answer, start, limit, url):
    """Returns how many bytes the file has, as the server says, or None; raises a `ValueError` if too many."""
    length = answer.headers.get("Content-Length") or ""
    total = start + int(length) if length.isdecimal() else None
    if total is not None and total > limit:
        raise argument_error("url", f"the address of a file of {limit:,} bytes at most", url, f"It has {total:,}.")
    return total


def _read(read, file, total, limit, name, progress=None):
    while chunk := read(CHUNK):
        if file.tell() + len(chunk) > limit:
            raise argument_error("file", f"of {limit:,} bytes at most", str(name))
        file.write(chunk)
        if progress is not None:
            progress(file.tell(), total)


def _copy(source, path, limit):
    with open(path, "wb") as file:
        _read(source.read, file, None, limit, path)


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
    algorithm, _, expected = remote.digest.partition(":")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest() == expected


def _check_hash(path, digest, source):
    algorithm, _, expected = digest.partition(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        raise argument_error(
            "file", f"one whose {algorithm} is {expected}", found, f"Of {source}. {_looks_like(path)}".strip()
        )


def _looks_like(path):
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    return "It is a web page." if start.startswith((b"<!doctype", b"<html")) else ""


def show_progress(done: int, total: int | None) -> None:
    """Draws how much has come, on one line of a terminal; nothing where standard error is none."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:.1f}" if total else ""
        print(f"\r{done / 1e6:8.1f}{share} MB", end="\n" if done == total else "", file=sys.stderr, flush=True)
