"""Habits: layers that are frozen, regularized or constrained."""

import re

import keras

from habits.case import BatchNormalization, changed, compiled, forward, habit, same, statistics, step, values


@habit("freeze all but the head")
def _(case):
    model = case.fresh()
    for layer in model.layers[:-1]:
        layer.trainable = False
    assert [v.path for v in model.trainable_weights] == ["predictions/kernel", "predictions/bias"]
    before = values(model.weights)
    step(case, compiled(model))
    assert changed(model.weights, before) == ["predictions/kernel", "predictions/bias"]  # statistics, too, stay


@habit("freeze the whole, and thaw it")
def _(case):
    model, count = case.model, len(case.model.trainable_weights)
    model.trainable = False
    frozen = len(model.trainable_weights), any(layer.trainable for layer in model.layers)
    model.trainable = True
    assert (frozen, len(model.trainable_weights)) == ((0, False), count)


@habit("freeze the first layers")
def _(case):
    layers = case.model.layers
    for layer in layers[:4]:
        layer.trainable = False
    left = [v.path for layer in layers[4:] for v in layer.trainable_weights]
    found = [v.path for v in case.model.trainable_weights]
    for layer in layers[:4]:
        layer.trainable = True
    assert found == left
    assert len(left) < len(case.model.trainable_weights)


@habit("freeze the batch normalisations")
def _(case):
    model = case.fresh()
    for layer in model.layers:
        if isinstance(layer, BatchNormalization):
            layer.trainable = False
    before = values(model.weights)
    step(case, compiled(model))
    moved = changed(model.weights, before)
    assert [path for path in moved if re.search("gamma|beta|moving", path)] == []
    assert [path for path in moved if "kernel" in path]


@habit("freeze one unit")
def _(case):
    model = case.fresh()
    part = model.get_layer(case.inner)
    for layer in model.layers:
        if layer.name.startswith(case.unit):
            layer.trainable = False
    assert not part.trainable
    before = values(model.weights)
    step(case, compiled(model))
    moved = changed(model.weights, before)
    assert [path for path in moved if path.startswith(case.unit)] == []
    assert [path for path in moved if path.startswith("predictions")]


@habit("frozen layers stay frozen in a copy")
def _(case):
    model = case.fresh()
    for layer in model.layers[:-1]:
        layer.trainable = False
    again = keras.models.clone_model(model)
    assert [v.path for v in again.trainable_weights] == ["predictions/kernel", "predictions/bias"]


@habit("statistics move in training only")
def _(case):
    model = case.fresh()
    before = values(statistics(model))
    model(case.x, training=False)
    model(case.x)
    assert changed(statistics(model), before) == []
    model(case.x, training=True)
    assert len(changed(statistics(model), before)) == len(before) > 0


@habit("statistics of a frozen network stay")
def _(case):
    model = case.fresh()
    model.trainable = False
    before = values(statistics(model))
    same(model(case.x, training=True), forward(model, case.x))
    assert changed(statistics(model), before) == []
