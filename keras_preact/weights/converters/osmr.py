"""O. Semery's TensorFlow 2 files (package tf2cv): CIFAR and ImageNet networks, HDF5.

Names end in `stage1/unit2/body/conv3/conv/kernel`, in front of which Keras put the names of the layers around, some of
them twice.
"""

import itertools
import re

from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.spec import NetworkSpec
from keras_preact.weights.converters.hdf5 import read

__all__ = ["our_name", "read"]

UNIT = re.compile(r"(?:^|/)stage(\d+)/unit(\d+)/(?:body/conv(\d)/(conv|bn)|(identity_conv)(?:/conv)?)/(\w+)$")
OTHERS = {
    "init_block/conv": "stem_conv",
    "init_block/bn": "stem_bn",
    "post_activ/bn": "final_bn",
    "output1": CLASSIFIER,
}


def our_name(theirs: str, spec: NetworkSpec) -> str:
    """Returns what we call the array `theirs` of a network of `spec`; names that fit nothing come back unchanged."""
    name = "/".join(part for part, _ in itertools.groupby(theirs.split("/")))
    if found := UNIT.search(name):
        stage, unit, number, kind, identity, variable = found.groups()
        try:
            unit_name = spec.stages[int(stage) - 1][int(unit) - 1].name
        except IndexError:
            return theirs
        return f"{unit_name}_{'shortcut_conv' if identity else kind + number}/{variable}"
    layer, _, variable = name.rpartition("/")
    for ending, ours in OTHERS.items():
        if f"/{layer}".endswith(f"/{ending}"):
            return f"{ours}/{variable}"
    return theirs
