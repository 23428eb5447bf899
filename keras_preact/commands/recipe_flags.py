"""Flags that change fields of a recipe, made from the fields and the texts under them."""

import ast
import dataclasses
import inspect
import itertools
from typing import Annotated, Any, get_type_hints

from tyro.conf import arg

from keras_preact.data.augment import Augmentation
from keras_preact.training.recipe import Recipe


def _texts(dataclass):
    """Returns the text under each field of a dataclass, by the field's name."""
    body = [part for node in ast.parse(inspect.getsource(dataclass)).body for part in getattr(node, "body", ())]
    pairs = [(field.target, text) for field, text in itertools.pairwise(body) if isinstance(field, ast.AnnAssign)]
    return {ast.unparse(name): ast.literal_eval(text.value) for name, text in pairs}


def recipe_changes(*without: str) -> type:
    """Returns a dataclass with a flag for each field of `Recipe` but `source` and those in `without`.

    Each is None, which is the recipe's own value.
    """
    types, texts = get_type_hints(Recipe), {**_texts(Augmentation), **_texts(Recipe)}
    flags = [
        (field.name, Annotated[types[field.name] | None, arg(help=inspect.cleandoc(texts[field.name]))], None)
        for field in dataclasses.fields(Recipe)
        if field.name not in ("source", *without)
    ]
    return dataclasses.make_dataclass("RecipeChanges", flags, frozen=True)


def given(changes: object) -> dict[str, Any]:
    """Returns the fields that flags of `recipe_changes` were given for, by name."""
    return {name: value for name, value in vars(changes).items() if value is not None}
