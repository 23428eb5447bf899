"""The store against a server on this machine: the right file, or a sentence in time, and never half a file."""

import functools
import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile

import pytest

import keras_preact
from keras_preact.data import cifar
from keras_preact.weights import download, store

CONTENT = bytes(range(256)) * 4000
SHA1 = "sha1:" + hashlib.sha1(CONTENT).hexdigest()
MEMBER = "inside.h5"
# Without Keras, whose import takes seconds: the package's own __init__ imports it, so a bare package stands in.
CHILD = """
import sys, types
package = types.ModuleType("keras_preact")
package.__path__ = [sys.argv[1]]
sys.modules["keras_preact"] = package
from keras_preact.data import cifar
from keras_preact.weights import store
assert not {"keras", "tensorflow", "h5py"} & set(sys.modules)
store.fetch(store.Remote(sys.argv[2], sys.argv[3], 10**7), sys.argv[4], timeout=20.0)
"""


def zipped(names, content=CONTENT):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each path as its name says; `server.requests` notes (path, Range) of every request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        getattr(self, self.path.strip("/").split(".")[0])()

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def whole(self):
        self.send(CONTENT)

    def zip(self):
        self.send(zipped([MEMBER]))

    def outside(self):
        self.send(zipped([MEMBER, "../escaped", "/absolute"]))

    def other(self):
        self.send(zipped(["other.h5"]))

    def page(self):
        self.send(b"<!DOCTYPE html><html>Sign in</html>")

    def missing(self):
        self.send(b"", 404)

    def moved(self):
        self.send(b"", 302, Location="/whole")

    def busy(self):
        first = len(self.server.requests) == 1
        self.send(b"" if first else CONTENT, 503 if first else 200)

    def crowded(self):
        first = len(self.server.requests) == 1
        self.send(b"" if first else CONTENT, 429 if first else 200)

    def unmeasured(self):
        """Says nonsense of its length."""
        self.send(CONTENT, length="many")
        self.close_connection = True

    def resumes(self):
        """Ends after half of the file; a request for the rest gets it."""
        asked = self.headers.get("Range")
        if asked is None:
            self.send(CONTENT[: len(CONTENT) // 2], length=len(CONTENT), ETag='"one"')
            self.close_connection = True
        else:
            assert self.headers.get("If-Range") == '"one"'
            self.part(self.asked())

    def asked(self):
        """The first byte that was asked for, None for the whole file."""
        asked = self.headers.get("Range")
        return asked and int(asked.removeprefix("bytes=").removesuffix("-"))

    def part(self, start, given=None):
        """Sends the file from `start` on, which is said to be from `given` on."""
        span = f"bytes {start if given is None else given}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self.send(CONTENT[start:], 206, ETag='"one"', **{"Content-Range": span})

    def half(self):
        self.send(CONTENT[: len(CONTENT) // 2], length=len(CONTENT), ETag='"one"')
        self.close_connection = True

    def unsatisfied(self):
        """Ends after half of the file once, and knows nothing of the rest: 416."""
        if len(self.server.requests) == 1:
            self.half()
        elif self.asked() is not None:
            self.send(b"", 416, **{"Content-Range": "bytes */10"})
        else:
            self.whole()

    def elsewhere(self):
        """Ends after half of the file once, and sends another part than was asked for."""
        if len(self.server.requests) == 1:
            self.half()
        elif self.asked() is not None:
            self.part(self.asked() - 1000)
        else:
            self.whole()

    def unsaid(self):
        """Ends after half of the file once, and does not say what part it sends."""
        if len(self.server.requests) == 1:
            self.half()
        elif self.asked() is not None:
            self.send(CONTENT[1000:], 206, ETag='"one"')
        else:
            self.whole()

    def uninvited(self):
        """Sends a part to who asked for the whole, once."""
        if len(self.server.requests) == 1:
            self.part(1000)
        else:
            self.whole()

    def lengthless(self, body=CONTENT):
        """Says nothing of the length, and ends after half of the file at the first request."""
        first = len(self.server.requests) == 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if first else body)
        self.close_connection = True

    def lengthless_zip(self):
        self.lengthless(zipped([MEMBER]))

    def lengthless_page(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Sign in</html>")
        self.close_connection = True

    def drips(self):
        """A byte now and then, too often for a timeout."""
        self.send(b"", length=len(CONTENT), ETag='"one"')
        self.drip(CONTENT)

    def drips_once(self):
        """The same at the first request only."""
        if len(self.server.requests) == 1:
            self.drips()
        else:
            self.part(self.asked())

    def drips_headers(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.drip(b"x" * 10_000)

    def drip(self, content):
        self.close_connection = True
        for start in range(len(content)):
            if self.server.stop.wait(0.05):
                return
            try:
                self.wfile.write(content[start : start + 1])
            except OSError:
                return

    def broken(self):
        self.wfile.write(b"\x1b]0;owned\x07\x1b[31mno status line\r\n\r\n")
        self.close_connection = True

    def coloured(self):
        self.wfile.write(b"HTTP/1.1 404 \x1b[31mred\x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n")
        self.close_connection = True

    def restarts(self):
        """Ends after half of the file once, and knows no ranges."""
        first = len(self.server.requests) == 1
        self.send(CONTENT[: len(CONTENT) // 2] if first else CONTENT, length=len(CONTENT), ETag='"two"')
        self.close_connection = True

    def truncated(self):
        self.send(CONTENT[:1000], length=len(CONTENT))
        self.close_connection = True

    def stalls(self):
        self.send(CONTENT[:1000], length=len(CONTENT))
        self.wfile.flush()
        self.server.stop.wait(20)

    def endless(self):
        """Says nothing of its length."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.server.stop.is_set():
            try:
                self.wfile.write(bytes(1 << 16))
            except OSError:
                return


@pytest.fixture
def server(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):  # the machine may have a proxy
        monkeypatch.setenv(name, "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.requests, running.stop = [], threading.Event()
        running.url = f"http://127.0.0.1:{running.server_address[1]}"
        thread = threading.Thread(target=functools.partial(running.serve_forever, poll_interval=0.02))
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


def fetch(server, name, path, digest=SHA1, limit=10**7, **options):
    member = MEMBER if name in ("zip", "outside", "other", "lengthless_zip") else None
    remote = store.Remote(f"{server.url}/{name}", digest, limit, member)
    return store.fetch(remote, path, **{"timeout": 5.0, "pause": 0.0, **options})


@pytest.mark.parametrize("name", ["whole", "zip", "moved", "busy", "crowded", "unmeasured", "resumes", "restarts"])
def test_what_arrives_is_the_file_to_the_byte_and_alone(name, server, tmp_path):
    assert fetch(server, name, tmp_path / "to" / "file.h5").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.rglob("*")] == ["to", "file.h5"]
    ranges = [asked for _, asked in server.requests if asked]
    assert ranges == ([f"bytes={len(CONTENT) // 2}-"] if name in ("resumes", "restarts") else [])


@pytest.mark.parametrize("name", ["unsatisfied", "elsewhere", "unsaid", "uninvited", "lengthless", "lengthless_zip"])
def test_what_is_no_rest_of_the_file_is_read_from_the_start(name, server, tmp_path):
    assert fetch(server, name, tmp_path / "file.h5").read_bytes() == CONTENT
    asked = [asked for _, asked in server.requests]
    resumed = [None, f"bytes={len(CONTENT) // 2}-", None]
    assert asked == (resumed if name in ("unsatisfied", "elsewhere", "unsaid") else [None, None])


@pytest.mark.parametrize("name", ["drips", "drips_headers"])
def test_a_server_that_is_too_slow_on_the_whole_is_left_though_no_wait_is_long(name, server, tmp_path):
    start = time.perf_counter()
    with pytest.raises(ConnectionError, match=r"2 tries: it brought less than 600,000 bytes a minute"):
        fetch(server, name, tmp_path / "file.h5", timeout=0.5, tries=2)
    assert time.perf_counter() - start < 4.0
    assert list(tmp_path.iterdir()) == []


def test_what_came_too_slowly_is_kept_and_gone_on_from(server, tmp_path):
    assert fetch(server, "drips_once", tmp_path / "file.h5", timeout=0.5).read_bytes() == CONTENT
    (_, first), (_, second) = server.requests
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) < 100


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("broken", ConnectionError, r"\\x1b\]0;owned\\x07\\x1b\[31mno status line"),
        ("coloured", ValueError, r"404 \\x1b\[31mred\\x1b\]0;owned\\x07"),
    ],
)
def test_no_byte_of_a_server_is_obeyed_by_a_terminal(name, error, message, server, tmp_path):
    with pytest.raises(error, match=message) as raised:
        fetch(server, name, tmp_path / "file.h5")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("whole", {"digest": "sha256:" + "0" * 64}, ValueError, "file.*hash is sha256:0000.*Received.*sha256:.*whole"),
        ("page", {}, ValueError, "file.*hash is sha1:.*It is a web page"),
        ("lengthless_page", {}, ValueError, "file.*hash is sha1:.*It is a web page"),
        ("missing", {}, ValueError, "address that exists.*404"),
        ("truncated", {"tries": 2}, ConnectionError, "2 tries: the connection ended after .* of 1,024,000 bytes"),
        ("stalls", {"timeout": 0.3, "tries": 2}, ConnectionError, "2 tries.*timed out"),
        ("outside", {}, ValueError, r"names stay in their folder.*\.\./escaped"),
        ("other", {}, ValueError, r"archive that holds inside.h5.*other.h5"),
        ("whole", {"limit": 1000}, ValueError, "1,000 bytes at most.*It has 1,024,000"),
        ("endless", {"limit": 10**6}, ValueError, "1,000,000 bytes at most"),
        ("zip", {"limit": 10**5}, ValueError, "100,000 bytes at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_anything_else_is_refused_with_a_sentence_and_leaves_nothing(name, options, error, message, server, tmp_path):
    path = tmp_path / "file.h5"
    path.write_bytes(b"before")
    start = time.perf_counter()
    with pytest.raises(error, match=message):
        fetch(server, name, path, **options)
    assert time.perf_counter() - start < 4.0
    assert [each.name for each in tmp_path.rglob("*")] == ["file.h5"]
    assert path.read_bytes() == b"before"


def test_nothing_that_answers_is_named_with_a_way_out(server, tmp_path):
    server.url = "http://127.0.0.1:9"
    with pytest.raises(ConnectionError, match=r"127.0.0.1:9/whole.*refused.*KERAS_PREACT_WEIGHTS"):
        fetch(server, "whole", tmp_path / "file.h5")


def test_no_redirect_leads_from_https_to_http():
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(ValueError, match="not encrypted"):
        download._NoDowngrade().redirect_request(request, None, 302, "", {}, "http://example.org/b")


def test_four_processes_at_once_end_with_one_whole_file(server, tmp_path):
    package = os.path.dirname(keras_preact.__file__)
    arguments = [sys.executable, "-c", CHILD, package, f"{server.url}/whole", SHA1, str(tmp_path / "file.h5")]
    children = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(4)]
    for child in children:
        assert child.communicate()[1] == b""
        assert child.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file.h5"]
    assert (tmp_path / "file.h5").read_bytes() == CONTENT


@pytest.mark.parametrize("is_argument", [True, False])
def test_a_mirror_or_a_folder_stands_in_for_the_address(is_argument, server, tmp_path, monkeypatch):
    remote = store.Remote("http://nowhere.invalid/path/zip", SHA1, 10**7, MEMBER)
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "zip").write_bytes(zipped([MEMBER]))
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / MEMBER).write_bytes(CONTENT)
    for place in (f"{server.url}/", str(tmp_path / "zipped"), str(tmp_path / "plain")):
        if not is_argument:
            monkeypatch.setenv("KERAS_PREACT_WEIGHTS", place)
        path = store.fetch(remote, tmp_path / "file.h5", place if is_argument else None)
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_a_folder_is_verified_too_and_an_empty_one_is_named(tmp_path, monkeypatch):
    remote = store.Remote("http://nowhere.invalid/file.bin", SHA1, 10**7)
    (tmp_path / "file.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="hash is sha1:"):
        store.fetch(remote, tmp_path / "to.h5", tmp_path)
    with pytest.raises(ValueError, match=r"`place` must be a folder that holds file.bin.*nothing"):
        store.fetch(remote, tmp_path / "to.h5", tmp_path / "nothing")
    monkeypatch.setenv("KERAS_PREACT_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"`KERAS_PREACT_WEIGHTS` must be a folder that holds file.bin.*nothing"):
        store.fetch(remote, tmp_path / "to.h5")


@pytest.mark.parametrize("digest", ["sha1:12", "sha512:" + "0" * 128, "0" * 40, None, "sha1:" + "g" * 40])
def test_a_hash_that_is_none_is_refused(digest):
    with pytest.raises(ValueError, match=r"digest.*sha256"):
        store.Remote("http://127.0.0.1/", digest, 1)


def test_a_hash_may_be_in_capital_letters_as_powershell_prints_it(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    remote = store.Remote("http://nowhere.invalid/file.bin", SHA1.upper(), 10**7)
    assert remote.digest == SHA1
    assert store.fetch(remote, tmp_path / "to.h5", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("url", "proxy", "bypassed", "expected"),
    [
        ("https://a.test/file", "", "", ("a.test", 443)),
        ("http://a.test/file", "", "", ("a.test", 80)),
        ("http://a.test:8080/file", "", "", ("a.test", 8080)),
        ("https://a.test/file", "http://proxy.test:3128", "", ("proxy.test", 3128)),
        ("https://a.test/file", "http://me:secret@proxy.test:3128/", "", ("proxy.test", 3128)),
        ("https://a.test/file", "proxy.test:3128", "", ("proxy.test", 3128)),
        ("https://a.test/file", "proxy.test", "", ("proxy.test", 443)),
        ("https://a.test/file", "http://proxy.test", "", ("proxy.test", 443)),
        ("http://a.test/file", "http://proxy.test", "", ("proxy.test", 80)),
        ("http://a.test/file", "[::1]:3128", "", ("::1", 3128)),
        ("https://a.test/file", "proxy.test:3128", "b.test,.test", ("a.test", 443)),
        ("https://a.test/file", "proxy.test:3128", "b.test", ("proxy.test", 3128)),
    ],
)
def test_what_is_tried_is_what_a_download_connects_to(url, proxy, bypassed, expected, monkeypatch):
    for name, value in (("http_proxy", proxy), ("https_proxy", proxy), ("no_proxy", bypassed)):
        monkeypatch.setenv(name, value)
    tried = []

    def connect(address, *arguments, **options):
        tried.append(address)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not download.is_reachable(url)
    with pytest.raises(OSError, match="urlopen"), download.watched(lambda: 0, 5.0, 1) as opener:
        opener.open(url)
    assert tried == [expected, expected]


def test_a_proxy_that_is_none_is_not_reached(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.test:many")
    assert not download.is_reachable("https://a.test/file")


def test_the_cache_is_in_kerass_home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert store.cache_folder() == tmp_path / "home" / "keras_preact"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("home", ["", None, "~/.keras"])
def test_kerass_home_is_one_folder_for_weights_and_data(home, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("KERAS_HOME", home)
    assert store.cache_folder() == tmp_path / ".keras" / "keras_preact"
    assert cifar.default_folders()[-1] == tmp_path / ".keras" / "datasets"


@pytest.mark.parametrize("folder", ["", None, "~/tensorflow_datasets"])
def test_tfdss_folder_is_its_own_unless_another_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    if folder is not None:
        monkeypatch.setenv("TFDS_DATA_DIR", folder)
    assert cifar.default_folders()[0] == tmp_path / "tensorflow_datasets"


def test_a_file_that_is_begun_anew_is_not_too_slow_for_what_it_had():
    done = [10**7]
    with download.watched(lambda: done[0], grace=0.2, slowest=600):
        done[0] = 0
        for _ in range(5):
            time.sleep(0.1)
            done[0] += 100
