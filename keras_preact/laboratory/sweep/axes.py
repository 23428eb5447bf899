"""What is varied: axes of the network (Figs. 2 and 4, depth, width) and fields of the recipe."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_preact.data.augment import PAD_VALUES
from keras_preact.errors import argument_error, check_choice, check_integer
from keras_preact.network.families import key_of, model_family, model_key, network_spec
from keras_preact.network.shortcuts import SHORTCUT_PARAMETERS, ShortcutSpec
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS
from keras_preact.training.experiment import NETWORK_OPTIONS
from keras_preact.training.recipe import MOMENTUM_RULES, OPTIMIZERS, PRECISIONS, SCHEDULES, WEIGHT_DECAYS, Recipe
from keras_preact.zoo import SPEC_FIELDS

# Axes with values that are known; the others need theirs. Three are tables that `keras_preact.register_...` adds to.
CHOICES = {
    "ordering": ORDERINGS,
    "shortcut": SHORTCUT_PARAMETERS,
    "unit": UNIT_KINDS,
    "widening": ("projection", "zero_pad"),
    "stride_on": ("1x1", "3x3"),
    "schedule": SCHEDULES,
    "weight_decay_kind": WEIGHT_DECAYS,
    "momentum_rule": MOMENTUM_RULES,
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
    "pad_value": PAD_VALUES,
}
_NEEDS_MORE = {"schedule": ("plateau",)}  # values that a bare name does not mean: they need another field of the recipe
_BESIDE: dict[str, dict[str, Any]] = {  # what a field of the recipe cannot be checked without
    "patience": {"schedule": "plateau", "validation_images": 1},
    "early_stopping": {"validation_images": 1},
}
# `seed` is what repeats a point; all points share images of one size; the text and tuples of a recipe are no axes.
RECIPE_AXES = tuple(
    field.name
    for field in dataclasses.fields(Recipe)
    if field.name not in ("source", "seed", "image_size") and not isinstance(field.default, tuple)
)


def parameters() -> tuple[str, ...]:
    """Returns the names of the shortcuts' parameters; one called as a field of a recipe is no axis."""
    names = (name for takes in SHORTCUT_PARAMETERS.values() for name in takes if name not in RECIPE_AXES)
    return tuple(dict.fromkeys(names))


def network_axes() -> tuple[str, ...]:
    """Returns the axes of the network."""
    return ("depth", "width", "ordering", "shortcut", *parameters(), "unit", "widening", "stride_on")


def takers(parameter: str) -> tuple[str, ...]:
    """Returns the shortcuts that take a parameter."""
    return tuple(name for name, takes in SHORTCUT_PARAMETERS.items() if parameter in takes)


def parse_axes(over: str | Iterable[str] | Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Returns {axis: values} of what a person writes.

    Args:
        over: A dict of sequences, a sequence of axes, or a string: axes with commas between them, each a name (all its
            values; of `schedule` all but "plateau", which needs a patience) or `name=value:value:...`, e.g.
            `"shortcut,depth=20:32"`.

    Raises:
        ValueError: If there is no such axis, or its values are missing or none of its own.
    """
    if not isinstance(over, Iterable):
        raise argument_error("over", "axes, as text or as a dict", over)
    if isinstance(over, str):
        over = [part.strip() for part in over.split(",") if part.strip()]
    if not isinstance(over, Mapping):
        parts = [str(part).partition("=") for part in over]
        if twice := [name for name, _, _ in parts if [part[0] for part in parts].count(name) > 1]:
            hint = f"Write its values with colons: {twice[0]}=VALUE:VALUE."
            raise argument_error("over", f"of different axes, and {twice[0]} once", ",".join(map("".join, parts)), hint)
        over = {
            name: [_value(word) for word in values.split(":")] if equals else None for name, equals, values in parts
        }
    if not over:
        known = ", ".join(network_axes() + RECIPE_AXES)
        raise argument_error("over", "one axis at least", over, f"There are: {known}.")
    return {name: _check_axis(name, values) for name, values in over.items()}


def _value(word):
    try:
        return json.loads(word)
    except ValueError:
        return {"True": True, "False": False}.get(word, word)


def _check_axis(name, values):
    check_choice("over", name, network_axes() + RECIPE_AXES, "Values of one axis have colons between them.")
    if values is None:
        if name not in CHOICES:
            raise argument_error("over", f"with values for {name}", name, f"For example {name}={_example(name)}.")
        return tuple(value for value in CHOICES[name] if value not in _NEEDS_MORE.get(name, ()))
    values = _plain(values)
    several = isinstance(values, Sequence) and not isinstance(values, str)
    values = tuple(map(_plain, values if several else (values,)))
    if any(isinstance(value, (list, dict)) for value in values):
        raise argument_error(name, "numbers or names, with colons between them", values)
    if not values or len(set(values)) < len(values):
        raise argument_error(name, "values, none of them twice", values)
    for value in values:
        if name in CHOICES:
            check_choice(name, value, CHOICES[name])
        elif name in RECIPE_AXES:
            Recipe().replace(**{**_BESIDE.get(name, {}), name: value})
        elif name in parameters():
            ShortcutSpec(takers(name)[0], **{name: value})
        else:
            check_integer(name, value)
    return values


def _plain(value):
    """Returns a number or an array of numpy's as Python's, which JSON holds; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _example(name):
    examples = {"depth": "20:32", "width": "16:32", "gate_bias": "-6:-3:0", "rate": "0.1:0.5"}
    default = getattr(Recipe(), name, 0.5)
    return examples.get(name, f"{default}" if isinstance(default, bool) else f"{default or 1}")


def grid(axes: Mapping[str, Sequence[Any]], shortcut: str = "identity") -> list[dict[str, Any]]:
    """Returns every point of the grid once, as dicts; a parameter stands only beside a shortcut that takes it.

    Args:
        axes: {axis: values}, of `parse_axes`.
        shortcut: That of the points, if it is no axis.

    Raises:
        ValueError: If no shortcut takes a parameter that is an axis.
    """
    points = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        takes = SHORTCUT_PARAMETERS[point.get("shortcut", shortcut)]
        point = {name: value for name, value in point.items() if name not in parameters() or name in takes}
        if point not in points:
            points.append(point)
    for name in axes:
        if not any(name in point for point in points):
            raise argument_error("over", f"with a shortcut that takes {name}: {', '.join(takers(name))}", name)
    return points


def describe(point: Mapping[str, Any]) -> str:
    """Returns a point as a name: `shortcut=dropout,rate=0.5`."""
    return ",".join(f"{name}={value}" for name, value in point.items())


def network_of(
    point: Mapping[str, Any], model: str = "resnet20", options: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Returns (model, options) of a point, as `train` takes them, once the network is known to exist.

    Args:
        point: {axis: value}.
        model: The network whose family is used, and whose depth, if that is no axis.
        options: Keywords for the network's function, in which the point's values are put.

    Raises:
        ValueError: If there is no such network.
    """
    options = dict(options or {})
    for name in options:
        check_choice("model_options", name, NETWORK_OPTIONS)
    shortcut = ShortcutSpec.of(options.get("shortcut", "identity"))
    if "shortcut" in point and point["shortcut"] != shortcut.name:
        shortcut = ShortcutSpec(point["shortcut"])
    given = {name: point[name] for name in parameters() if name in point}
    options["shortcut"] = ShortcutSpec.of({**shortcut.to_dict(), **given}).to_dict()
    for name in ("ordering", "unit", "widening", "stride_on"):
        if name in point:
            options[name] = point[name]
    unit, family = options.get("unit"), options.get("family")
    key = model_key(model, unit)
    if "depth" in point:
        key, which = key_of(family or model_family(key, unit), point["depth"], unit)
        options = {**options, **which}
    if "width" in point:
        stages = len(network_spec(key, options.get("family"), **({"unit": unit} if unit else {})).widths)
        options["widths"] = [point["width"] * 2**stage for stage in range(stages)]
        stem = options.get("stem") or {}
        options["stem"] = {**(stem if isinstance(stem, Mapping) else dataclasses.asdict(stem)), "width": point["width"]}
    fields = {name: value for name, value in options.items() if name in SPEC_FIELDS}
    network_spec(key, options.get("family"), **fields)
    return key, options


def recipe_of(point: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """Returns the `Recipe` with a point's fields."""
    return recipe.replace(**{name: value for name, value in point.items() if name in RECIPE_AXES})
