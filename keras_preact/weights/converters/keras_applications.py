"""ResNet50V2, 101V2 and 152V2 of keras.applications: HDF5 with names such as `conv2_block1_1_conv/kernel`."""

import re

from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.spec import NetworkSpec
from keras_preact.weights.converters.hdf5 import read

__all__ = ["our_name", "read"]

UNIT = re.compile(r"conv(\d+)_block(\d+)_(\w+)")
PARTS = {
    "preact_bn": "bn1",
    "0_conv": "shortcut_conv",
    "1_conv": "conv1",
    "1_bn": "bn2",
    "2_conv": "conv2",
    "2_bn": "bn3",
    "3_conv": "conv3",
}
OTHERS = {"conv1_conv": "stem_conv", "post_bn": "final_bn", "predictions": CLASSIFIER, "probs": CLASSIFIER}


def our_name(theirs: str, spec: NetworkSpec) -> str:
    """Returns what we call the array `theirs` of a network of `spec`; names that fit nothing come back unchanged."""
    layer, _, variable = theirs.rpartition("/")
    layer = layer.rpartition("/")[2]
    if found := UNIT.fullmatch(layer):
        stage, unit, part = found.groups()
        try:
            return f"{spec.stages[int(stage) - 2][int(unit) - 1].name}_{PARTS[part]}/{variable}"
        except (IndexError, KeyError):
            return theirs
    return f"{OTHERS[layer]}/{variable}" if layer in OTHERS else theirs
