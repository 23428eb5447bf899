"""Run by `test_mirrored.py`: networks under MirroredStrategy with two replicas."""

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.data import from_arrays, load
from keras_preact.training import checkpoints
from keras_preact.training.strategies import read

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(32, 8, 8, 3)), RNG.integers(10, size=32)


def batches():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16)


def trained(spec, folder, layout, strategy=None, **execution):
    """Trains four steps from the same weights; returns weights by name, and predictions before and after reloading."""
    start = folder / "start.weights.h5"
    if not start.exists():
        keras_preact.build_network(spec, input_shape=(8, 8, 3), dtype="float64").save_weights(start)
    with strategy.scope() if strategy else tf.device("CPU:0"):
        model = keras_preact.build_network(
            spec, input_shape=(8, 8, 3), dtype="float64", layout=layout, weights=start, **execution
        )
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    loss = model.fit(batches(), epochs=2, shuffle=False, verbose=0).history["loss"]
    predicted = model.predict(batches(), verbose=0)
    model.save(folder / "model.keras")
    reloaded = keras.models.load_model(folder / "model.keras").predict(IMAGES, batch_size=16, verbose=0)
    np.testing.assert_allclose(reloaded, predicted, rtol=0, atol=1e-6)
    weights = {}
    for name, (variable, index) in keras_preact.network.named_weights.named_weights(model).items():
        array = keras.ops.convert_to_numpy(variable.value)
        weights[name] = array if index is None else array[index]
    return {**weights, "loss": np.array(loss)}


def assert_same(ours, theirs, bound):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=bound, err_msg=name)


def spec(units=(1, 7), **fields):
    return keras_preact.NetworkSpec(units, (4, 4), "basic", stem={"width": 4}, **fields)


def synchronized(folder):
    """With synchronised statistics, two replicas compute what one device does, in either layout."""
    keras.config.set_floatx("float64")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    few = (1, 3)  # in straight code, as any number of synchronised units
    alone = trained(spec(few), folder, "stacked")
    assert_same(trained(spec(few, bn_synchronized=True), folder, "layers", strategy), alone, 1e-6)
    assert_same(trained(spec(few, bn_synchronized=True), folder, "stacked", strategy), alone, 1e-6)


def averaged(folder):
    """Without, replicas have their own batch statistics; the moving ones are averaged, equally in both layouts."""
    keras.config.set_floatx("float64")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    layered = trained(spec(), folder, "layers", strategy)
    assert_same(trained(spec(), folder, "stacked", strategy), layered, 1e-9)
    assert_same(trained(spec(), folder, "stacked", strategy, remat=3), layered, 1e-9)
    alone = trained(spec(), folder, "stacked")
    assert np.abs(alone["stage2_unit05_bn2/moving_mean"] - layered["stage2_unit05_bn2/moving_mean"]).max() > 1e-6


def train(folder):
    """A run equals one device's at the same global batch, clipped gradients, schedule and average of weights included.

    Its last batch of test images is not full, and a batch that does not fill both replicas is refused.
    """
    recipe = keras_preact.RECIPES["digits"].replace(
        epochs=2,
        global_batch_size=24,
        learning_rate=0.01,
        weight_decay_kind="decoupled",
        clip_norm=0.3,
        ema=0.9,
        bn_synchronized=True,
        precision="float64",
    )
    digits = load("digits")
    data = from_arrays(
        digits.train.images[:48], digits.train.labels[:48], digits.test.images[:90], digits.test.labels[:90]
    )
    ends = {}
    for name, replicas in (("none", 1), ("mirrored", 2)):
        card = keras_preact.train("ResNet8", data=data, recipe=recipe, output=folder / name, strategy=name, verbose=0)
        assert card["devices"]["replicas"] == replicas
        assert keras_preact.evaluate(folder / name, data=data)["error_percent"] == card["error_percent"]
        ends[name] = checkpoints.newest(folder / name / "checkpoints").arrays
    # Two metrics are the error's sum and count; the others are sums in float32.
    ours = {**ends["mirrored"], "metrics": ends["mirrored"]["metrics"].sum(0)[2:4]}
    assert_same(ours, {**ends["none"], "metrics": ends["none"]["metrics"][0, 2:4]}, 1e-6)
    with pytest.raises(ValueError, match="multiple of the 2 replicas"):
        keras_preact.train("ResNet11", recipe=recipe.replace(global_batch_size=1), output=folder / "other")
    assert not (folder / "other").exists()
    refused_options()


class Interrupt(keras.callbacks.Callback):
    """Ends a run with an error after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def levels(folder):
    """A training in levels, with Muon, equals one device's too, and a resume goes on in the level that it was in."""
    recipe = keras_preact.Recipe(
        source="a test's",
        levels=((8, 8, 1), (14, 0, 1)),
        epochs=2,
        optimizer="muon",
        global_batch_size=8,
        learning_rate=0.001,
        bn_synchronized=True,
        precision="float64",
        seed=0,
    )
    images, labels = RNG.integers(256, size=(37, 16, 16, 3)).astype("uint8"), np.arange(37) % 3
    data = from_arrays(images[:24], labels[:24], images[24:], labels[24:])
    ends = {}
    for name, strategy, steps in (("none", "none", 0), ("mirrored", "mirrored", 0), ("resumed", "mirrored", 5)):
        options = dict(data=data, recipe=recipe, output=folder / name, strategy=strategy, verbose=0, checkpoint_steps=1)
        if steps:  # of six, the first three of them in the first level
            with pytest.raises(InterruptedError):
                keras_preact.train("ResNet14", **options, callbacks=[Interrupt(steps)])
        keras_preact.train("ResNet14", **options)
        ends[name] = checkpoints.newest(folder / name / "checkpoints").arrays
    for name, array in ends["mirrored"].items():
        np.testing.assert_array_equal(ends["resumed"][name], array, err_msg=name)
    ours = {**ends["mirrored"], "metrics": ends["mirrored"]["metrics"].sum(0)[2:4]}
    assert_same(ours, {**ends["none"], "metrics": ends["none"]["metrics"][0, 2:4]}, 1e-6)


def drops(folder):
    """Each replica drops other elements, in both layouts, though all have the same images and generators."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    images = tf.constant(IMAGES[:4], tf.float32)
    for layout in ("layers", "stacked"):
        with strategy.scope():
            model = keras_preact.ResNet(8, input_shape=(8, 8, 3), shortcut="dropout", layout=layout)
        outputs = tf.function(lambda model=model: strategy.run(lambda: model(images, training=True)))()
        first, second = strategy.experimental_local_results(outputs)
        assert np.abs(first - second).max() > 1e-4, layout


def overflow(folder):
    """A step whose gradients overflow on any replica is left out, and the scale of the loss halved."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for wrapped in (False, True):
        with strategy.scope():
            model = keras_preact.ResNet(8, input_shape=(8, 8, 3), dtype="mixed_float16")
            sgd = keras.optimizers.SGD(0.1, momentum=0.9)
            model.compile(keras.optimizers.LossScaleOptimizer(sgd, initial_scale=8.0) if wrapped else sgd, "mse")
            optimizer, weights = model.optimizer, model.trainable_variables
            optimizer.build(weights)
        before, scale = model.get_weights(), float(read(optimizer.dynamic_scale))
        assert scale == (8.0 if wrapped else 2.0**15)
        for bad, steps in ((0, 0), (1, 0), (2, 1)):  # the last is no replica's number

            def step(optimizer=optimizer, weights=weights, bad=bad):
                context = tf.distribute.get_replica_context()
                is_bad = tf.equal(context.replica_id_in_sync_group, bad)
                gradients = [tf.fill(weight.shape, tf.where(is_bad, np.inf, 1.0)) for weight in weights]
                optimizer.apply([tf.cast(gradient, tf.float32) for gradient in gradients], weights)

            tf.function(lambda step=step: strategy.run(step))()
            assert int(read(optimizer.iterations)) == steps, bad
            unchanged = all(np.array_equal(one, other) for one, other in zip(before, model.get_weights()))
            assert unchanged == (steps == 0), bad
        assert float(read(optimizer.dynamic_scale)) == scale / 4


def refused_options():
    """What Keras cannot do with several replicas is refused, or turned off, in this package's words."""
    # A second strategy in one process collides with the first, unless it reduces without collective operations.
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = keras_preact.ResNet(11, input_shape=(8, 8, 3))
    loss, sgd = "sparse_categorical_crossentropy", keras.optimizers.SGD
    with pytest.warns(UserWarning, match="no XLA for 2 replicas"):
        model.compile(sgd(0.01), loss, jit_compile=True)
    assert np.isfinite(model.fit(batches(), verbose=0).history["loss"][0])
    with pytest.raises(ValueError, match=r"steps_per_execution.*1 with 2 replicas.*=2"):
        model.compile(sgd(0.01), loss, steps_per_execution=2)
    scaled = keras.optimizers.LossScaleOptimizer(sgd(0.01, gradient_accumulation_steps=2))
    for optimizer, option in (
        (sgd(0.01, gradient_accumulation_steps=2), "gradient_accumulation_steps"),
        (scaled, "gradient_accumulation_steps"),
        (sgd(0.01, use_ema=True, ema_overwrite_frequency=1), "ema_overwrite_frequency"),
    ):
        with pytest.raises(ValueError, match=f"{option}.*left out of the optimizer with 2 replicas"):
            model.compile(optimizer, loss)
    model.compile(sgd(0.01, use_ema=True), loss)


if __name__ == "__main__":
    {
        "synchronized": synchronized,
        "averaged": averaged,
        "train": train,
        "levels": levels,
        "drops": drops,
        "overflow": overflow,
    }[sys.argv[1]](pathlib.Path(sys.argv[2]))
    print(f"{sys.argv[1]}: done")
