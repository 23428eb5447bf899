"""Files from the network, of a known SHA-256, after a quick look whether there is a network."""

import socket
import threading
import urllib.parse
import urllib.request

CONNECT_SECONDS = 3.0
STALL_SECONDS = 60.0


def download(url, sha256, folder):
    """Returns the path of the file at `url`, downloaded into `folder` unless it is there.

    Args:
        url: An https address.
        sha256: The file's SHA-256, in hexadecimal.
        folder: A `pathlib.Path`; made if it is not there.

    Raises:
        OSError: If the server is not reached in `CONNECT_SECONDS`, sends nothing for `STALL_SECONDS`, or sends
            something else.
    """
    import keras

    if not is_reachable(url):
        raise OSError(f"{urllib.parse.urlsplit(url).hostname} was not reached in {CONNECT_SECONDS:g} s")
    folder.mkdir(parents=True, exist_ok=True)  # Keras writes into /tmp if it is not there
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # Keras sets none
    try:
        return keras.utils.get_file(
            url.rsplit("/", 1)[-1], url, file_hash=sha256, cache_dir=folder.parent, cache_subdir=folder.name
        )
    except Exception as error:  # Keras raises a bare one for what the network does, and another for a wrong hash
        (folder / url.rsplit("/", 1)[-1]).unlink(missing_ok=True)  # Keras leaves a file of a wrong hash
        raise OSError(str(error)) from error
    finally:
        socket.setdefaulttimeout(before)


def is_reachable(url):
    """Returns whether a connection to the server, or to the proxy for it, opens within `CONNECT_SECONDS`."""
    address = urllib.parse.urlsplit(urllib.request.getproxies().get("https") or url)
    reached = threading.Event()

    def connect():
        try:
            with socket.create_connection((address.hostname, address.port or 443), timeout=CONNECT_SECONDS):
                reached.set()
        except OSError:
            pass

    # In a thread, as looking a name up has no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()
