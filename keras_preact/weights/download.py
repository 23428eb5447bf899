"""A file read over HTTP, in as many tries as it takes. This file imports no Keras."""

import contextlib
import http.client
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeAlias

from keras_preact.errors import argument_error, printable
from keras_preact.types import PathLike

CHUNK = 1 << 18
CONNECT_SECONDS = 3.0
BUSY = (408, 429)  # request timeout, too many requests: the file may well be there
RANGE_REFUSED = 416

Progress: TypeAlias = Callable[[int, int | None], object]


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
        read_on(answer.read1, self.file, total, self.limit, self.url, self.progress)
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


def download(
    url: str,
    path: PathLike,
    limit: int,
    is_whole: Callable[[PathLike], bool],
    timeout: float,
    tries: int,
    pause: float,
    slowest: int,
    progress: Progress,
) -> str:
    """Reads `url` into the file `path`, which may then hold anything up to `limit` bytes; returns why not, or "".

    Args:
        url: Where from.
        path: Where to.
        limit: The most bytes that are read.
        is_whole: A function that returns whether the file at `path` is all there, asked where no length is given.
        timeout: Seconds without an answer or a byte after which a try ends.
        tries: How often to try.
        pause: Seconds before the second try; twice as long before every further one.
        slowest: Bytes a minute that a try must bring on the whole, after the first `timeout` seconds.
        progress: A function of (bytes so far, bytes in all or None).

    Raises:
        ValueError: If there is no such address, or its file is too large.
    """
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
    reached = threading.Event()

    def connect():
        # A ValueError is a proxy's whose port is no number.
        with contextlib.suppress(OSError, ValueError), socket.create_connection(_address(url)):
            reached.set()

    # In a thread, as looking a name up has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


def _address(url):
    """Returns (host, port) of what urllib connects to for a URL: its server, or the proxy for it.

    A port that is left out is that of the URL's scheme, as urllib takes it: 443 for `https:`, a proxy's also.
    """
    scheme, host = urllib.parse.urlsplit(url)[:2]
    proxy = urllib.request.getproxies().get(scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        url = proxy if "://" in proxy else f"{scheme}://{proxy}"
    address = urllib.parse.urlsplit(url)
    return address.hostname, address.port or (443 if "https" in (scheme, address.scheme) else 80)


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
        nonlocal before
        while not is_over.wait(min(grace, 1.0) / 4):
            before = min(before, done())  # a file that is begun anew counts from its start
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


def read_on(
    read: Callable[[int], bytes],
    file: BinaryIO,
    total: int | None,
    limit: int,
    name: PathLike,
    progress: Progress | None = None,
) -> None:
    """Adds to `file` what `read` returns, until that is nothing; raises a `ValueError` about `name` above `limit`."""
    while chunk := read(CHUNK):
        if file.tell() + len(chunk) > limit:
            raise argument_error("file", f"of {limit:,} bytes at most", str(name))
        file.write(chunk)
        if progress is not None:
            progress(file.tell(), total)


def show_progress(done: int, total: int | None) -> None:
    """Draws how much has come, on one line of a terminal; nothing where standard error is none."""
    if sys.stderr and sys.stderr.isatty():
        share = f" of {total / 1e6:.1f}" if total else ""
        print(f"\r{done / 1e6:8.1f}{share} MB", end="\n" if done == total else "", file=sys.stderr, flush=True)
