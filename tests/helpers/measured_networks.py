"""Small networks and images whose signals and gradients are measured."""

import keras
import numpy as np

import keras_preact
from keras_preact.network.spec import NetworkSpec


def build(layout="stacked", **fields):
    """A network on 8x8 images with two stages of basic units unless `fields` of its spec say else; seeded."""
    keras.utils.set_random_seed(0)
    spec = NetworkSpec(**{"units": (2, 3), "widths": (4, 6), "stem": {"width": 4}, "unit": "basic", **fields})
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=5, layout=layout)


def one_stage(units, width=2, **fields):
    """A network of basic units none of which changes the shape."""
    return build(units=(units,), widths=(width,), stem={"width": width}, **fields)


def batch(count=4):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)), np.arange(count) % 5
