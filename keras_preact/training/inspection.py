"""What a network costs, whatever names it."""

from keras_preact.network import costs
from keras_preact.network.costs import StageCost
from keras_preact.network.families import is_model_name
from keras_preact.training.provenance import suited_precision
from keras_preact.training.source import Trained, find_source
from keras_preact.zoo import get_model, list_models

SIDE = 32  # of the images of a network that leaves their size open, in pixels


def inspect(model: Trained, batch_size: int = 1) -> list[StageCost]:
    """Shows what a network costs, stage by stage, and which precision suits this machine's processor.

    Args:
        model: The name of a network, or a trained one: a network of this package, a name of `list_weights()`, the
            folder of a run or of kept weights, or a `.keras` or `.weights.h5` file.
        batch_size: Images whose signals are counted.

    Returns:
        A list of `StageCost`, for one image.

    Raises:
        ValueError: If `model` is none of these.
    """
    network = get_model(model) if is_model_name(model) else find_source(model, "model", list_models()).load()
    height, width = network.input_shape[1:3]
    size = None if height and width else (SIDE, SIDE)
    costs.summary(network, batch_size, size)
    if line := suited_precision():
        print(line)
    return costs.model_costs(network, size)
