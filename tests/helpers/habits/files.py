"""Habits: files, and other copies."""

import keras
import numpy as np
import tensorflow as tf

from habits.case import array, compiled, forward, habit, refused, same


@habit(".keras with the optimizer's state")
def _(case):
    model = compiled(case.fresh(), keras.optimizers.Adam(0.01))
    model.train_on_batch(case.x, case.y)
    model.save(case.folder / "model.keras")
    again = keras.models.load_model(case.folder / "model.keras")
    same(forward(again, case.x), forward(model, case.x))
    for ours, theirs in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))
    assert not keras.models.load_model(case.folder / "model.keras", compile=False).compiled


@habit(".h5")
def _(case):
    case.model.save(case.folder / "model.h5")
    again = keras.models.load_model(case.folder / "model.h5")
    same(forward(again, case.x), forward(case.model, case.x))


@habit(".weights.h5")
def _(case):
    case.model.save_weights(case.folder / "model.weights.h5")
    again = case.build()
    again.load_weights(case.folder / "model.weights.h5")
    same(forward(again, case.x), forward(case.model, case.x))


@habit("weights of another number of classes with skip_mismatch")
def _(case):
    case.model.save_weights(case.folder / "skipped.weights.h5")
    other = case.build(classes=5)
    assert refused(lambda: other.load_weights(case.folder / "skipped.weights.h5"))
    other.load_weights(case.folder / "skipped.weights.h5", skip_mismatch=True)
    same(other.get_weights()[0], case.weights[0])
    assert other.output_shape == (None, 5)


@habit("sharded weights")
def _(case):
    case.model.save_weights(case.folder / "shards.weights.json", max_shard_size=1)
    again = case.build()
    again.load_weights(case.folder / "shards.weights.json")
    same(again.get_weights()[0], case.weights[0])


@habit("weights by name from .h5")
def _(case):
    case.model.save(case.folder / "named.h5")
    again = case.build()
    again.load_weights(case.folder / "named.h5", by_name=True)
    same(again.get_weights()[0], case.weights[0])


@habit("weights as NumPy arrays in a file")
def _(case):
    np.savez(case.folder / "weights.npz", *case.weights)
    with np.load(case.folder / "weights.npz") as arrays:
        model = case.build()
        model.set_weights(list(arrays.values()))
    same(forward(model, case.x), forward(case.model, case.x))


@habit("tf.train.Checkpoint")
def _(case):
    path = tf.train.Checkpoint(model=case.model).save(str(case.folder / "checkpoint"))
    model = case.build()
    tf.train.Checkpoint(model=model).restore(path).assert_consumed()
    same(forward(model, case.x), forward(case.model, case.x))


@habit("export")
def _(case):
    case.model.export(case.folder / "exported", verbose=False)
    loaded = tf.saved_model.load(str(case.folder / "exported"))
    same(loaded.serve(case.x), forward(case.model, case.x))


@habit("quantize to int8")
def _(case):
    model = case.fresh()
    model.quantize("int8")
    assert model.layers[-1].quantization_mode == "int8"
    assert [layer.name for layer in model.layers if getattr(layer, "quantization_mode", None)] == ["predictions"]
    same(forward(model, case.x), forward(case.model, case.x), 0.1)
    model.save(case.folder / "quantized.keras")
    same(forward(keras.models.load_model(case.folder / "quantized.keras"), case.x), forward(model, case.x))


@habit("LoRA of the head")
def _(case):
    model = case.fresh()
    model.layers[-1].enable_lora(2)
    for layer in model.layers[:-1]:
        layer.trainable = False
    assert len(model.trainable_weights) == 3
    same(forward(model, case.x), forward(case.model, case.x))
