"""A habit is a function of a `Case` that asserts what `keras.applications.ResNet50V2` gives a person.

Every habit is run on a network that the function of `keras.applications` builds, with fewer and narrower units, and on
ours in both layouts. `REFUSED` lists those that ours answers with one sentence.
"""

import functools
import re
from dataclasses import dataclass, field

import keras
import numpy as np
from keras.src.applications import resnet

import keras_preact

CLASSES, BATCH, SIDE = 3, 4, 32
HABITS = {}
SPEC = keras_preact.NetworkSpec((3,), (8,), stem={"width": 8, "strides": 4})
Conv2D, BatchNormalization = keras.layers.Conv2D, keras.layers.BatchNormalization

# What each of ours answers with one sentence, and a word of it; all else does what keras.applications' does.
ONE_FILE = {"sharded weights": "max_shard_size", "weights by name from .h5": r"\.weights\.h5"}
REFUSED = {
    "keras.applications": {},
    "layers": ONE_FILE,
    "stacked": {
        **ONE_FILE,
        "freeze the batch normalisations": 'layout="layers"',
        "freeze one unit": 'layout="layers"',
        "a signal within a unit": 'layout="layers"',
        "regularize all convolutions": 'layout="layers"',
        "constrain all kernels": 'layout="layers"',
    },
}


def as_keras_applications(classes=CLASSES, **options):
    """Returns a network of the function that `keras.applications.ResNet50V2` calls, with 3 units of few channels."""

    def units(x):
        return resnet.stack_residual_blocks_v2(x, 8, 3, name="conv2")

    options = {"input_shape": (SIDE, SIDE, 3), **options}
    return resnet.ResNet(units, True, True, name="resnet_v2", weights=None, classes=classes, **options)


def ours(layout, classes=CLASSES, **options):
    """Returns a network of this package with as many units."""
    options = {"input_shape": (SIDE, SIDE, 3), **options}
    return keras_preact.build_network(SPEC, num_classes=classes, layout=layout, name="resnet_v2", **options)


@dataclass
class Case:
    """Holds one kind of network: how it is built, its layers' names, and a network that habits leave as it is."""

    kind: str
    folder: object
    build: object = field(init=False)

    def __post_init__(self):
        is_theirs = self.kind == "keras.applications"
        self.build = as_keras_applications if is_theirs else functools.partial(ours, self.kind)
        self.last, self.inner, self.unit = (
            ("post_relu", "conv2_block2_2_conv", "conv2_block2")
            if is_theirs
            else ("final_relu", "stage1_unit02_conv2", "stage1_unit02")
        )
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype("float32")
        self.y = np.arange(BATCH) % CLASSES
        keras.utils.set_random_seed(0)
        self.model = self.build()
        self.weights = self.model.get_weights()
        self.trained = None

    def fresh(self, **options):
        """Returns a new network with the weights of `model`."""
        model = self.build(**options)
        model.set_weights(self.weights)
        return model

    def in_graph(self):
        """Returns the one network that is compiled to a graph, which is traced once for all habits."""
        if self.trained is None:
            self.trained = compiled(self.fresh(), run_eagerly=False, metrics=["accuracy"])
        return self.trained


def habit(name):
    """Returns a decorator that adds a function to `HABITS`."""

    def add(function):
        assert name not in HABITS
        HABITS[name] = function
        return function

    return add


def compiled(model, optimizer=None, loss="sparse_categorical_crossentropy", run_eagerly=True, **options):
    """Compiles a model, op by op unless said: a graph takes longer to trace than these networks to train."""
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly, **options)
    return model


def step(case, model, **options):
    """Trains a compiled model for one step."""
    return model.fit(case.x, case.y, batch_size=BATCH, verbose=0, **options)


def array(tensor):
    """Returns a copy of a tensor or variable as an array, in float64 so that bfloat16 compares, too."""
    tensor = tensor.value if isinstance(tensor, keras.Variable) else tensor
    return np.array(tensor.numpy() if hasattr(tensor, "numpy") else tensor, "float64")


def values(variables):
    return [array(variable) for variable in variables]


def changed(variables, before):
    """Returns the paths of the variables that are no longer what they were."""
    return [v.path for v, old in zip(variables, before, strict=True) if not np.array_equal(array(v), old)]


def same(first, second, bound=1e-5):
    np.testing.assert_allclose(array(first), array(second), atol=bound, rtol=bound)


def statistics(model):
    return [v for v in model.non_trainable_weights if "moving" in v.path]


def forward(model, x):
    return array(model(x, training=False))


def refused(call):
    try:
        call()
    except ValueError:
        return True
    return False


def attempt(case, name):
    """Runs a habit; returns None if all is as it should be, else what was wrong."""
    sentence = REFUSED[case.kind].get(name)
    try:
        HABITS[name](case)
    except (ValueError, NotImplementedError) as error:
        if sentence is None or not re.search(sentence, str(error)) or "Received" not in str(error):
            return f"{name}: {type(error).__name__}: {error}"
        return None
    except Exception as error:  # any other is a habit that does not hold
        return f"{name}: {type(error).__name__}: {error}"
    return None if sentence is None else f"{name}: not refused"
