"""Names from cards, data sets and object stores as names of files: made safe, or refused. No other file makes any.

Commands, too, are named here, as a person would type them.
"""

import pathlib
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from keras_preact import bounds
from keras_preact.errors import argument_error

REGISTERED = re.compile(r"[a-z][a-z0-9_]{0,39}")  # what is registered: it becomes a part of names of files
ALLOWED = "-_.+=,() "  # beside letters and digits of any script
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, ends of lines and paragraphs


def safe_name(text: object, limit: int = bounds.NAME_BYTES) -> str:
    """Returns `text` as a part of a file's name: no separator, no leading dot, at most `limit` bytes, never empty."""
    plain = "".join(letter if letter.isalnum() or letter in ALLOWED else "_" for letter in str(text))
    cut = plain.encode()[:limit].decode(errors="ignore").strip(" ")
    return f"_{cut[1:]}" if cut.startswith(".") or not cut else cut


def dotted_name(*parts: object) -> str:
    """Returns names, made safe and without dots, with a dot between each two: `<network>.<data set>.<recipe>`."""
    limit = bounds.NAME_BYTES // len(parts) - 1
    return ".".join(safe_name(part, limit).replace(".", "_") for part in parts)


def check_name(argument: str, name: object) -> str:
    """Returns `name` if it can be a part of a file's name as it is, else raises a `ValueError`."""
    if isinstance(name, str) and safe_name(name) == name:
        return name
    expected = f"a name of letters, digits and {ALLOWED.strip()} that begins with no dot"
    raise argument_error(argument, f"{expected}, of {bounds.NAME_BYTES} bytes at most", name)


def add_row(argument: str, name: str, row: Any, table: dict[str, Any]) -> bool:
    """Puts a row into a table of what has names; returns whether it is new.

    Args:
        argument: What takes such names, e.g. `recipe`.
        name: The row's.
        row: Anything that can be compared.
        table: A dict.

    Raises:
        ValueError: If the name is not allowed, or another row has it.
    """
    if not isinstance(name, str) or not REGISTERED.fullmatch(name):
        raise argument_error("name", "1 to 40 small letters, digits and underscores, a letter first", name)
    if name in table and table[name] != row:
        hint = "Choose another name, or start Python anew to change what has it."
        raise argument_error("name", f"one that no other {argument} has", name, hint)
    is_new = name not in table
    table[name] = row
    return is_new


def path_inside(argument: str, folder: pathlib.Path, key: str) -> pathlib.Path:
    """Returns the path in `folder` that `key`, names with `/` between them, stands for; a `ValueError` if it is none.

    Args:
        argument: What is named if it is refused.
        folder: A `pathlib.Path`.
        key: A key of an object store, below the run's own.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") or "\\" in part or not _is_line(part) for part in parts):
        raise argument_error(argument, "a folder whose keys are names of files in it", key)
    return folder.joinpath(*parts)


def check_lines(argument: str, names: Iterable[object]) -> list[str]:
    """Returns names as a list of strings; a `ValueError` names the first that is not one line of text."""
    lines = [str(name) for name in names]
    if wrong := [line for line in lines if not line.strip() or not _is_line(line)]:
        raise argument_error(argument, "names of one line, of text alone", wrong[0])
    return lines


def command_line(arguments: Sequence[str]) -> str:
    """Returns a command, as `sys.argv` has it, as a line for a shell: its program by name alone, or `keras-preact`."""
    program = pathlib.PurePath(arguments[0])
    name = "keras-preact" if program.parts[-2:] == ("keras_preact", "__main__.py") else program.name
    return " ".join([name, *map(shlex.quote, arguments[1:])])


def _is_line(text):
    return not any(unicodedata.category(letter) in NO_TEXT for letter in text)
