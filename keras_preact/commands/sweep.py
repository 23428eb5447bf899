"""The verb `sweep`: a grid of networks and recipes, several seeds each."""

import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from keras_preact.commands.recipe_flags import given, recipe_changes
from keras_preact.names import safe_name
from keras_preact.training.strategy_table import Strategy

if TYPE_CHECKING:
    RecipeChanges = Any  # made when this runs: a checker cannot know it
else:
    RecipeChanges = recipe_changes("validation_images")


def sweep(
    *,
    over: str = "shortcut,ordering",
    model: str = "ResNet20",
    data: str = "digits",
    data_dir: pathlib.Path | None = None,
    recipe: str = "digits",
    validation_images: int | None = None,
    seeds: int = 3,
    output: pathlib.Path | None = None,
    strategy: Strategy = "auto",
    fail_percent: float | None = None,
    changes: Annotated[RecipeChanges, arg(name="")] = RecipeChanges(),
) -> None:
    """Trains every point of a grid with several seeds: one row each, medians, a picture, the best run.

    The same command resumes a sweep that was killed. Start it several times, and the processes share the trials.

    Args:
        over: What is varied, with commas between: shortcut, ordering, unit, widening, stride_on (all values), or
            NAME=VALUE:VALUE for these, depth, width, scale, branch_scale, gate_bias, rate, and fields of the recipe.
        model: The network, where depth is not varied.
        data: A data set, or a folder of images, as in train.
        data_dir: Where its files are, if not where its loader looks.
        recipe: The recipe of all runs.
        validation_images: Training images held out, by which the best run is chosen; the recipe's, or a tenth. With 0
            the test images choose it.
        seeds: Runs of each point.
        output: The folder; runs/sweep.<data> if left out.
        strategy: Devices to compute on.
        fail_percent: The test error in %, above which a trial is a "fail" as well; 20 in the paper's Table 1.
        changes: What differs from the recipe in all points; its own value where it is None.
    """
    from keras_preact.laboratory.sweep import grid

    folder = output or pathlib.Path("runs") / f"sweep.{safe_name(pathlib.Path(data).name)}"
    grid.sweep(
        over,
        model=model,
        data=data,
        data_dir=data_dir,
        recipe=recipe,
        seeds=seeds,
        validation_images=validation_images,
        output=folder,
        strategy=strategy,
        fail_percent=fail_percent,
        **given(changes),
    )
    table = (folder / grid.MARKDOWN).read_text(encoding="utf-8")
    print(f"\n{table}\n{folder}/: {grid.CSV}, {grid.MARKDOWN}, {grid.PLOT}")
    if (folder / grid.BEST).is_file():
        best = json.loads((folder / grid.BEST).read_text(encoding="utf-8"))
        print(f"best: {best['point']} ({best['chosen_by']} {best['median']:.2f}); {folder / best['run']}")
        if best["chosen_by"].endswith("error_percent"):
            print("It was chosen on the test images, which flatters it; without --validation-images 0 on others.")
