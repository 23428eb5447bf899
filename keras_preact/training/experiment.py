"""What is to be run, and how: checked before anything is built or written."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_preact.data.dataset import DataSet
from keras_preact.errors import argument_error, check_arguments, check_choice, check_flag, check_integer
from keras_preact.network.families import network_spec
from keras_preact.network.spec import NetworkSpec
from keras_preact.training import finish
from keras_preact.training.processes import Clock
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import as_recipe, named
from keras_preact.training.source import Source
from keras_preact.training.strategies import Devices
from keras_preact.training.strategy_table import STRATEGIES, Strategy
from keras_preact.types import PathLike
from keras_preact.weights import schema
from keras_preact.zoo import SPEC_FIELDS

# Options of the network that `train` takes as keywords; batch statistics over replicas are the recipe's to choose.
NETWORK_OPTIONS = tuple(
    name for name in ("family", "layout", "unroll", "remat", *SPEC_FIELDS) if name != "bn_synchronized"
)
RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Holds what is to be run, in `train`, in fine-tuning, sweeps and tables; checkpoints must agree on `plain()`.

    Attributes:
        model: A name of `list_models()`, in lower case.
        data: The name of the data set, or the path of a folder of images.
        recipe: A `Recipe`.
        options: Keywords for the network's function, as JSON holds them.
        recipe_name: A name of `RECIPES`, or what `recipes.named` calls a changed one.
        data_dir: Where the data set's files are, if not where its loader looks.
        skip_corrupt: Whether image files that cannot be read are left out; the identity says which images are left.
        start: The weights that the training begins with, if not with random ones.
        identity: Of the images and the software, as `run_folder.identity` returns it; None if it is not known yet.
    """

    model: str
    data: str
    recipe: Recipe
    options: dict[str, Any]
    recipe_name: str = dataclasses.field(default="custom", kw_only=True)
    data_dir: str | None = dataclasses.field(default=None, kw_only=True)
    skip_corrupt: bool = dataclasses.field(default=False, kw_only=True)
    start: Source | None = dataclasses.field(default=None, kw_only=True)
    identity: dict[str, Any] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.data_dir is not None:  # for a reader in another folder
            object.__setattr__(self, "data_dir", str(pathlib.Path(self.data_dir).expanduser().resolve()))

    @property
    def weights(self) -> Source | None:
        """The trained weights that the run begins with, or None."""
        return self.start

    def plain(self) -> dict[str, Any]:
        """Returns what decides the result, as JSON holds it."""
        recipe = {"name": self.recipe_name, **dataclasses.asdict(self.recipe)}
        plain = {"model": self.model, "data": self.data, "recipe": recipe, "options": dict(self.options)}
        if self.start is not None:
            plain["start"] = {"weights": self.start.name, "digest": self.start.digest}
        return plain if self.identity is None else {**plain, "identity": self.identity}


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Holds how a run goes about it, which does not change its result; `train` says what each field is."""

    output: PathLike | None
    overwrite: bool
    strategy: Strategy
    checkpoint_steps: int
    callbacks: Sequence[keras.callbacks.Callback]
    verbose: str | int
    clock: Clock

    def __post_init__(self) -> None:
        check_integer("checkpoint_steps", self.checkpoint_steps, minimum=0)
        check_flag("overwrite", self.overwrite)
        check_choice("strategy", self.strategy, STRATEGIES)
        if self.verbose != "auto":
            check_integer("verbose", self.verbose, minimum=0, maximum=2)
        if not isinstance(self.callbacks, (list, tuple)):
            expected = "a list of keras.callbacks.Callback objects"
            raise argument_error("callbacks", expected, type(self.callbacks).__name__)


# What Keras and other libraries call an argument of `train` and `finetune`, and what there is of it here.
FOREIGN = {
    "lr": "Here it is learning_rate.",
    "batch_size": "Here it is global_batch_size.",
    "dtype": "Here it is precision.",
    "weights": "`train` calls it start.",
    "num_classes": "The data set decides.",
    "input_shape": "The data set decides; image_size resizes its images.",
    "validation_split": "Here it is validation_images, a number.",
}


def named_recipe(recipe: str | Recipe, **changes: Any) -> tuple[str, Recipe]:
    """Returns (name, `Recipe`), as `recipes.named` does, of a recipe's name or a `Recipe`, some fields changed."""
    recipe = as_recipe(recipe)
    check_epochs(recipe, changes)
    return named(recipe.replace(**changes))


def check_epochs(recipe: Recipe, changes: Mapping[str, Any]) -> None:
    """Raises a `ValueError` if `changes` of a recipe that counts in steps say how many epochs it has."""
    if "epochs" in changes and (steps := check_integer("steps", changes.get("steps", recipe.steps), minimum=0)):
        expected = f"left out with {steps:,} steps, which are counted instead"
        raise argument_error("epochs", expected, changes["epochs"], "Pass steps=, or steps=0 beside it.")


def split_fields(
    fields: Mapping[str, Any], model_options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of `Recipe`, and all options of the network, of the keywords that `train` was called with.

    Raises:
        ValueError: If an option is in `model_options`, too, or that holds what is no option of the network.
    """
    options = {name: value for name, value in fields.items() if name in NETWORK_OPTIONS}
    if not isinstance(model_options or {}, Mapping):
        raise argument_error("model_options", "a dict", type(model_options).__name__)
    of_recipes = dict.fromkeys(RECIPE_FIELDS, "It is a field of the recipe, and no option of the network.")
    check_arguments("train", model_options or {}, NETWORK_OPTIONS, of_recipes)
    if twice := sorted(options.keys() & (model_options or {}).keys()):
        raise argument_error(twice[0], "left out, as model_options has it", options[twice[0]])
    return {name: value for name, value in fields.items() if name not in options}, {**(model_options or {}), **options}


def check_backend() -> None:
    """Raises a `ValueError` on a backend on which runs are not made."""
    if keras.backend.backend() not in ("tensorflow", "jax"):
        hint = "Set the environment variable KERAS_BACKEND; compile and fit the network itself on other backends."
        raise argument_error("backend", '"tensorflow" or "jax" for a run', keras.backend.backend(), hint)


def check_card(experiment: Experiment, data: DataSet) -> None:
    """Raises a `ValueError` if a reader would refuse the card that a run ends in, as far as it is known by now."""
    finish.preprocessing_fields(data)
    schema.checked(schema.RunRecipe, experiment.plain()["recipe"], within="recipe")


def spec_of(model: str, options: Mapping[str, Any]) -> NetworkSpec:
    """Returns the `NetworkSpec` of a run's network, which is not built for it.

    Args:
        model: A name of `list_models()`, in lower case.
        options: Keywords for the network's function.

    Raises:
        ValueError: If an option of the spec is not allowed.
    """
    fields = {name: options[name] for name in SPEC_FIELDS if name in options}
    return network_spec(model, options.get("family"), **fields)


def check_precision(precision: str) -> None:
    """Raises a `ValueError` for float64 on JAX where it would be float32 without a word."""
    if precision == "float64" and keras.backend.backend() == "jax":
        import jax

        if not jax.config.jax_enable_x64:
            hint = "JAX computes in float32 unless the environment variable JAX_ENABLE_X64=1 is set."
            raise argument_error("precision", "float32 or mixed on JAX as it is", precision, hint)


def check_batch(recipe: Recipe, devices: Devices) -> None:
    """Raises a `ValueError` if the replicas of `devices` cannot share a recipe's batch equally."""
    each = 2 if recipe.augmentation().mixes else 1
    devices.check_batch("global_batch_size", recipe.global_batch_size, each)
