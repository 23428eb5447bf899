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
    is written and renamed the same way. The one it replaces is moved to a hidden name beside it for that moment, and
    back if the renaming fails, so that a kill at any time leaves a whole folder.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield aside / path.name
        _replace(path, aside / path.name, aside.with_name(f"{aside.name}.replaced"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(path, new, old):
    """Renames `new` to `path`; a folder at `path`, which cannot be replaced in one step, is moved to `old` before."""
    if not path.is_dir():
        os.replace(new, path)
        return
    new.lstat()  # raises if nothing was written, while the old folder is still in its place
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_text(path, text):
    """Writes `text` to `path`, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
