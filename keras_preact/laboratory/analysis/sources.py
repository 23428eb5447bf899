"""Where `explain` gets its network and its images from."""

import numpy as np
from keras import ops

from keras_preact.data.dataset import DataLike, DataSet
from keras_preact.data.files import spread
from keras_preact.errors import argument_error
from keras_preact.laboratory.analysis.measure import has_loss
from keras_preact.network.families import is_model_name, model_key
from keras_preact.network.model import ResidualNetwork
from keras_preact.training.evaluation import data_of, fitting_data, loaded
from keras_preact.training.source import Trained, find_source
from keras_preact.types import PathLike
from keras_preact.zoo import get_model, list_models


def find_network(
    model: Trained,
    data: DataLike | None = None,
    data_dir: PathLike | None = None,
    image_size: int | None = None,
) -> tuple[ResidualNetwork, DataSet]:
    """Returns the `ResidualNetwork` that `model` means, and the `DataSet` to measure it on.

    Args:
        model: A network's name, which is built untrained for the data; or a trained network: see
            `training.source.find_source`.
        data: The name of a data set, or a `DataSet`. If None, what the network was trained on; the digits if that is
            not known. The images of a trained network are normalised as those that it was trained on.
        data_dir: The folder in which to look for it; likewise.
        image_size: Pixels of a side of image files, where `model` is a name.

    Raises:
        ValueError: If `model` is none of these, or holds no network of this package, or its data set is not there, or
            a trained network gets an `image_size`.
    """
    if is_model_name(model):
        key, data = model_key(model), loaded("digits" if data is None else data, data_dir, image_size)
        shape = (None, None, data.image_shape[-1])  # the images decide the size
        return get_model(key, input_shape=shape, num_classes=len(data.class_names), layout="stacked"), data
    if image_size is not None:
        raise argument_error("image_size", "left out with a trained network, which has its own", image_size)
    source = find_source(model, "model", list_models())
    if data is None and source.data is not None:
        try:
            data = data_of(source, data_dir)
        except ValueError as error:
            hint = 'Other images show much of the same: data="digits" (--data digits) comes with scikit-learn.'
            raise ValueError(f"{error} {hint}") from error
    else:
        data = fitting_data(source, "digits" if data is None else data, data_dir)
    return source.load(), source.normalized(data)


def batch_for(network: ResidualNetwork, data: DataSet, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns `count` normalised test images that the network has a class for, in its size, and their labels.

    They are evenly spread: files are sorted by class.

    A network without a classifier, or with one whose loss is not known, gets None for labels.

    Raises:
        ValueError: If the images have other channels than the network reads, unless they have one, which is repeated.
    """
    chosen = np.arange(len(data.test))
    if network.has_top:
        chosen = chosen[data.test.labels < max(2, network.output_shape[-1])]  # one sigmoid output tells two
    chosen = chosen[spread(len(chosen), count)]
    images = data.normalized(data.test.read(chosen))
    *sides, channels = network.input_shape[1:]
    if images.shape[-1] not in (1, channels):
        expected = f"a data set whose images have {channels} channels, as the network reads them"
        raise argument_error("data", expected, data.name)
    size = tuple(side or max(own, network.spec.minimum_size) for side, own in zip(sides, images.shape[1:3]))
    if size != images.shape[1:3]:
        images = ops.convert_to_numpy(ops.image.resize(images, size, data_format="channels_last"))
    images = np.repeat(images, channels, axis=-1) if images.shape[-1] != channels else images
    return images, data.test.labels[chosen] if has_loss(network) else None
