"""Networks cut at their additions into models of their own layers, so that F can be stopped, zeroed or replaced."""

import collections
import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf
from changed_weights import randomized

import keras_preact
from keras_preact.network.spec import NetworkSpec

# h and f are the identity in Fig. 4(c), (d) and (e); in (a) and (b) f is not.
WITH_IDENTITY_F = ("relu_before_addition", "relu_only_preactivation", "preactivation")
WITHOUT_IDENTITY_F = ("original", "bn_after_addition")


def build(layout="layers", **fields):
    """A network on 8x8 images, with two stages of basic units unless `fields` of its spec say else; seeded."""
    keras.utils.set_random_seed(0)
    spec = NetworkSpec(**{"units": (2, 4), "widths": (4, 8), "stem": {"width": 4}, "unit": "basic", **fields})
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=5, layout=layout)


def one_stage(units, width=2, **fields):
    """A network of basic units none of which changes the shape."""
    return build(units=(units,), widths=(width,), stem={"width": width}, **fields)


def normal(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def unit_names(model):
    return [unit.name for stage in model.spec.stages for unit in stage]


def unit_outputs(model):
    """The x_{l+1} of every unit: what the last of the layers that bear its name puts out."""
    last = {"_".join(layer.name.split("_")[:2]): layer.output for layer in model.layers}
    return [last[name] for name in unit_names(model)]


@dataclasses.dataclass
class Unit:
    """A unit of a built network in two models of its layers: x_l -> h, F and h, F -> y_l, x_{l+1}.

    Keras takes no output that is an input or comes twice, so h is left out if it is x_l, and x_{l+1} if it is y_l.
    """

    name: str
    has_identity: bool
    split: keras.Model
    join: keras.Model

    def parts(self, x, training):
        """Returns h(x_l) and F(x_l)."""
        parts = keras.tree.flatten(self.split(x, training=training))
        return x if self.has_identity else parts[0], parts[-1]

    def added(self, shortcut, branch, training):
        """Returns y_l and x_{l+1}."""
        parts = keras.tree.flatten(self.join([shortcut, branch], training=training))
        return parts[0], parts[-1]


Trace = collections.namedtuple("Trace", "xs shortcuts branches sums")


class Cut:
    """A built network cut at its additions: `stem` is images -> x_1, then `units`, and `head` is x_{L+1} -> output."""

    def __init__(self, model):
        x, self.units = model.get_layer("stem_relu").output, []
        self.stem = keras.Model(model.input, x)
        for name, out in zip(unit_names(model), unit_outputs(model)):
            add = model.get_layer(f"{name}_add")
            shortcut, branch = add.input
            split = keras.Model(x, [branch] if shortcut is x else [shortcut, branch])
            join = keras.Model(add.input, [add.output] if out is add.output else [add.output, out])
            self.units.append(Unit(name, shortcut is x, split, join))
            x = out
        self.head = keras.Model(x, model.output)

    def run(self, x, units=slice(None), training=True, stopped=False):
        """Applies units to x, `stopped` without a gradient through any F; returns a `Trace`, `xs` one longer."""
        trace = Trace([x], [], [], [])
        for unit in self.units[units]:
            shortcut, branch = unit.parts(trace.xs[-1], training)
            branch = tf.stop_gradient(branch) if stopped else branch
            y, x = unit.added(shortcut, branch, training)
            for values, value in zip(trace, (x, shortcut, branch, y)):
                values.append(value)
        return trace

    def loss_gradients(self, x, units, training, stopped):
        """Returns dE/dx_l and dE/dx_L for what `units` read and put out, E a cross-entropy of the whole network."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            end = self.run(x, units, training, stopped).xs[-1]
            last = self.run(end, slice(units.stop, None), training).xs[-1]
            loss = -tf.reduce_mean(tf.math.log(self.head(last, training=training)[:, 1]))
        return [array(gradient) for gradient in tape.gradient(loss, [x, end])]


@functools.cache
def random_cut(ordering, unit="basic"):
    """The `Cut` of a network of identity shortcuts with random weights."""
    return Cut(randomized(build(ordering=ordering, unit=unit)))


def direct_terms(model):
    """Returns, for a network of one stage, v^T dx_{L+1}/dx_l of every l from 1 to L + 1 in inference, and v, random."""
    start = model.get_layer("stem_relu").output
    ends = [layer.output for layer in model.layers if layer.name.startswith("stage")]
    ends = unit_outputs(model) if model.layout == "layers" else ends
    x, v = normal(2, *start.shape[1:]), normal(2, *start.shape[1:], seed=7)
    with tf.GradientTape() as tape:
        tape.watch(x)
        xs = [x, *keras.tree.flatten(keras.Model(start, ends)(x))]
    return [array(gradient) for gradient in tape.gradient(xs[-1], xs, output_gradients=v)], array(v)
