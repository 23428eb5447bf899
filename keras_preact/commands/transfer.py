"""The verb `finetune`."""

import ast
import dataclasses
import inspect
from typing import Annotated

from tyro.conf import arg

from keras_preact.commands.runs import RunFlags, print_result
from keras_preact.data.augment import Augmentation
from keras_preact.training.recipe import Recipe
from keras_preact.transfer.trunk import Tuning


def _texts(kind):
    """Returns the text under each field of a dataclass, by the field's name."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    pairs = zip(tree.body, tree.body[1:])
    return {field.target.id: text.value.value for field, text in pairs if isinstance(field, ast.AnnAssign)}


def _flag(field, text):
    """Returns the field of a flag that changes a recipe's; None is the recipe's own."""
    return field.name, Annotated[field.type | None, arg(help=inspect.cleandoc(text))], None


_TEXTS = {**_texts(Augmentation), **_texts(Recipe)}
RecipeChanges = dataclasses.make_dataclass(
    "RecipeChanges",
    [_flag(field, _TEXTS[field.name]) for field in dataclasses.fields(Recipe) if field.name != "source"],
    frozen=True,
)


def finetune(
    *,
    weights: str,
    data: str,
    recipe: str | None = None,
    running: Annotated[RunFlags, arg(name="")] = RunFlags(),
    tuning: Annotated[Tuning, arg(name="")] = Tuning(),
    changes: Annotated[RecipeChanges, arg(name="")] = RecipeChanges(),
) -> None:
    """Trains a trained network on other images: a new head, and as much of the rest as you say.

    Args:
        weights: The folder of a finished run, a name of `keras-preact weights list`, a .keras or a .weights.h5 file.
        data: A folder of images (class/name.png), or a data set's name, as in `train`.
        recipe: A named recipe; one chosen by the number of training images if left out, and called finetune.
        running: Where files are, and on what to compute.
        tuning: What is trained.
        changes: What differs from the recipe; its own value where it is None.
    """
    from keras_preact.transfer import finetuning

    changed = {name: value for name, value in vars(changes).items() if value is not None}
    card = finetuning.finetune(weights, data, recipe=recipe, **vars(running), **vars(tuning), **changed)
    if "error_percent" in card:  # the first of several workers has it
        print_result(card)
