"""The verb `finetune`."""

import pathlib
from typing import Annotated, Literal

from tyro.conf import arg

from keras_preact.commands.runs import print_result
from keras_preact.training.strategies import STRATEGIES
from keras_preact.transfer import finetuning
from keras_preact.transfer.tuning import Tuning


def finetune(
    *,
    weights: str,
    data: str,
    data_dir: pathlib.Path | None = None,
    skip_corrupt: bool = False,
    recipe: str | None = None,
    output: pathlib.Path | None = None,
    overwrite: bool = False,
    checkpoint_steps: int = 0,
    strategy: Literal[STRATEGIES] = "auto",
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
        data_dir: Where a named data set's files are, if not where its loader looks.
        skip_corrupt: Leave image files out that cannot be read.
        recipe: A named recipe; one chosen by the number of training images if left out.
        output: The run folder; runs/<model>.<data>.finetune if left out. The same command goes on with a run that
            stopped.
        overwrite: Overwrite the folder of another run, or of a finished one.
        checkpoint_steps: Steps between checkpoints within an epoch; 0 for epoch ends only.
        strategy: Devices to compute on, as in `train`.
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
        data_dir=data_dir,
        skip_corrupt=skip_corrupt,
        recipe=recipe,
        output=output,
        overwrite=overwrite,
        checkpoint_steps=checkpoint_steps,
        strategy=strategy,
        **vars(tuning),
        **{name: value for name, value in changes.items() if value is not None},
    )
    if "error_percent" in card:  # the first of several workers has it
        print_result(card)
