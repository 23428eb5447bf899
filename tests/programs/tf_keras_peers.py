"""Writes weights files of tf2cv and keras.applications under tf-keras, and what these networks answer. Not a test.

`python tests/programs/tf_keras_peers.py FOLDER NAME ...`: for each NAME a weights file NAME.h5 in the layout that its
published weights have, and NAME.npz with images, logits and the signals behind every stage. Weights are random; the
moving statistics are those of a batch, since in an untrained deep network inference else overflows. Everything is
computed in float64 with weights that float32 holds: in float32 a thousand layers make percents of the rounding.
"""

import os
import pathlib
import random
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tf_keras
from tf2cv.models import preresnet, preresnet_cifar

KERAS_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def keras_network(depth):
    """Returns keras.applications' V2 network and a model of its stages' signals and its logits."""
    build = getattr(tf_keras.applications, f"ResNet{depth}V2")
    network = build(weights=None, input_shape=(72, 88, 3), classifier_activation=None)
    # Each stage's last unit has its stride: what the next stage reads is our stage's output, subsampled.
    names = [f"conv{stage}_block{units}_out" for stage, units in enumerate(KERAS_STAGES[depth], start=2)]
    outputs = [*(network.get_layer(name).output for name in names), network.output]
    return network, tf_keras.Model(network.input, outputs), (72, 88, 3)


def tf2cv_network(name):
    """Returns a network of tf2cv and a function of its stages' signals and its logits."""
    is_cifar = "cifar" in name
    network = getattr(preresnet_cifar if is_cifar else preresnet, name)()

    def signals(images, training=False):
        x, stages = images, []
        for part in network.features.children:
            x = part(x, training=training)
            if part.name.startswith("features/stage"):
                stages.append(x)
        return [*stages, network.output1(tf.reshape(x, (len(x), -1)))]

    return network, signals, (32, 32, 3) if is_cifar else (224, 224, 3)


def randomize(network, signals, images):
    """Draws scales, offsets and biases at random, takes moving statistics from `images`, rounds all to float32."""
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        if len(variable.shape) == 1:
            variable.assign(("gamma" in variable.name) + 0.2 * rng.normal(size=variable.shape))
    norms = [part for part in network.submodules if isinstance(part, tf_keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    signals(images, training=True)
    for variable in network.variables:
        variable.assign(variable.numpy().astype("float32").astype("float64"))


def write(folder, name):
    random.seed(1)  # tf_keras.utils.set_random_seed breaks initializers on Python 3.12
    tf.random.set_seed(1)
    network, signals, shape = keras_network(int(name[6:-2])) if name.endswith("V2") else tf2cv_network(name)
    images = np.random.default_rng(2).normal(size=(4, *shape)).astype("float32").astype("float64")
    network(images[:1])
    randomize(network, signals, images)
    network.save_weights(folder / f"{name}.h5", save_format="h5")
    *stages, logits = (np.asarray(signal) for signal in signals(images[:2], training=False))
    stages = {f"stage{number}": stage for number, stage in enumerate(stages, start=1)}
    np.savez(folder / f"{name}.npz", images=images[:2], logits=logits, **stages)


if __name__ == "__main__":
    tf_keras.backend.set_floatx("float64")
    for peer in sys.argv[2:]:
        write(pathlib.Path(sys.argv[1]), peer)
