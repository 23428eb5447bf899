"""Habits: networks within bigger models."""

import keras
import numpy as np
import tensorflow as tf

from habits.case import BATCH, CLASSES, SIDE, array, changed, compiled, forward, habit, same, statistics, step, values


@habit("another head on the pooled features")
def _(case):
    base = case.fresh()
    base.trainable = False
    outputs = keras.layers.Dense(2, activation="softmax", name="own")(base.layers[-2].output)
    model = keras.Model(base.input, outputs)
    assert [v.path for v in model.trainable_weights] == ["own/kernel", "own/bias"]
    before = values(base.weights)
    compiled(model).fit(case.x, case.y % 2, verbose=0)
    assert changed(base.weights, before) == []


@habit("in a Sequential")
def _(case):
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), case.fresh(include_top=True), keras.layers.Dense(2)])
    assert model.output_shape == (None, 2)
    assert compiled(model, loss="mse").train_on_batch(case.x, np.zeros((BATCH, 2))) > 0
    assert len(model.layers) == 2


@habit("in a functional model after Rescaling")
def _(case):
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, case.model(keras.layers.Rescaling(2.0)(inputs)))
    same(forward(model, case.x / 2), forward(case.model, case.x))
    assert model.get_layer("resnet_v2") is case.model


@habit("in a bigger model's file")
def _(case):
    inputs = keras.Input((SIDE, SIDE, 3))
    model = keras.Model(inputs, keras.layers.Rescaling(2.0)(case.model(inputs)))
    model.save(case.folder / "bigger.keras")
    same(forward(keras.models.load_model(case.folder / "bigger.keras"), case.x), forward(model, case.x))


@habit("shared by two inputs")
def _(case):
    left, right = keras.Input((SIDE, SIDE, 3)), keras.Input((SIDE, SIDE, 3))
    model = keras.Model([left, right], keras.layers.Subtract()([case.model(left), case.model(right)]))
    assert len(model.weights) == len(case.weights)
    same(forward(model, [case.x, case.x]), np.zeros((BATCH, CLASSES)))


@habit("frozen, and in inference within a model in training")
def _(case):
    base = case.fresh()
    base.trainable = False  # without it, Keras' `fit` overrides training=False, of either's network
    inputs = keras.Input((SIDE, SIDE, 3))
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(base(inputs, training=False))
    model = compiled(keras.Model(inputs, outputs))
    before = values(statistics(base))
    step(case, model)
    assert changed(statistics(base), before) == []


@habit("frozen within a model, then thawed")
def _(case):
    base = case.fresh()
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), base, keras.layers.Dense(2, name="own")])
    base.trainable = False
    assert len(model.trainable_weights) == 2
    base.trainable = True
    assert len(model.trainable_weights) == 2 + len(case.model.trainable_weights)


@habit("the signal of every layer")
def _(case):
    signals = keras.Model(case.model.input, [layer.output for layer in case.model.layers[1:]])(case.x, training=False)
    assert all(np.isfinite(array(signal)).all() for signal in signals)
    same(signals[-1], forward(case.model, case.x))


@habit("a signal within a unit")
def _(case):
    part = keras.Model(case.model.input, case.model.get_layer(case.inner).output)
    assert forward(part, case.x).shape[-1] == 8


@habit("Grad-CAM")
def _(case):
    last, output = case.model.get_layer(case.last).output, case.model.output
    with tf.GradientTape() as tape:
        signal, probabilities = keras.Model(case.model.input, [last, output])(case.x, training=False)
        score = tf.reduce_max(probabilities, axis=-1)
    weights = tf.reduce_mean(tape.gradient(score, signal), axis=(1, 2))
    heat = tf.nn.relu(tf.einsum("bhwc,bc->bhw", signal, weights))
    assert heat.shape == signal.shape[:3]
    assert np.abs(weights).max() > 0


@habit("the gradient of the images")
def _(case):
    x = tf.convert_to_tensor(case.x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = case.model(x, training=False)[:, 0]
    assert np.abs(tape.gradient(score, x)).max() > 0
