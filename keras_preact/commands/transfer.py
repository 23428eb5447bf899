"""The verb `finetune`."""

from typing import Annotated

from tyro.conf import arg

from keras_preact.commands.runs import RunFlags, print_result
from keras_preact.transfer import finetuning
from keras_preact.transfer.trunk import Tuning


def finetune(
    *,
    weights: str,
    data: str,
    recipe: str | None = None,
    running: Annotated[RunFlags, arg(name="")] = RunFlags(),
    tuning: Annotated[Tuning, arg(name="")] = Tuning(),
    steps: int | None = None,
    global_batch_size: int | None = None,
    learning_rate: float | None = None,
    crop_padding: int | None = None,
    flip: bool | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    seed: int | None = None,
) -> None:
    """Trains a trained network on other images: a new head, and as much of the rest as you say.

    Args:
        weights: The folder of a finished run, a name of `keras-preact weights list`, a .keras or a .weights.h5 file.
        data: A folder of images (class/name.png), or a data set's name, as in `train`.
        recipe: A named recipe; one chosen by the number of training images if left out, and called finetune.
        running: Where files are, and on what to compute.
        tuning: What is trained.
        steps: Steps of training; the recipe's if left out, as are all below.
        global_batch_size: Images in a step, over all replicas.
        learning_rate: The head's highest learning rate.
        crop_padding: Pixels of padding for random crops.
        flip: Mirror half of the images.
        image_size: Side of the square images that the network sees; the files' own if left out.
        precision: A Keras dtype policy.
        seed: Decides order, augmentation and dropout.
    """
    changes = {
        "steps": steps,
        "global_batch_size": global_batch_size,
        "learning_rate": learning_rate,
        "crop_padding": crop_padding,
        "flip": flip,
        "image_size": image_size,
        "precision": precision,
        "seed": seed,
    }
    card = finetuning.finetune(
        weights,
        data,
        recipe=recipe,
        **vars(running),
        **vars(tuning),
        **{name: value for name, value in changes.items() if value is not None},
    )
    if "error_percent" in card:  # the first of several workers has it
        print_result(card)
