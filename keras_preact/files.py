"""Files that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile


@contextlib.contextmanager
def written_aside(path):
    """Yields a path in the same folder to write to; renames it to `path` at the end, or removes it on an error.

    The yielded path has the name of `path`, in a temporary folder, so that endings like `.weights.h5` stay. A folder
    is written and renamed the same way.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield aside / path.name
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(aside / path.name, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(path, text):
    """Writes `text` to `path`, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
