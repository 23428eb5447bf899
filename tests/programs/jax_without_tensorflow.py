"""Run by `test_jax.py`: builds, trains, saves and compares networks on JAX without TensorFlow."""

import csv
import functools
import json
import os
import pathlib
import sys


class NoTensorFlow:
    """An import hook that hides TensorFlow, as on a machine that has none."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r} (hidden by the test)", name=name)
        return None


sys.meta_path.insert(0, NoTensorFlow())

import jax
import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import Augmentation, from_arrays, load
from keras_preact.data.batches import TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.exporting import Preprocessing
from keras_preact.training.evaluation import evaluation_metrics
from keras_preact.training.strategies import make_devices
from keras_preact.training.training_model import Crossentropy, TrainingModel


def training(folder):
    """Arrays in, a model out: fit, evaluate, predict, save and load, and the whole `train` with a run folder."""
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 8, 8, 3)).astype("float32"), np.arange(16) % 4
    model = keras_preact.ResNet(11, input_shape=(8, 8, 3), num_classes=4, stochastic_depth=0.2)
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    history = model.fit(images, labels, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert np.isfinite(model.evaluate(images, labels, verbose=0))
    expected = model.predict(images, verbose=0)
    model.save(folder / "model.keras")
    again = keras.models.load_model(folder / "model.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)
    model.save_weights(folder / "model.weights.h5")
    again.load_weights(folder / "model.weights.h5")
    own_arrays(model, images, labels)
    recipe = keras_preact.RECIPES["digits"].replace(steps=4, global_batch_size=16, ema=0.9)
    card = keras_preact.train("ResNet8", recipe=recipe, output=folder / "run", verbose=0)
    assert card["versions"]["jax"]
    assert not (folder / "run" / "saved_model").exists()
    assert keras_preact.evaluate(folder / "run")["error_percent"] == card["error_percent"]
    given = {"class_names": range(4), "sample_images": rng.integers(0, 256, (4, 8, 8, 3)).astype("uint8")}
    preprocessing = Preprocessing((8, 8), (127.5,) * 3, (60.0,) * 3)
    report = keras_preact.export(model, folder / "export", "onnx", preprocessing=preprocessing, **given)
    assert report["formats"]["onnx"]["probability_difference"] < 1e-5
    every_epoch_is_measured_on_every_image(folder)
    steps_do_not_wait(folder)
    prepared_batches_begin_where_they_stand()
    preparation()
    far_from_the_label()
    peers()


def every_epoch_is_measured_on_every_image(folder):
    """The last of three epochs sees each of three batches of test images once."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(600, 8, 8, 1)).astype("uint8"), np.arange(600) // 60
    data = from_arrays(images[:16], labels[:16], images, labels, class_names=range(10))
    recipe = keras_preact.Recipe(epochs=3, global_batch_size=16, learning_rate=0.01, warmup_steps=0)
    card = keras_preact.train("ResNet8", data=data, recipe=recipe, output=folder / "epochs", verbose=0)
    last = list(csv.DictReader((folder / "epochs" / "history.csv").read_text().splitlines()))[-1]
    assert float(last["val_error_percent"]) == pytest.approx(card["error_percent"], abs=1e-3)
    loss = keras_preact.evaluate(folder / "epochs", data)["loss"]
    assert float(last["val_loss"]) == pytest.approx(loss, rel=1e-4)


def steps_do_not_wait(folder):
    """JAX puts the model's state in place when a callback asks for the model: not at each of the 17 steps."""
    synced, sync = [], TrainingModel.jax_state_sync
    TrainingModel.jax_state_sync = lambda model: (synced.append(model), sync(model))[1]
    recipe = keras_preact.RECIPES["digits"].replace(epochs=1, global_batch_size=80)
    keras_preact.train("ResNet8", recipe=recipe, output=folder / "steps", verbose=2)
    few = len(synced)
    keras_preact.train("ResNet8", recipe=recipe, output=folder / "saved", verbose=2, checkpoint_steps=1)
    TrainingModel.jax_state_sync = sync
    assert few < 12, few
    assert len(synced) - few > 17


def prepared_batches_begin_where_they_stand():
    """Keras on JAX looks at a batch, and ends an epoch, before the first."""
    read = []

    class Batches(TrainingBatches):
        def __getitem__(self, index):
            read.append((self.epoch, self.step + index))
            return super().__getitem__(index)

    batches = Batches(load("digits"), 256, seed=0)  # five in an epoch
    batches.set_position(0, 1)
    model = keras_preact.ResNet(8, input_shape=(16, 16, 1))
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    prepared = batches.prepared()
    model.fit(prepared, shuffle=False, verbose=0)
    assert read[-4:] == [(0, 1), (0, 2), (0, 3), (0, 4)], read
    model.fit(prepared, shuffle=False, verbose=0)
    assert read[-5:] == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)], read


def own_arrays(model, images, labels):
    """A step gives the arrays of its model away; a copy in another layout keeps its own, also its optimizer."""
    other = keras_preact.relayout(model, "stacked")
    other.train_on_batch(images, labels)
    for one in (model, other):
        for variable in [*one.variables, *one.optimizer.variables]:
            assert np.isfinite(keras.ops.convert_to_numpy(variable.value)).all()


def peers():
    """Once JAX has computed it looks for no other processes: trained weights are to be a file."""
    os.environ["KERAS_DISTRIBUTION_NUM_PROCESSES"] = "2"
    with pytest.raises(ValueError, match=r"strategy.*Pass trained weights as a file's path"):
        make_devices("auto")


def preparation():
    """Batches are prepared alike eagerly and compiled, with the images as an argument or on the device."""
    data = load("digits")
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=5, mixup=0.2, cutmix=1.0)
    prepared = []
    for resident in (False, True):
        prepare = Preparation(data, augmentation, resident)
        tables = [variable.value for variable in prepare.non_trainable_variables]
        inputs, labels = TrainingBatches(data, 32, seed=0, augmentation=augmentation, resident=resident)[3]
        prepared.append(prepare(inputs, labels, training=True))
        step = functools.partial(prepare.stateless_call, [], training=True)
        prepared.append(jax.jit(step)(tables, inputs, labels)[0])
        constants = jax.make_jaxpr(step)(tables, inputs, labels).consts
        assert sum(getattr(constant, "nbytes", 0) for constant in constants) < 1000, "the images are in the program"
    for images, mixed in prepared:
        np.testing.assert_allclose(images, prepared[0][0], atol=1e-5)
        np.testing.assert_allclose(mixed, prepared[0][1], atol=1e-6)
        np.testing.assert_allclose(mixed.sum(axis=1), 1.0, atol=1e-6)


def far_from_the_label():
    """A probability of 1e-13 has a loss of 30 and a whole gradient; Keras' loss on JAX cuts both off at 1e-7."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "softmax", kernel_initializer="zeros")])
    model.layers[-1].bias.assign([30.0, 0.0])
    for label in (np.array([1]), np.array([[0.0, 1.0]])):
        for smoothing in (0.0, 0.1):
            model.compile(keras.optimizers.SGD(0.0), Crossentropy(2, smoothing))
            loss = 30.0 * (1.0 - smoothing / 2)
            assert abs(model.train_on_batch(np.ones((1, 1)), label) - loss) < 1e-3, (label, smoothing)
    model.compile(keras.optimizers.SGD(1.0), Crossentropy(2), weighted_metrics=evaluation_metrics())
    assert (
        abs(model.evaluate(np.ones((1, 1)), np.array([1]), verbose=0, return_dict=True)["crossentropy"] - 30.0) < 1e-3
    )
    model.train_on_batch(np.ones((1, 1)), np.array([1]))
    np.testing.assert_allclose(model.layers[-1].bias, [29.0, 1.0], atol=1e-5)


def layouts(folder):
    """Stacked units and layers have the same outputs, gradients and statistics, in float64."""
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    rng = np.random.default_rng(0)
    images, target = rng.normal(size=(4, 8, 8, 3)), rng.normal(size=(4, 8, 8, 16))
    for fields in ({}, {"ordering": "original", "shortcut": "exclusive_gating", "widths": (16,), "unit": "basic"}):
        spec = keras_preact.NetworkSpec(**{"units": (5,), "widths": (4,), "stem": {"width": 4}, **fields})
        # Without the top: Keras takes means in float32 on JAX.
        model = keras_preact.build_network(spec, input_shape=(8, 8, 3), include_top=False)
        layered = keras_preact.relayout(model, "layers")
        expected = gradients(layered, images, target)
        for execution in ({},) if fields else ({}, {"unroll": 3}, {"remat": 2}):
            actual = gradients(keras_preact.relayout(layered, "stacked", **execution), images, target)
            assert expected.keys() == actual.keys()
            for name in expected:
                np.testing.assert_allclose(actual[name], expected[name], rtol=1e-9, atol=1e-10, err_msg=name)


def analysis(folder):
    """Signals and gradients a unit are those that the other backend measured, in float64."""
    jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    model = keras.models.load_model(folder / "model.keras")
    arrays, expected = np.load(folder / "batch.npz"), json.loads((folder / "expected.json").read_text())
    result = keras_preact.analyze(model, arrays["images"], arrays["labels"], deletions=2)
    for name, column in result.columns.items():
        values = np.array(expected[name], "float64")  # null becomes NaN
        # Keras takes the last mean in float32.
        np.testing.assert_allclose(column, values, rtol=1e-5, atol=1e-12, err_msg=name)


def gradients(model, images, target):
    """Returns output, gradients and new statistics of a training step, by the names of the layout of layers."""

    def loss(trainable):
        output, moving = model.stateless_call(
            trainable, [v.value for v in model.non_trainable_variables], images, training=True
        )
        return ((output - target) ** 2).sum(), (output, moving)

    run = jax.jit(jax.grad(loss, has_aux=True))
    grads, (output, moving) = run([v.value for v in model.trainable_variables])
    values = dict(zip(map(id, model.trainable_variables), grads))
    values |= dict(zip(map(id, model.non_trainable_variables), moving))
    out = {"output": output}
    for name, (variable, index) in keras_preact.network.named_weights.named_weights(model).items():
        out[name] = values[id(variable)] if index is None else values[id(variable)][index]
    return out


if __name__ == "__main__":
    {"training": training, "layouts": layouts, "analysis": analysis}[sys.argv[1]](pathlib.Path(sys.argv[2]))
    assert "tensorflow" not in sys.modules
    print(f"{sys.argv[1]}: done")
