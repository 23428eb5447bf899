"""One wording for every refused argument: its name, what is allowed, what was received, the nearest choice."""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Kind = TypeVar("Kind")
Choice = TypeVar("Choice", bound=str)


class ParityError(RuntimeError):
    """An exported file gives something else than the Keras model; it has been removed."""


def argument_error(argument: str, expected: str, received: object, hint: str = "") -> ValueError:
    """Returns the `ValueError` that names `argument`, what it must be, what was received, and a way out."""
    hint = f" {printable(hint)}" if hint else ""
    return ValueError(f"`{argument}` must be {expected}. Received: {argument}={received!r}.{hint}")


def printable(text: object) -> str:
    """Returns text with `\\x1b` and the like for what a terminal would obey instead of show; lines stay lines."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in str(text))


def nearest(word: object, choices: Iterable[str]) -> str:
    """Returns the entry of `choices` (strings) that is spelled most like `word`, of those that it is a part of if any.

    So `bfloat16` finds `mixed_bfloat16`, and not `float64`, of which more letters agree.
    """
    plain, word = {choice.lower(): choice for choice in choices}, str(word).lower()
    wider = [choice for choice in plain if len(word) > 2 and word in choice]
    return plain[difflib.get_close_matches(word, wider or plain, n=1, cutoff=0.0)[0]]


def misspelling_hint(word: object, choices: Iterable[str]) -> str:
    """Returns a hint, the entry of `choices` that `word` may be a misspelling of, or an empty text."""
    found = difflib.get_close_matches(str(word).lower(), list(choices), n=1)
    return f'Nearest: "{found[0]}".' if found else ""


def check_choice(argument: str, value: object, choices: Iterable[Choice], hint: str = "") -> Choice:
    """Returns `value` if it is one of the strings in `choices`; raises a `ValueError` with the nearest if not."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(f'"{choice}"' for choice in choices)
    raise argument_error(argument, f"one of {listed}", value, f'Nearest: "{nearest(value, choices)}". {hint}'.strip())


def check_arguments(
    function: str, received: Mapping[str, object], names: Collection[str], foreign: Mapping[str, str] | None = None
) -> None:
    """Raises a `ValueError` if a key of `received` is none of a function's arguments.

    Args:
        function: The function's name.
        received: A dict of the keywords that it was called with.
        names: All arguments that it takes; the nearest is named.
        foreign: A dict from words of other libraries to a sentence that says what there is here instead.
    """
    for name, value in received.items():
        if name not in names:
            hint = (foreign or {}).get(name) or misspelling_hint(name, names)
            raise argument_error(name, f"left out, as {function} has no such argument", value, hint)


def arguments_checked(foreign: Mapping[str, str] | None = None) -> Callable[[Function], Function]:
    """Returns a decorator of functions that refuse unknown keywords as `check_arguments` does."""

    def decorate(function):
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*arguments, **keywords):
            check_arguments(function.__name__, keywords, names, foreign)
            return function(*arguments, **keywords)

        return checked

    return decorate


def check_integer(argument: str, value: object, minimum: int = 1, maximum: int = 2**31 - 1) -> int:
    """Returns `value` as an `int`; raises a `ValueError` if it is no whole number from `minimum` to `maximum`.

    The most is what 32 bits hold, with a sign, if nothing else is said.
    """
    whole = int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None
    if whole is not None and minimum <= whole <= maximum:
        return whole
    number = whole if whole is not None else _finite(value)
    most = f" and at most {maximum:,}" if number is not None and number > maximum else ""
    hint = "" if number is None else f"Nearest: {min(max(minimum, round(number)), maximum)}."
    raise argument_error(argument, f"a whole number of at least {minimum}{most}", value, hint)


def check_number(
    argument: str, value: object, low: float = -math.inf, high: float = math.inf, below_high: bool = False
) -> float:
    """Returns `value` as a finite `float` in [low, high], or in [low, high) if `below_high`; raises a `ValueError`."""
    number = _finite(value)
    if number is not None and low <= number <= high and not (below_high and number == high):
        return number
    bounds = "" if math.isinf(low) and math.isinf(high) else f" in [{low:g}, {high:g}{')' if below_high else ']'}"
    raise argument_error(argument, f"a finite number{bounds}", value)


def check_flag(argument: str, value: object) -> bool:
    """Returns `value` if it is True or False; else raises a `ValueError`."""
    if isinstance(value, bool):
        return value
    raise argument_error(argument, "True or False", value)


def _finite(value: object) -> float | None:
    """Returns a number as a `float`; None if it is none, or none that a `float` can hold."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of more than 300 digits
            if math.isfinite(number := float(value)):
                return number
    return None


def check_fields(kind: type[Any], fields: Iterable[str]) -> None:
    """Raises a `ValueError` if a key of `fields` is no field of the dataclass `kind`."""
    for name in fields:
        check_choice(f"{kind.__name__} field", name, [known.name for known in dataclasses.fields(kind)])


def from_fields(kind: type[Kind], fields: Mapping[str, Any]) -> Kind:
    """Returns `kind(**fields)` with lists as tuples; an unknown field is a `ValueError` that lists those that exist."""
    check_fields(kind, fields)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def check_integers(argument: str, values: object, may_be_empty: bool = False) -> tuple[int, ...]:
    """Returns a sequence of whole numbers of at least 1 as a tuple; raises a `ValueError` if it is none, or empty."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise argument_error(argument, "a sequence of whole numbers", values)
    values = tuple(check_integer(argument, value) for value in values)
    if not values and not may_be_empty:
        raise argument_error(argument, "a sequence of one whole number at least", values)
    return values
