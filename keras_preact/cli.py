"""The command line: `keras-preact <verb>`. The verbs are in `commands/`, each one call of a public function."""

import argparse
import contextlib
import logging
import signal
import sys

import tyro

from keras_preact.commands import explain, export, networks, reproduce, runs, sweep, transfer, weights
from keras_preact.errors import printable
from keras_preact.exporting import ParityError
from keras_preact.training.signals import EndingSignals, status
from keras_preact.version import __version__

ABOUT = "Pre-activation ResNets of 11 to 1001 layers (He et al. 2016) for Keras 3. --version prints the version."


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


def main(arguments=None):
    """Runs the command line; a wrong argument is one message and exit status 2, no traceback.

    SIGTERM and SIGHUP end it with status 143 and 129, Ctrl-C with 130, each with a sentence.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"keras-preact {__version__}")
        return
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--recipe", default="digits")
    try:
        verbs = {
            "train": runs.train_command(chosen.parse_known_args(arguments)[0].recipe),
            "launch": runs.launch,
            "finetune": transfer.finetune,
            "evaluate": runs.evaluate,
            "predict": runs.predict,
            "export": export.export,
            "list": networks.list_networks,
            "inspect": networks.inspect,
            "reproduce": reproduce.reproduce,
            "sweep": sweep.sweep,
            "explain": explain.explain,
            "weights": weights.weights,
            "verify": weights.verify,
        }
        with _shown(), EndingSignals("It was ended by this signal."):
            tyro.extras.subcommand_cli_from_dict(verbs, prog="keras-preact", description=ABOUT, args=arguments)
    except KeyboardInterrupt:
        print("\nkeras-preact: SIGINT. It was ended by Ctrl-C.", file=sys.stderr)
        raise SystemExit(status(signal.SIGINT)) from None
    except (ValueError, FloatingPointError, OSError, ImportError, ParityError) as error:
        print(f"keras-preact: {printable(error)}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ValueError) else 1) from error
