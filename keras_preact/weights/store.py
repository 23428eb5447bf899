"""The store: a file by its URL and hash, whole or not at all. This file imports no Keras."""

import hashlib
import http.client
import os
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass

from keras_preact.errors import argument_error
from keras_preact.files import DOWNLOAD, written_aside

PLACE = "KERAS_PREACT_WEIGHTS"
CHUNK = 1 << 18
BUSY = (408, 429)  # request timeout, too many requests: the file may well be there
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
    """

    url: str
    digest: str
    limit: int
    member: str | None = None
    file: str | None = None

    def __post_init__(self):
        check_digest(self.digest)

    @property
    def names(self):
        """The names under which a folder or a mirror may hold it: as downloaded, and taken out of its archive."""
        name = self.file or urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1]
        return (name,) if self.member is None else (name, self.member)


def check_digest(digest):
    """Returns `digest`, as `sha256:...`, `sha1:...` or `md5:...`; raises a `ValueError` if it is none."""
    kind, _, digits = str(digest).partition(":")
    if HASHES.get(kind) != len(digits) or set(digits) - set("0123456789abcdef"):
        expected = '"sha256:" and 64 hexadecimal digits (or "sha1:" and 40, "md5:" and 32)'
        raise argument_error("digest", expected, digest)
    return digest


def cache_folder():
    """Returns the folder of downloads, in `KERAS_HOME` if that is set, else in `~/.keras`; it need not exist."""
    home = os.environ.get("KERAS_HOME")
    return (pathlib.Path(home) if home else pathlib.Path.home() / ".keras") / "keras_preact"


def chosen_place(place=None):
    """Returns where to look first, a folder or the URL of a mirror's: `place`, else `KERAS_PREACT_WEIGHTS`, or None."""
    return place or os.environ.get(PLACE) or None


def is_mirror(place):
    """Returns whether `place` is a URL; if not, it is a folder."""
    return str(place).startswith(("http://", "https://"))


def fetch(remote, path, place=None, timeout=30.0, tries=3, pause=1.0, progress=None):
    """Writes the file that `remote` names to `path`, once its hash is right; several processes may do so at once.

    A connection that is cut or stalls is taken up again where it ended, if the server can, else from the start.

    Args:
        remote: A `Remote`.
        path: Where to; it appears by a rename within its folder, whole, and is replaced if it exists.
        place: A folder, or the URL of a mirror's folder, to take it from; `KERAS_PREACT_WEIGHTS` if None.
        timeout: Seconds without an answer or a byte after which a try ends.
        tries: How often to try.
        pause: Seconds before the second try; twice as long before every further one.
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
            _download(source, found, remote.limit, timeout, tries, pause, progress or show_progress)
        if remote.member is not None and pathlib.Path(found).name != remote.member:
            _take_out(found, remote, aside)
        else:
            with open(found, "rb") as file:
                _copy(file, aside, remote.limit)
        _check_hash(aside, remote.digest, source)
    return path


def _source(remote, place):
    """Returns what to read: a URL, or the `Path` of a file in the folder `place`."""
    place = chosen_place(place)
    if place is None:
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
            raise ValueError(f"{req.full_url} leads to {newurl}, which is not encrypted.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url, path, limit, timeout, tries, pause, progress):
    """Reads `url` into the file `path`, which may then hold anything up to `limit` bytes."""
    opener, problem, tag = urllib.request.build_opener(_NoDowngrade), "", None
    with open(path, "wb") as file:
        for attempt in range(tries):
            time.sleep(pause * 2 ** (attempt - 1) if attempt else 0)
            request = urllib.request.Request(url, headers={"User-Agent": "keras_preact"})
            if file.tell() and tag:
                request.add_header("Range", f"bytes={file.tell()}-")
                request.add_header("If-Range", tag)
            try:
                with opener.open(request, timeout=timeout) as answer:
                    if answer.status != 206:
                        file.seek(0)
                        file.truncate()
                    tag = answer.headers.get("ETag")
                    total = _total(answer, file.tell(), limit, url)
                    _read(answer, file, total, limit, url, progress)
                if total in (None, file.tell()):
                    return
                problem = f"the connection ended after {file.tell():,} of {total:,} bytes"
            except urllib.error.HTTPError as error:
                problem = f"the server answered {error.code} {error.reason}"
                if error.code < 500 and error.code not in BUSY:
                    raise argument_error("url", "an address that exists", url, f"There {problem}.") from error
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
    hint = f"Or download it elsewhere, put it into a folder, and set {PLACE} to that folder."
    raise ConnectionError(f"{url} could not be read in {tries} tries: {problem}. {hint}")


def _total(answer, start, limit, url):
    """Returns how many bytes the file has, as the server says, or None; raises a `ValueError` if too many."""
    length = answer.headers.get("Content-Length") or ""
    total = start + int(length) if length.isdecimal() else None
    if total is not None and total > limit:
        raise argument_error("url", f"the address of a file of {limit:,} bytes at most", url, f"It has {total:,}.")
    return total


def _read(source, file, total, limit, name, progress=None):
    while chunk := source.read(CHUNK):
        if file.tell() + len(chunk) > limit:
            raise argument_error("file", f"of {limit:,} bytes at most", str(name))
        file.write(chunk)
        if progress is not None:
            progress(file.tell(), total)


def _copy(source, path, limit):
    with open(path, "wb") as file:
        _read(source, file, None, limit, path)


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


def _check_hash(path, digest, source):
    kind, _, expected = digest.partition(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != expected:
        raise argument_error(
            "file", f"one whose {kind} is {expected}", found, f"Of {source}. {_looks_like(path)}".strip()
        )


def _looks_like(path):
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
    return "It is a web page." if start.startswith((b"<!doctype", b"<html")) else ""


def show_progress(done, total):
    """Draws how much has come, on one line of a terminal; nothing where standard error is none."""
    if sys.stderr.isatty():
        share = f" of {total / 1e6:.1f}" if total else ""
        print(f"\r{done / 1e6:8.1f}{share} MB", end="\n" if done == total else "", file=sys.stderr, flush=True)
