"""Signals that ask a process to end, and how it does: SIGTERM, SIGHUP (a terminal that closes) and SIGINT (Ctrl-C)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

NAMES = ("SIGTERM", "SIGHUP", "SIGINT")
NUMBERS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


def status(number: int) -> int:
    """Returns the exit status of a process that a signal ends: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + number


class EndingSignals:
    """A context in which a signal ends the process in order: `SystemExit` with its status, SIGINT `KeyboardInterrupt`.

    Further signals leave alone what is tidied up by then, but a third SIGINT ends the process at once: what the first
    raised may have come where Python drops exceptions. A signal that was ignored before, as under nohup, still is. Only
    the main thread gets signals; in another, nothing changes.

    Args:
        sentence: What to say on standard error when a signal other than SIGINT ends the process.

    Attributes:
        number: The signal that came, or None.
        at_once: Whether the process ends without tidying up: one of several workers, whose peers cannot know.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence, self.at_once, self.is_deferred = sentence, False, False
        self.number: int | None = None
        self.interrupts = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in NUMBERS}
            self.before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}
            self.install()
        return self

    def install(self) -> None:
        """Takes the signals again, which TensorFlow's strategies take for themselves when they are made."""
        for number in self.before:
            signal.signal(number, self._handle)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, raised_at: TracebackType | None
    ) -> None:
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            # TensorFlow's iterators in the frames of `fit` would go with the interpreter, and wait for it for ever.
            traceback.clear_frames(raised_at)
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if kind is None and self.number is not None:  # what was raised came where Python drops exceptions
            self._end(self.number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Yields while a signal is only noted in `number`, for the body to act on; a second SIGINT ends it at once."""
        self.is_deferred = True
        try:
            yield
        finally:
            self.is_deferred = False
        if self.number is not None:
            self._end(self.number)

    def _handle(self, number, _frame):
        is_first, self.number = self.number is None, number if self.number is None else self.number
        self.interrupts += number == signal.SIGINT
        if self.at_once or self.interrupts > 2:
            os._exit(status(number))
        if is_first != self.is_deferred and (is_first or number == signal.SIGINT):
            self.is_deferred = False
            self._end(self.number)

    def _end(self, number):
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):  # of a terminal that has been closed
            print(f"keras-preact: {signal.Signals(number).name}. {self.sentence}", file=sys.stderr, flush=True)
        raise SystemExit(status(number))
