"""The command line: `keras-preact <verb>`, each verb one call of a public function."""

import argparse
import json
import pathlib
import sys
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from keras_preact import costs, zoo
from keras_preact.errors import argument_error
from keras_preact.model import LAYOUTS
from keras_preact.spec import ORDERINGS, SHORTCUT_PARAMETERS
from keras_preact.training import predictor, run, trainer
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import RECIPES, get_recipe
from keras_preact.training.strategies import STRATEGIES

ABOUT = "Pre-activation ResNets of 11 to 1001 layers (He et al. 2016) for Keras 3."


def train_command(recipe):
    """Returns the verb `train`, whose flags are the fields of `Recipe` at the values of the recipe called `recipe`."""

    def train(
        model: Positional[str] = "ResNet164",
        /,
        *,
        data: str = "digits",
        recipe: str = recipe,
        output: pathlib.Path | None = None,
        overwrite: bool = False,
        strategy: Literal[STRATEGIES] = "auto",
        ordering: Literal[tuple(ORDERINGS)] = "preactivation",
        shortcut: Literal[tuple(SHORTCUT_PARAMETERS)] = "identity",
        layout: Literal[LAYOUTS] = "stacked",
        remat: bool = False,
        settings: Annotated[Recipe, arg(name="")] = get_recipe(recipe),
    ) -> None:
        """Trains a network and writes a run folder: model, SavedModel, card, history, curves.

        Without arguments: ResNet-164 on the handwritten digits that come with scikit-learn.

        Args:
            model: A network, as `keras-preact list` shows them.
            data: A data set.
            recipe: The recipe whose values the flags below start from.
            output: The run folder; runs/<model>.<data>.<recipe> if left out.
            overwrite: Overwrite a run folder that exists.
            strategy: Devices to compute on; auto takes all local ones.
            ordering: Where BN and ReLU stand in a unit (Fig. 4).
            shortcut: What stands on the shortcut (Fig. 2), at the paper's values.
            layout: Stacked units in a loop, or one Keras layer per operation.
            remat: Compute units anew in the backward pass: less memory, about a quarter more time.
            settings: The recipe.
        """
        options = {"ordering": ordering, "shortcut": shortcut, "layout": layout, "remat": remat}
        named = recipe if settings == get_recipe(recipe) else settings
        card = trainer.train(
            model, data=data, recipe=named, output=output, overwrite=overwrite, strategy=strategy, model_options=options
        )
        _print_result(card)

    return train


def _print_result(card):
    folder = pathlib.Path(card["folder"])
    about = {
        run.MODEL: "the Keras model",
        run.SAVED_MODEL: "the SavedModel: takes uint8 images, needs no Keras",
        "card.md": f"what ran, and how it went ({run.CARD} for programs)",
        "history.csv": "loss and error of every epoch",
        "curves.png": "the same as a picture",
    }
    print(
        f"\ntest error {card['error_percent']:.2f} % after the last epoch; {card['seconds']:.0f} s in all\n\n{folder}/"
    )
    for name, meaning in about.items():
        if (folder / name).exists():
            print(f"  {name:12} {meaning}")
    samples = " ".join(map(str, sorted((folder / "samples").glob("*.png"))[:2]))
    print(f"\nNext:\n  keras-preact predict {folder} {samples}\n  keras-preact inspect {folder} --batch-size 128")
    print(f"  keras-preact train {card['model']} --ordering original --output runs/original")


def evaluate(folder: Positional[pathlib.Path], /) -> None:
    """Measures a run's saved model on its test images again.

    Args:
        folder: The folder of a finished run.
    """
    print(json.dumps(trainer.evaluate(folder)))


def predict(folder: Positional[pathlib.Path], images: Positional[tuple[pathlib.Path, ...]], /, *, top: int = 3) -> None:
    """Classifies image files with a run's model.

    Args:
        folder: The folder of a finished run.
        images: Image files. The digits are white on black.
        top: How many classes to print for each.
    """
    if not images:
        raise argument_error("images", "one image file at least", images)
    for prediction in predictor.predict(folder, images, top):
        print(prediction.path)
        for name, probability in prediction.classes:
            print(f"  {100 * probability:6.2f} %  {name}")


def list_networks() -> None:
    """Lists the networks with their parameters and multiply-adds."""
    rows = [("name", "layers", "units", "image", "classes", "parameters", "multiply-adds")]
    for name in zoo.list_models():
        model = zoo.get_model(name)
        parts = costs.model_costs(model)
        height, width, _ = model.input_shape[1:]
        rows.append(
            (
                name,
                str(model.spec.depth),
                "-".join(map(str, model.spec.units)),
                f"{height}x{width}",
                str(model.output_shape[-1]),
                f"{sum(part.trainable for part in parts):,}",
                f"{sum(part.multiply_adds for part in parts):,}",
            )
        )
    print("\n".join(costs.table(rows)))
    print()
    for what, names in (("recipes", RECIPES), ("orderings", ORDERINGS), ("shortcuts", SHORTCUT_PARAMETERS)):
        print(f"{what}: {', '.join(names)}")


def inspect(model: Positional[str], /, *, batch_size: int = 1) -> None:
    """Shows what a network costs, stage by stage.

    Args:
        model: The name of a network, a run folder, or a .keras file.
        batch_size: Images whose signals are counted.
    """
    path = pathlib.Path(model)
    if path.is_dir():
        network = run.load_model(path)
    elif path.suffix == ".keras" and path.is_file():
        import keras

        network = keras.models.load_model(path, compile=False)
    else:
        network = zoo.get_model(model)
    costs.summary(network, batch_size)


def reproduce(what: Positional[Literal["parameters"]], /) -> None:
    """Prints the paper's figures beside ours.

    Args:
        what: parameters: trainable parameters and multiply-adds of every network, beside the exact integers.
    """
    from keras_preact.reproduce.parameters import parameter_table

    if not parameter_table():
        raise SystemExit(1)


def main(arguments=None):
    """Runs the command line; a wrong argument is one message and exit status 2, no traceback."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--recipe", default="digits")
    try:
        verbs = {
            "train": train_command(chosen.parse_known_args(arguments)[0].recipe),
            "evaluate": evaluate,
            "predict": predict,
            "list": list_networks,
            "inspect": inspect,
            "reproduce": reproduce,
        }
        tyro.extras.subcommand_cli_from_dict(verbs, prog="keras-preact", description=ABOUT, args=arguments)
    except (ValueError, FloatingPointError) as error:
        print(f"keras-preact: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, ValueError) else 1) from error
