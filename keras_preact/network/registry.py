"""Orderings, shortcuts and kinds of units of one's own: registered under a name, they stand beside the paper's.

The paper's rows are in `unit_spec.ORDERINGS`, `shortcuts.SHORTCUTS` and `unit_spec.UNIT_KINDS`. A file that holds a
network of a registered name is read once the file that registers it has been imported.
"""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_preact.errors import argument_error, check_integer, check_integers, check_number
from keras_preact.names import REGISTERED, add_row
from keras_preact.network.shapes import UnitShapes
from keras_preact.network.shortcuts import SHORTCUTS, Shortcut, ShortcutParameter, ShortcutSpec
from keras_preact.network.spec import NetworkSpec, StemSpec
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS, Ordering
from keras_preact.network.units import residual_unit

FUNCTION = "a function (env, shortcut, branch, unit) that returns (shortcut, branch), made with env's operations alone"


def register_ordering(name: str, lead: str = "", tail: str = "", after_addition: str = "") -> None:
    """Adds an ordering of a unit's one movable BN (B) and one movable ReLU (R) to those of Fig. 4.

    Args:
        name: What `ordering=` takes: small letters, digits and underscores, a letter first.
        lead: What stands before the first convolution: `""`, `"B"`, `"R"`, `"BR"` or `"RB"`.
        tail: What stands after the last convolution.
        after_addition: What stands after the addition: the f of eq. (2).

    Raises:
        ValueError: If the name is not allowed or taken by another ordering, or the three do not hold one B and one R.
    """
    add_row("ordering", name, Ordering(lead, tail, after_addition), ORDERINGS)


def register_unit(name: str, kernels: Sequence[int], expansion: int = 1) -> None:
    """Adds a kind of unit: how many convolutions F has, and how large they are.

    Args:
        name: What `unit=` takes: small letters, digits and underscores, a letter first.
        kernels: The kernel sides of the convolutions of F, first to last; odd numbers.
        expansion: The channels of the last convolution over those of the others.

    Raises:
        ValueError: If an argument is not allowed, or the name is taken by another kind of unit.
    """
    kernels = check_integers("kernels", kernels)
    for side in kernels:
        if side % 2 == 0:
            raise argument_error("kernels", "odd numbers", kernels, f"Nearest to {side}: {side + 1}.")
    add_row("unit", name, (kernels, check_integer("expansion", expansion)), UNIT_KINDS)


def register_shortcut(
    name: str,
    function: Callable[..., tuple[Any, Any]],
    parameters: Mapping[str, float | ShortcutParameter] | None = None,
    *,
    identity: bool = False,
) -> None:
    """Adds a shortcut h to those of Fig. 2. The function is run once on shapes, so that errors show here.

    Args:
        name: What `shortcut=` takes: small letters, digits and underscores, a letter first.
        function: Maps (env, shortcut, branch, unit) to (shortcut, branch), which the unit then adds. Both signals come
            in the shape of x_{l+1}. `env` is a `UnitEnvironment`, whose operations compute everything, each under
            another name; `unit` is the `UnitSpec`, whose `unit.shortcut` has the parameters as attributes.
        parameters: {name: default}, or {name: `ShortcutParameter`} to bound it. They are numbers, and what
            `ShortcutSpec(name, ...)` takes and sweeps vary.
        identity: Whether x_{l+1} = x_l where F is 0, for which `deepen` asks.

    Raises:
        ValueError: If an argument is not allowed, the name is taken by another shortcut, or the function fails, or
            does not keep the shape.
    """
    if not callable(function):
        raise argument_error("function", FUNCTION, function)
    parameters = _checked_parameters(parameters or {})
    known = SHORTCUTS.get(name) if isinstance(name, str) else None
    if known and _is_same(known.function, function):
        function = known.function  # its file was imported again
    own = [(parameter, float | None, None) for parameter in parameters if not hasattr(ShortcutSpec, parameter)]
    fields = known.fields if known else None
    if own and fields is None:
        fields = dataclasses.make_dataclass("ShortcutSpec", own, bases=(ShortcutSpec,), frozen=True)
    alters = _keeps if identity else _unknown
    if add_row("shortcut", name, Shortcut(function, parameters, alters, fields=fields), SHORTCUTS):
        try:
            _check_shapes(name)
        except Exception as error:  # whatever is wrong in the function
            del SHORTCUTS[name]
            there = ", ".join(sorted(name for name in vars(UnitShapes) if not name.startswith("_")))
            hint = f"{type(error).__name__}: {error}. env has {there}; to scale a signal is env.affine."
            raise argument_error("function", FUNCTION, getattr(function, "__name__", function), hint) from error


def _checked_parameters(parameters):
    """Returns {name: `ShortcutParameter`} of what `register_shortcut` takes."""
    taken = {"name", "parameters", "row", "of", "to_dict", "depth", "width"}
    taken |= {field.name for field in dataclasses.fields(NetworkSpec)}
    checked = {}
    for name, value in parameters.items():
        if not isinstance(name, str) or not REGISTERED.fullmatch(name) or name in taken or keyword.iskeyword(name):
            expected = "{name: default}, each name of small letters, digits and underscores, and no field of a network"
            raise argument_error("parameters", expected, name)
        row = value if isinstance(value, ShortcutParameter) else ShortcutParameter(check_number(name, value))
        checked[name] = dataclasses.replace(row, default=row.checked(name, row.default))
    return checked


def _check_shapes(name):
    """Raises an error if a unit with the shortcut called `name` cannot be, of one shape and of another."""
    for stage in NetworkSpec((2, 1), (4, 8), "basic", stem=StemSpec(width=4), shortcut=name).stages:
        shapes, unit = UnitShapes(), stage[-1]
        found = residual_unit(shapes, (8, 8, unit.in_width), unit)
        names = [operation.name for operation in shapes.operations]
        if tuple(found) != (8 // unit.strides, 8 // unit.strides, unit.out_width):
            raise ValueError(f"The unit returns {tuple(found)}, not {unit.out_width} channels of its own size.")
        if len(set(names)) < len(names):
            raise ValueError(f"Two operations are called {max(names, key=names.count)}.")
        if sum(operation.is_random for operation in shapes.operations) > 1:
            raise ValueError("A unit can use dropout once only.")


def _is_same(first, second):
    """Returns whether two functions are one, or one that was read twice and uses no variables from around it."""
    return first is second or (_code(first) is not None and _code(first) == _code(second))


def _code(function):
    """Returns what a plain function without closure and defaults does, wherever it stands in its file; else None."""
    code = getattr(function, "__code__", None)
    if code is None or function.__closure__ or function.__defaults__ or function.__kwdefaults__:
        return None
    return code.co_code, code.co_consts, code.co_names, code.co_varnames


def _keeps(unit):
    return ""


def _unknown(unit):
    return "It was registered without identity=True."
