"""Named recipes, each with its source."""

from keras_preact.errors import check_choice
from keras_preact.training.recipe import Recipe

RECIPES = {
    "digits": Recipe(
        source="ours: ResNet-164 on scikit-learn's digits in one to two minutes on two CPU cores",
        epochs=6,
        global_batch_size=32,
        learning_rate=0.1,
        warmup_steps=10,
        nesterov=True,
        crop_padding=1,
    ),
}


def get_recipe(name):
    """Returns the recipe called `name`, one of `RECIPES`; a `ValueError` names the nearest if there is none."""
    return RECIPES[check_choice("recipe", name, RECIPES)]
