"""The command line: `keras-preact <verb>`. The verbs are in `commands/`, each one call of a public function.

Only the module of the verb that is asked for is imported, and Keras only for verbs that compute.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from keras_preact.errors import ParityError, argument_error, check_choice, printable
from keras_preact.training.signals import EndingSignals, status
from keras_preact.version import __version__

ABOUT = "Pre-activation ResNets of 11 to 1001 layers (He et al. 2016) for Keras 3."
HELP = {"-h", "--help", "help"}
ENDED = "It was ended by this signal."
BROKEN_PIPE = 141  # the exit status of a program whose reader went: 128 + SIGPIPE


class Verb(NamedTuple):
    """Says where a verb is, what it does (the first line of its function's docstring), and whether it needs Keras."""

    module: str
    function: str
    summary: str
    computes: bool = True


VERBS = {
    "train": Verb(
        "runs", "train_command", "Trains a network and writes a run folder: model, SavedModel, card, history, curves."
    ),
    "launch": Verb(
        "runs",
        "launch",
        "Runs `keras-preact COMMAND...` as several local workers of one job; if one dies, all start again.",
        computes=False,
    ),
    "finetune": Verb(
        "transfer",
        "finetune",
        "Trains a trained network on other images: a new head, and as much of the rest as you say.",
    ),
    "evaluate": Verb("runs", "evaluate", "Measures a trained network on test images."),
    "predict": Verb("runs", "predict", "Classifies image files with a trained network."),
    "export": Verb(
        "export",
        "export",
        "Writes a trained model as SavedModel, ONNX and LiteRT, and compares each file with it in a fresh process.",
    ),
    "list": Verb(
        "networks", "list_networks", "Lists the networks with their parameters and multiply-adds.", computes=False
    ),
    "inspect": Verb("networks", "inspect", "Shows what a network costs, stage by stage."),
    "reproduce": Verb(
        "reproduce",
        "reproduce",
        "Runs the experiments of a table or figure of the paper, and prints or draws ours beside it.",
    ),
    "sweep": Verb(
        "sweep",
        "sweep",
        "Trains every point of a grid with several seeds: one row each, medians, a picture, the best run.",
    ),
    "explain": Verb(
        "explain",
        "explain",
        "Measures why a network trains, or does not, and writes an HTML report with pictures.",
    ),
    "weights list": Verb(
        "weights",
        "list_cards",
        "Lists trained weights: where they are from, their error as their author printed it, their size and licence.",
        computes=False,
    ),
    "weights show": Verb(
        "weights",
        "show",
        "Shows all that is known of a set of trained weights, and the options of their network.",
        computes=False,
    ),
    "weights fetch": Verb(
        "weights", "fetch", "Downloads and converts trained weights, or takes them from a folder or a mirror."
    ),
    "weights keep": Verb(
        "weights",
        "keep",
        "Writes weights, card and history of a finished run to a folder <model>.<data>.<recipe>.",
    ),
    "verify": Verb(
        "weights", "verify", "Measures the error of trained weights again, and compares it to what their card states."
    ),
}


class _Terminal(logging.Handler):
    """Shows what the package logs, as it comes: notes on standard output, warnings on standard error."""

    def emit(self, record):
        text = printable(record.getMessage())
        if record.levelno < logging.WARNING:
            print(text, flush=True)
        else:
            print(f"keras-preact: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _shown():
    """Shows what the package logs while the context lasts."""
    logger, handler = logging.getLogger("keras_preact"), _Terminal()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # a handler of the root would show it a second time
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


# A process of its own holds the text, so that it is shown, too, if the one that writes it crashes.
_HOLDER = r"""
import sys
text = sys.stdin.buffer.read()
if not text.endswith(b"\0"):
    sys.stderr.buffer.write(text)
"""


@contextlib.contextmanager
def stderr_held() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; it is shown unless the body ends without an error."""
    sys.stderr.flush()
    own, command = os.dup(2), [sys.executable, "-I", "-S", "-c", _HOLDER]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as holder:
            assert holder.stdin is not None  # it is a pipe
            os.dup2(holder.stdin.fileno(), 2)
            try:
                yield
                os.write(2, b"\0")
            finally:
                sys.stderr.flush()
                os.dup2(own, 2)
    finally:
        os.close(own)


def _with_keras(function):
    """Returns a verb's function that imports Keras, and so its backend, first: without the notes of their start.

    Whoever has set TF_CPP_MIN_LOG_LEVEL to another value than 3 sees them. A signal waits for the end of the imports,
    in which its exception could be dropped.
    """

    @functools.wraps(function)
    def run(*arguments, **keywords):
        is_quiet = "keras" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" and sys.stderr
        held = stderr_held() if is_quiet else contextlib.nullcontext()
        with EndingSignals(ENDED) as signals, signals.deferred(), held:
            importlib.import_module("keras")
            if importlib.util.find_spec("tensorflow"):  # other backends import it later
                importlib.import_module("tensorflow")
        return function(*arguments, **keywords)

    return run


def help_text(group: str = "") -> str:
    """Returns the help of `keras-preact`, or of a group of verbs such as `weights`: one line a verb."""
    prefix = f"{group} " if group else ""
    found = {name: verb.summary for name, verb in VERBS.items() if name.startswith(prefix)}
    indent, columns = 4 + max(map(len, found)), shutil.get_terminal_size().columns
    lines = [f"usage: keras-preact {prefix}VERB ...", "", *([] if group else [ABOUT, ""]), "verbs:"]
    for name, summary in found.items():
        lines += textwrap.wrap(f"  {name}".ljust(indent) + summary, columns, subsequent_indent=" " * indent)
    notes = ["VERB --help shows its arguments; --version prints the version."]
    if not group:
        notes.append("--import MODULE before VERB imports a module of yours: what it registers then has a name here.")
    return "\n".join([*lines, "", *(textwrap.fill(note, columns) for note in notes)])


def find_verb(arguments: Sequence[str]) -> tuple[str, Sequence[str] | None]:
    """Returns (verb, its own arguments) of a command line; a `ValueError` names the nearest verb if there is none.

    Where no verb is given, they are (group, None): ("weights", None) of `weights` and `weights --help`.
    """
    groups = {name.partition(" ")[0] for name in VERBS if " " in name}
    group = arguments[0] if arguments and arguments[0] in groups else ""
    rest = arguments[1:] if group else arguments
    if not rest or rest[0] in HELP:
        return group, None
    name = f"{group} {rest[0]}".strip()
    if name not in VERBS:
        choices = [known.partition(" ") for known in VERBS]
        choices = dict.fromkeys(second if group else first for first, _, second in choices if group in ("", first))
        check_choice("verb", rest[0], choices)
    return name, rest[1:]


def function_of(name: str, arguments: Sequence[str] = ()) -> Callable[..., Any]:
    """Returns the function of a verb, whose module is imported; `train`'s has the defaults of `--recipe`."""
    verb = VERBS[name]
    function = getattr(importlib.import_module(f"keras_preact.commands.{verb.module}"), verb.function)
    if name == "train":
        chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        chosen.add_argument("--recipe", nargs="?", default="digits", const="digits")
        function = function(chosen.parse_known_args(arguments)[0].recipe, arguments)
    return _with_keras(function) if verb.computes else function


def import_own(arguments: Sequence[str]) -> Sequence[str]:
    """Imports the modules that `--import` names before the verb, from the working folder too; returns the rest.

    What they register (recipes, data sets, orderings, ...) then has a name on the command line, and on that of the
    workers that `launch` starts.
    """
    imports = []
    while arguments and arguments[0].partition("=")[0] == "--import":
        _, equals, name = arguments[0].partition("=")
        name, arguments = (name, arguments[1:]) if equals else ((arguments[1:] or [""])[0], arguments[2:])
        folder, _, module = name.removesuffix(".py").rpartition("/")
        if not module:
            raise argument_error("import", "the name of a module, or of its file", name)
        imports.append(f"--import={name}")
        sys.path.insert(0, os.path.abspath(folder))
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            raise argument_error("import", "a module that can be imported", name, str(error)) from error
    if imports and arguments[:1] == ["launch"] and "--" in arguments:
        command = arguments.index("--") + 1
        return [*arguments[:command], *imports, *arguments[command:]]
    return arguments


def _expanded(word):
    """Returns `--output=~/runs` with the home folder's path, as shells expand `--output ~/runs`."""
    name, equals, value = word.partition("=")
    return f"{name}={os.path.expanduser(value)}" if equals and name.startswith("--") else word


def _check_launched(words):
    """Raises a `ValueError` if `launch` is given no command of ours: each worker would say so, after its start."""
    words = list(itertools.dropwhile(lambda word: word.startswith("--import="), words))
    name, _ = find_verb(words)
    if name not in VERBS or name == "launch":
        raise argument_error("command", "a verb of keras-preact, such as train, and its arguments", shlex.join(words))


def _has_lost_reader():
    """Returns whether nobody reads standard output any more; what its buffer still holds is dropped then."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _run(arguments):
    name, rest = find_verb(arguments)
    if rest is None:
        is_asked = not HELP.isdisjoint(arguments)
        print(help_text(name), file=sys.stdout if is_asked else sys.stderr)
        raise SystemExit(0 if is_asked else 2)
    if name == "launch" and "--" in rest:
        _check_launched(rest[rest.index("--") + 1 :])
    import tyro

    with _shown(), EndingSignals(ENDED):
        tyro.cli(function_of(name, rest), prog=f"keras-preact {name}", args=rest)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a wrong argument is one message and exit status 2, no traceback.

    SIGTERM and SIGHUP end it with status 143 and 129, Ctrl-C with 130, each with a sentence. It ends with 141 if the
    reader of its output goes, as with `| head`.
    """
    arguments = [_expanded(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's encoding lacks a letter
    if arguments == ["--version"]:
        print(f"keras-preact {__version__}")
        return
    try:
        _run(import_own(arguments))
        print(end="", flush=True)
    except KeyboardInterrupt:
        print("\nkeras-preact: SIGINT. It was ended by Ctrl-C.", file=sys.stderr)
        raise SystemExit(status(signal.SIGINT)) from None
    except (ValueError, FloatingPointError, OSError, ImportError, ParityError) as error:
        if isinstance(error, BrokenPipeError) and _has_lost_reader():
            raise SystemExit(BROKEN_PIPE) from None
        print(f"keras-preact: {printable(error)}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ValueError) else 1) from error
