"""Named recipes, each with its source."""

import dataclasses
from typing import Any

from keras_preact.errors import argument_error, check_choice
from keras_preact.names import add_row
from keras_preact.training.recipe import Recipe

_CIFAR_CROP: dict[str, Any] = dict(crop_padding=4, pad_value="mean", flip=True)
_MODERN: dict[str, Any] = dict(
    warmup_steps=200,
    optimizer="muon",
    nesterov=True,
    weight_decay_kind="decoupled",
    label_smoothing=0.1,
    cutout=12,
    **_CIFAR_CROP,
)

RECIPES = {
    "digits": Recipe(
        source="ours: ResNet-164 on scikit-learn's digits in minutes on two CPU cores",
        epochs=6,
        global_batch_size=32,
        learning_rate=0.1,
        warmup_steps=10,
        nesterov=True,
        crop_padding=1,
    ),
    # The paper's pixels are not divided by a std, and its mean is per pixel; the data set's are used here.
    "paper_cifar": Recipe(
        source="He et al. 2016 (arXiv 1603.05027), section 4 and appendix; 64,000 steps as in He et al. 2015",
        steps=64_000,
        global_batch_size=128,
        learning_rate=0.1,
        schedule="steps",
        warmup_steps=400,
        drops=(32_000, 48_000),
        **_CIFAR_CROP,
    ),
    "fair_cifar": Recipe(
        source="github.com/KaimingHe/resnet-1k-layers and facebook/fb.resnet.torch; batch 64 for ResNet-1001",
        epochs=200,
        global_batch_size=64,
        learning_rate=0.1,
        schedule="steps",
        drops=(80, 121),
        momentum_rule="torch",
        nesterov=True,
        **_CIFAR_CROP,
    ),
    "paper_imagenet": Recipe(
        source="He et al. 2016 (arXiv 1603.05027), appendix; the end, 90 epochs, is fb.resnet.torch's",
        epochs=90,
        global_batch_size=256,
        learning_rate=0.1,
        schedule="steps",
        drops=(30, 60),
        scale=(256, 480),
        lighting=0.1,
        flip=True,
        image_size=224,
    ),
    "fair_imagenet": Recipe(
        source="github.com/facebook/fb.resnet.torch, ResNet-200",
        epochs=90,
        global_batch_size=256,
        learning_rate=0.1,
        schedule="steps",
        drops=(30, 60),
        momentum_rule="torch",
        nesterov=True,
        area=(0.08, 1.0),
        colour=0.4,
        lighting=0.1,
        flip=True,
        image_size=224,
    ),
    # 4.32 % test error with ResNet-164: docs/training.md.
    "modern_cifar": Recipe(
        source="ours: Muon (Jordan et al. 2024), cosine, decoupled weight decay, label smoothing, cutout",
        epochs=75,
        global_batch_size=512,
        learning_rate=0.1,
        weight_decay=0.01,
        **_MODERN,
    ),
    # A quarter of modern_cifar's batch: the rate goes with the root of it. The time in which weights decay, which is
    # 1 / (rate x decay) steps, is as many epochs as there (Wang and Aitchison 2024, arXiv 2405.13698).
    "levels_cifar": Recipe(
        source="ours: modern_cifar in levels (Chang et al. 2018, arXiv 1710.10348), for ResNet-164 on two CPU cores",
        levels=((56, 24, 10), (164, 24, 35), (164, 0, 22)),
        epochs=67,
        global_batch_size=128,
        learning_rate=0.05,
        weight_decay=0.005,
        schedule="linear",
        validation_images=500,
        **_MODERN,
    ),
    "continued_cifar": Recipe(
        source="ours: a trained network, perhaps deepened, trains on (`start`) as by modern_cifar, from a lower rate",
        epochs=18,
        global_batch_size=128,
        learning_rate=0.03,
        weight_decay=0.01,
        schedule="linear",
        validation_images=500,
        **_MODERN,
    ),
    "grown_cifar": Recipe(
        source="ours: a trained network, deepened, trains on (`start`) by SGD at a constant rate; the average of its "
        "weights is kept (Izmailov et al. 2018, arXiv 1803.05407)",
        epochs=8,
        global_batch_size=256,
        learning_rate=0.02,
        schedule="constant",
        warmup_steps=100,
        nesterov=True,
        weight_decay=3e-4,
        weight_decay_kind="l2_kernels",
        ema=0.998,
        label_smoothing=0.1,
        cutout=12,
        **_CIFAR_CROP,
    ),
}


def get_recipe(name: str) -> Recipe:
    """Returns the recipe called `name`, one of `RECIPES`; a `ValueError` names the nearest if there is none."""
    return RECIPES[check_choice("recipe", name, RECIPES)]


def as_recipe(recipe: str | Recipe) -> Recipe:
    """Returns the `Recipe` of a name, or a `Recipe` as it is; a `ValueError` if `recipe` is neither."""
    if isinstance(recipe, str):
        return get_recipe(recipe)
    if not isinstance(recipe, Recipe):
        raise argument_error("recipe", "the name of a recipe, or a Recipe", recipe)
    return recipe


def register_recipe(name: str, recipe: Recipe) -> None:
    """Adds a recipe to `RECIPES`, so that `train`, sweeps and the command line take its name.

    Args:
        name: What `recipe=` takes: small letters, digits and underscores, a letter first.
        recipe: A `Recipe`, whose `source` says where it is from.

    Raises:
        ValueError: If the name is not allowed or taken by another recipe, or the source is that of another one.
    """
    if not isinstance(recipe, Recipe):
        raise argument_error("recipe", "a Recipe", recipe)
    taken = {known.source for other, known in RECIPES.items() if other != name}
    if recipe.source in (Recipe().source, *taken):
        expected = "where the recipe is from, as no other recipe says it"
        raise argument_error("source", expected, recipe.source, 'Make it with Recipe(source="...").')
    add_row("recipe", name, recipe, RECIPES)


# A run with another seed or precision is one of the same recipe.
_OF_A_RUN = ("seed", "precision")


def named(recipe: Recipe) -> tuple[str, Recipe]:
    """Returns (name, `Recipe`) of one in `RECIPES`; one that was changed is "custom", and its source says in what."""
    known = {recipe.source: (name, recipe) for name, recipe in RECIPES.items()}
    if recipe.source not in known:
        return "custom", recipe
    name, published = known[recipe.source]
    changed = [
        field.name
        for field in dataclasses.fields(Recipe)
        if field.name not in _OF_A_RUN and getattr(recipe, field.name) != getattr(published, field.name)
    ]
    if not changed:
        return name, recipe
    return "custom", recipe.replace(source=f"{name} with its own {', '.join(changed)}; {recipe.source}")
