"""One wording for every refused argument: its name, what is allowed, what was received, the nearest choice."""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers


class ParityError(RuntimeError):
    """An exported file gives something else than the Keras model; it has been removed."""


def argument_error(argument, expected, received, hint=""):
    """Returns the `ValueError` that names `argument`, what it must be, what was received, and a way out."""
    hint = f" {printable(hint)}" if hint else ""
    return ValueError(f"`{argument}` must be {expected}. Received: {argument}={received!r}.{hint}")


def printable(text):
    """Returns text with `\\x1b` and the like for what a terminal would obey instead of show; lines stay lines."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in str(text))


def nearest(word, choices):
    """Returns the entry of `choices` (strings) that is spelled most like `word`."""
    plain = {choice.lower(): choice for choice in choices}
    return plain[difflib.get_close_matches(str(word).lower(), plain, n=1, cutoff=0.0)[0]]


def check_choice(argument, value, choices, hint=""):
    """Returns `value` if it is one of the strings in `choices`; raises a `ValueError` with the nearest if not."""
    choices = list(choices)
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(f'"{choice}"' for choice in choices)
    raise argument_error(argument, f"one of {listed}", value, f'Nearest: "{nearest(value, choices)}". {hint}'.strip())


def check_arguments(function, received, names, foreign=()):
    """Raises a `ValueError` if a key of `received` is none of a function's arguments.

    Args:
        function: The function's name.
        received: A dict of the keywords that it was called with.
        names: All arguments that it takes; the nearest is named.
        foreign: A dict from words of other libraries to a sentence that says what there is here instead.
    """
    for name, value in received.items():
        if name not in names:
            hint = foreign[name] if name in foreign else f'Nearest: "{nearest(name, names)}".'
            raise argument_error(name, f"left out, as {function} has no such argument", value, hint)


def arguments_checked(foreign=()):
    """Returns a decorator of functions that refuse unknown keywords as `check_arguments` does."""

    def decorate(function):
        names = tuple(inspect.signature(function).parameters)

        @functools.wraps(function)
        def checked(*arguments, **keywords):
            check_arguments(function.__name__, keywords, names, foreign)
            return function(*arguments, **keywords)

        return checked

    return decorate


def check_integer(argument, value, minimum=1):
    """Returns `value` as an `int`; raises a `ValueError` if it is no whole number or below `minimum`."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= minimum:
        return int(value)
    near = minimum
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        near = max(minimum, round(value))
    raise argument_error(argument, f"a whole number of at least {minimum}", value, f"Nearest: {near}.")


def check_number(argument, value, low=-math.inf, high=math.inf, below_high=False):
    """Returns `value` as a finite `float` in [low, high], or in [low, high) if `below_high`; raises a `ValueError`."""
    is_finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if is_finite and low <= value <= high and not (below_high and value == high):
        return float(value)
    bounds = "" if math.isinf(low) and math.isinf(high) else f" in [{low:g}, {high:g}{')' if below_high else ']'}"
    raise argument_error(argument, f"a finite number{bounds}", value)


def check_fields(kind, fields):
    """Raises a `ValueError` if a key of `fields` is no field of the dataclass `kind`."""
    for name in fields:
        check_choice(f"{kind.__name__} field", name, [known.name for known in dataclasses.fields(kind)])


def from_fields(kind, fields):
    """Returns `kind(**fields)` with lists as tuples; an unknown field is a `ValueError` that lists those that exist."""
    check_fields(kind, fields)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})


def check_integers(argument, values):
    """Returns a sequence of whole numbers of at least 1 as a tuple; raises a `ValueError` if it is none, or empty."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise argument_error(argument, "a sequence of whole numbers", values)
    values = tuple(check_integer(argument, value) for value in values)
    if not values:
        raise argument_error(argument, "a sequence of one whole number at least", values)
    return values
