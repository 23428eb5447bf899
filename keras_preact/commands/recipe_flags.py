"""Flags that change fields of a recipe, made from the fields and the texts under them.

A flag that is True or False is a pair, `--flip` and `--no-flip`, as of `train`; the field of the second is `no_flip`.
"""

import ast
import dataclasses
import inspect
import itertools
from typing import Annotated, Any, get_type_hints

from tyro.conf import FlagCreatePairsOff, arg

from keras_preact.data.augment import Augmentation
from keras_preact.errors import argument_error
from keras_preact.training.recipe import Recipe


def _texts(dataclass):
    """Returns the text under each field of a dataclass, by the field's name."""
    body = [part for node in ast.parse(inspect.getsource(dataclass)).body for part in getattr(node, "body", ())]
    pairs = [(field.target, text) for field, text in itertools.pairwise(body) if isinstance(field, ast.AnnAssign)]
    return {ast.unparse(name): ast.literal_eval(text.value) for name, text in pairs}


def recipe_changes(*without: str) -> type:
    """Returns a dataclass with flags for each field of `Recipe` but `source` and those in `without`.

    Each is None, or both of a pair False, which is the recipe's own value.
    """
    types, texts = get_type_hints(Recipe), {**_texts(Augmentation), **_texts(Recipe)}
    flags: list[tuple[str, Any, Any]] = []
    for name in (field.name for field in dataclasses.fields(Recipe)):
        if name in ("source", *without):
            continue
        told = arg(help=inspect.cleandoc(texts[name]), help_behavior_hint="(default: the recipe's)")
        if types[name] is bool:
            flags.append((name, Annotated[FlagCreatePairsOff[bool], told], False))
            no = arg(help="Not so.", help_behavior_hint="")
            flags.append((f"no_{name}", Annotated[FlagCreatePairsOff[bool], no], False))
        else:
            flags.append((name, Annotated[types[name] | None, told], None))
    return dataclasses.make_dataclass("RecipeChanges", flags, frozen=True)


def given(changes: object) -> dict[str, Any]:
    """Returns the fields that flags of `recipe_changes` were given for, by name; a `ValueError` for both of a pair."""
    found = {name: value for name, value in vars(changes).items() if value is not None and value is not False}
    for name in [name for name in found if name.startswith("no_")]:
        field = name.removeprefix("no_")
        if found.pop(name) and field in found:
            raise argument_error(field, "given as one of --X and --no-X, not both", True)
        found[field] = False
    return found
