"""The verb `finetune`."""

from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from keras_preact.commands.recipe_flags import given, recipe_changes
from keras_preact.commands.runs import RunFlags, print_result
from keras_preact.transfer.trunk import Tuning

if TYPE_CHECKING:
    RecipeChanges = Any  # made when this runs: a checker cannot know it
else:
    RecipeChanges = recipe_changes()


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

    card = finetuning.finetune(weights, data, recipe=recipe, **vars(running), **vars(tuning), **given(changes))
    if "error_percent" in card:  # the first of several workers has it
        print_result(card)
