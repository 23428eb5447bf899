"""A small trained network, and its weights as each source of published weights writes them."""

import dataclasses
import hashlib
import json

import h5py
import keras
import numpy as np
import safetensors.numpy

import keras_preact
from keras_preact.network.named_weights import named_weights
from keras_preact.weights.cards import Card
from keras_preact.weights.preprocessing import Preprocessing

SPEC = keras_preact.NetworkSpec((2, 2), (4, 8), stem={"width": 4, "activates": False}, stride_on="3x3")
CLASSES = ("ant", "bee", "cat", "dog")
BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def build(weights=None, num_classes=len(CLASSES), shape=(8, 8, 3), spec=SPEC, **arguments):
    arguments = {"num_classes": num_classes, "input_shape": shape, "classifier_activation": None, **arguments}
    return keras_preact.build_network(spec, weights=weights, **arguments)


def trained(seed=0):
    """A network whose weights and statistics are all random."""
    keras.utils.set_random_seed(seed)
    model, rng = build(), np.random.default_rng(seed)
    model.set_weights([array + 0.1 * np.abs(rng.normal(size=array.shape)) for array in model.get_weights()])
    return model


def images(channels=3, count=2):
    return np.random.default_rng(1).normal(size=(count, 8, 8, channels)).astype("float32")


def arrays_of(model):
    """Every weight by its name in the layout of layers."""
    values = {name: (variable.numpy(), index) for name, (variable, index) in named_weights(model).items()}
    return {name: value if index is None else value[index] for name, (value, index) in values.items()}


def osmr_name(name):
    """How O. Semery's files call our `name`, with the names that Keras puts around."""
    layer, variable = name.split("/")
    known = {"stem_conv": "init_block/conv", "final_bn": "post_activ/bn", "predictions": "output1/output1"}
    if layer in known:
        return f"{'' if layer == 'predictions' else 'features/net/features/'}{known[layer]}/{variable}:0"
    stage, unit, part = layer.split("_", 2)
    part = "identity_conv/conv" if part == "shortcut_conv" else f"body/conv{part[-1]}/{part[:-1]}/{part[:-1]}"
    return f"features/net/features/features/{stage}/{stage}/unit{int(unit[4:])}/{part}/{variable}:0"


def timm_name(name):
    """How timm calls our `name`."""
    layer, variable = name.split("/")
    variable = {"kernel": "weight", "bias": "bias", **BN}[variable]
    known = {"stem_conv": "stem.conv", "final_bn": "norm", "predictions": "head.fc"}
    if layer in known:
        return f"{known[layer]}.{variable}"
    stage, unit, part = layer.split("_", 2)
    part = "downsample.conv" if part == "shortcut_conv" else part.replace("bn", "norm")
    return f"stages.{int(stage[5:]) - 1}.blocks.{int(unit[4:]) - 1}.{part}.{variable}"


def write_osmr(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[osmr_name(name) if "/" in name and name.count("/") == 1 else name] = array


def write_timm(path, arrays):
    theirs = {"norm.num_batches_tracked": np.array(7)}
    for name, array in arrays.items():
        if name == "predictions/kernel":
            array = array[None, None]
        theirs[timm_name(name)] = np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
    safetensors.numpy.save_file(theirs, path)


WRITERS = {"osmr": write_osmr, "timm": write_timm}


def card_of(path, converter="osmr", **fields):
    """A card of the small network, for the file `path`."""
    return Card(
        name="tiny.pets.test",
        network="tiny",
        dataset="pets",
        author="us",
        licence="none",
        recipe="none",
        error_percent=1.0,
        published="",
        preprocessing=Preprocessing((8, 8), (127.5,) * 3, (127.5,) * 3),
        classes=CLASSES,
        megabytes=0.1,
        spec=SPEC.to_dict(),
        converter=converter,
        url=f"http://nowhere.invalid/{path.name}",
        digest=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        **fields,
    )


def run_card(network, /, **fields):
    """Returns what the card of a run must say, as JSON holds it, of a network that may be any."""
    height, width, channels = network.input_shape[1:]
    card = {
        "model": "resnet11",
        "data": "digits",
        "recipe": {"name": "ours", "source": "a test", "seed": 3},
        "error_percent": 12.5,
        "network": network.get_config(),
        "classes": [f"class {number}" for number in range(network.output_shape[-1])],
        "preprocessing": {"size": [height, width], "mean": [1.0] * channels, "std": [4.0] * channels},
    }
    return json.loads(json.dumps({**card, **fields}))


def with_card(folder):
    """Returns a card whose file is in `folder`, and its network."""
    model = trained()
    path = folder / "model.weights.h5"
    model.save_weights(path)
    return dataclasses.replace(card_of(path), path=str(path), converter=None), model
