"""Flags that change fields of a recipe, made from the fields and the texts under them."""

import ast
import dataclasses
import inspect
from typing import Annotated

from tyro.conf import arg

from keras_preact.data.augment import Augmentation
from keras_preact.training.recipe import Recipe


def _texts(kind):
    """Returns the text under each field of a dataclass, by the field's name."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    pairs = zip(tree.body, tree.body[1:])
    return {field.target.id: text.value.value for field, text in pairs if isinstance(field, ast.AnnAssign)}


def recipe_changes(*without):
    """Returns a dataclass with a flag for each field of `Recipe` but `source` and those in `without`.

    Each is None, which is the recipe's own value.
    """
    texts = {**_texts(Augmentation), **_texts(Recipe)}
    flags = [
        (field.name, Annotated[field.type | None, arg(help=inspect.cleandoc(texts[field.name]))], None)
        for field in dataclasses.fields(Recipe)
        if field.name not in ("source", *without)
    ]
    return dataclasses.make_dataclass("RecipeChanges", flags, frozen=True)


def given(changes):
    """Returns the fields that flags of `recipe_changes` were given for, by name."""
    return {name: value for name, value in vars(changes).items() if value is not None}
