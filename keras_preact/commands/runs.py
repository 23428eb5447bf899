"""Verbs of a run: `train`, `evaluate`, `predict`."""

import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from tyro.conf import Positional, arg

from keras_preact.errors import argument_error, printable
from keras_preact.network.shortcuts import SHORTCUT_PARAMETERS
from keras_preact.network.unit_spec import ORDERINGS
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import get_recipe
from keras_preact.training.strategy_table import Strategy


@dataclass(frozen=True)
class RunFlags:
    """Holds the flags that every verb has that trains.

    Attributes:
        data_dir: Where a named data set's files are, if not where its loader looks.
        skip_corrupt: Leave image files out that cannot be read.
        output: The run folder, or a URL (gs://bucket/run); runs/<model>.<data>.<recipe> if left out. The same command
            resumes a run that stopped.
        overwrite: Overwrite the folder of another run, or of a finished one.
        checkpoint_steps: Steps between checkpoints within an epoch; 0 for epoch ends only.
        strategy: Devices to compute on; auto takes all local ones, or the workers or the TPU that TF_CONFIG or
            TPU_NAME name.
    """

    data_dir: pathlib.Path | None = None
    skip_corrupt: bool = False
    output: str | None = None
    overwrite: bool = False
    checkpoint_steps: int = 0
    strategy: Strategy = "auto"


def train_command(recipe: str, words: Sequence[str] = ()) -> Callable[..., None]:
    """Returns the verb `train`, whose flags are the fields of `Recipe` at the values of the recipe called `recipe`.

    Args:
        recipe: A name of `RECIPES`.
        words: The arguments on the command line. Beside steps, --epochs is refused at the recipe's own value, too.
    """
    if TYPE_CHECKING:  # a checker cannot know which there are when this runs
        OrderingName: TypeAlias = str
        ShortcutName: TypeAlias = str
    else:
        OrderingName, ShortcutName = Literal[tuple(ORDERINGS)], Literal[tuple(SHORTCUT_PARAMETERS)]

    def train(
        model: Positional[str] = "ResNet164",
        /,
        *,
        data: str = "digits",
        recipe: str = recipe,
        start: str | None = None,
        running: Annotated[RunFlags, arg(name="")] = RunFlags(),
        ordering: OrderingName = "preactivation",
        shortcut: ShortcutName = "identity",
        layout: Literal["stacked", "layers"] = "stacked",
        unroll: int | Literal["auto", "all"] = "auto",
        remat: bool = False,
        family: Literal["cifar", "imagenet"] | None = None,
        settings: Annotated[Recipe, arg(name="")] = get_recipe(recipe),
    ) -> None:
        """Trains a network and writes a run folder: model, SavedModel, card, history, curves.

        Without arguments: ResNet-164 on the handwritten digits that come with scikit-learn.

        Args:
            model: A network, as `keras-preact list` shows them.
            data: A data set: digits, cifar10, cifar100, imagenet, or a folder of images (class/name.png).
            recipe: The recipe whose values the flags below start from.
            start: Trained weights to begin with, of this network or a shallower one: a run folder, a name of
                `keras-preact weights list`, a .keras or a .weights.h5 file.
            running: Where files are, and on what to compute.
            ordering: Where BN and ReLU stand in a unit (Fig. 4).
            shortcut: What stands on the shortcut (Fig. 2), at the paper's values.
            layout: Stacked units in a loop, or one Keras layer per operation.
            unroll: Units in one turn of the loop; more is faster on a GPU and slower to compile.
            remat: Compute units again in the backward pass: less memory, about a quarter more CPU time.
            family: The family of the network, where its depth is in both; the name's own if left out.
            settings: The recipe.
        """
        from keras_preact.training import trainer

        options: dict[str, Any] = dict(ordering=ordering, shortcut=shortcut, layout=layout, unroll=unroll, remat=remat)
        if family is not None:
            options["family"] = family
        base = get_recipe(recipe)
        changes = {name: value for name, value in vars(settings).items() if value != getattr(base, name)}
        if any(word.partition("=")[0] == "--epochs" for word in words):
            changes["epochs"] = settings.epochs
        card = trainer.train(
            model, data=data, recipe=recipe, start=start, model_options=options, **vars(running), **changes
        )
        if "error_percent" in card:  # the first of several workers has it
            print_result(card)
            if (card["data"], card["recipe"]["name"]) == ("digits", "digits"):  # and no other words to be repeated
                print(pasted("train", card["model"], "--ordering", "original", "--output", "runs/original"))

    return train


def print_result(card: Mapping[str, Any]) -> None:
    """Prints what a run's card says of the result, what is in its folder, and what to do next."""
    from keras_preact.training import remote_folder, run_folder

    where, folder = card["folder"], pathlib.Path(card["folder"])
    about = {
        run_folder.MODEL: "the Keras model",
        run_folder.SAVED_MODEL: "the SavedModel: takes uint8 images, needs no Keras",
        "card.md": f"what ran, and how it went ({run_folder.CARD} for programs)",
        run_folder.HISTORY: "loss and error of every epoch",
        "curves.png": "the same as a picture",
    }
    if card.get("images_per_second") and card.get("data_wait_percent") is not None:
        print(f"\n{card['images_per_second']:,.0f} images/s, {card['data_wait_percent']:.1f} % of it waiting for data")
    seconds = f"; {card['seconds']:.0f} s in all" if card.get("seconds") is not None else ""
    print(f"test error {card['error_percent']:.2f} % after the last epoch{seconds}\n\n{where}/")
    if remote_folder.is_remote(where):
        print("\nNext: copy it to a folder RUN, then\n  keras-preact predict RUN RUN/samples/*.png")
        return
    for name, meaning in about.items():
        if (folder / name).exists():
            print(f"  {name:12} {meaning}")
    samples = sorted((folder / "samples").glob("*.png"))[:2]
    print("\nNext:", pasted("predict", folder, *samples), pasted("inspect", folder, "--batch-size", 128), sep="\n")


def pasted(*arguments: object) -> str:
    """Returns a line that runs `keras-preact` with these arguments when it is pasted into a shell."""
    texts = (f"./{each}" if isinstance(each, pathlib.Path) and str(each)[0] == "-" else str(each) for each in arguments)
    return f"  {shlex.join(['keras-preact', *texts])}"


def evaluate(
    model: Positional[str],
    /,
    *,
    data: str | None = None,
    data_dir: pathlib.Path | None = None,
    skip_corrupt: bool = False,
) -> None:
    """Measures a trained network on test images.

    Args:
        model: The folder of a run or of kept weights, a name of `keras-preact weights list`, a .keras or a .weights.h5
            file.
        data: Another data set than the one that it was trained on.
        data_dir: Where its files are, if not where the run found them.
        skip_corrupt: Leave image files out that cannot be read, as it is done for a run that was trained so.
    """
    from keras_preact.training import evaluation

    print(json.dumps(evaluation.evaluate(model, data, data_dir, skip_corrupt)))


def predict(model: Positional[str], images: Positional[tuple[pathlib.Path, ...]], /, *, top: int = 3) -> None:
    """Classifies image files with a trained network.

    Files that cannot be read are listed at the end, and the status is then 1; the others are classified all the same.

    Args:
        model: The folder of a run or of kept weights, a name of `keras-preact weights list`, or a .keras file of a run.
        images: Image files, and folders of them. The digits are white on black.
        top: How many classes to print for each.
    """
    if not images:
        raise argument_error("images", "one image file or folder at least", images)
    from keras_preact.training import predictor

    found = predictor.predict(model, images, top)
    for prediction in found:
        if prediction.problem is None:
            print(printable(prediction.path))
        for name, probability in prediction.classes:
            print(f"  {100 * probability:6.2f} %  {name}")
    if wrong := [prediction for prediction in found if prediction.problem is not None]:
        sys.stdout.flush()
        print(f"keras-preact: {len(wrong):,} of {len(found):,} files cannot be read:", file=sys.stderr)
        for prediction in wrong:
            print(printable(f"  {prediction.path}: {prediction.problem}"), file=sys.stderr)
        raise SystemExit(1)


def launch(command: Positional[tuple[str, ...]], /, *, workers: int = 2, max_restarts: int = 3) -> None:
    """Runs `keras-preact COMMAND...` as several local workers of one job; if one dies, all start again.

    Write two dashes before the command: `keras-preact launch --workers 2 -- train ResNet164`.

    Args:
        command: A verb of keras-preact with its arguments.
        workers: Their number.
        max_restarts: How often the job is started again from its last checkpoint.
    """
    from keras_preact.training import launcher

    program = [sys.executable, "-P", "-m", "keras_preact"]
    if status := launcher.launch([*program, *command], workers, max_restarts):
        raise SystemExit(status)
