"""The private parts of Keras and TensorFlow that the package uses still do what it needs of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact import keras_hooks
from keras_preact.training.strategies import make_devices, read


@pytest.fixture
def optimizer():
    """An optimizer with averages, built for two weights."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True)
    optimizer.build([keras.Variable([1.0, 2.0], name="first"), keras.Variable([3.0], name="second")])
    return optimizer


def test_an_optimizer_tells_its_weights_in_the_order_of_its_slots(optimizer):
    first, second = keras_hooks.optimized_weights(optimizer)
    assert (first.name, second.name) == ("first", "second")
    assert [keras_hooks.index_of(optimizer, weight) for weight in (first, second)] == [0, 1]
    assert [velocity.shape for velocity in optimizer.momentums] == [(2,), (1,)]
    assert keras_hooks.optimized_weights(keras.optimizers.SGD()) == []
    assert keras_hooks.optimized_weights(None) == []


def test_an_optimizer_keeps_averages_and_weights_where_they_are_looked_for(optimizer):
    averages = vars(optimizer)[keras_hooks.AVERAGES]
    assert [average.shape for average in averages] == [(2,), (1,)]
    assert all(average is not weight for average, weight in zip(averages, vars(optimizer)[keras_hooks.WEIGHTS]))


def test_an_optimizer_that_torch_wrote_is_read_without_torch():
    def as_torch_writes(optimizer):
        config = keras.saving.serialize_keras_object(optimizer)
        return {**config, "module": f"keras.src.backend.torch.optimizers.torch_{config['class_name'].lower()}"}

    model = keras_preact.ResNet(11, input_shape=(8, 8, 1), num_classes=4)
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "sparse_categorical_crossentropy")
    config = model.get_compile_config()
    config["optimizer"] = as_torch_writes(model.optimizer)
    model.compile_from_config(config)
    assert type(model.optimizer) is keras.optimizers.SGD
    assert (float(model.optimizer.learning_rate), model.optimizer.momentum) == (0.5, 0.9)
    assert config["optimizer"]["module"].endswith("torch_sgd")
    scaled = keras.saving.serialize_keras_object(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    scaled["config"]["inner_optimizer"] = as_torch_writes(keras.optimizers.Adam(0.25))
    read_again = keras.saving.deserialize_keras_object(keras_hooks.of_this_backend(scaled))
    assert type(read_again.inner_optimizer) is keras.optimizers.Adam
    assert float(read_again.inner_optimizer.learning_rate) == 0.25


def test_keras_clips_where_the_hook_is():
    class Halved(keras_hooks.ClippingHook, keras.optimizers.SGD):
        def clip(self, gradients, clip):
            (gradient,) = clip(gradients)
            return [gradient / 2]

    variable = keras.Variable([0.0, 0.0])
    Halved(1.0, global_clipnorm=1.0).apply([keras.ops.convert_to_tensor([3.0, 4.0])], [variable])
    np.testing.assert_allclose(variable.value, [-0.3, -0.4], rtol=1e-6)


def test_fit_does_not_call_a_model_before_the_first_step():
    """Under a strategy Keras itself calls it on a batch without values, as the loss has seen none."""

    class Counted(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.calls = keras.layers.Dense(1), 0
            self.dense.build((None, 3))
            self.built = True

        def call(self, x):
            self.calls += 1
            return self.dense(x)

    class Unseen(keras_hooks.NoSymbolicBuild, Counted):
        pass

    calls = []
    with make_devices("mirrored").scope():
        for kind in (Counted, Unseen):
            model = kind()
            model.compile("sgd", "mse", jit_compile=False)
            model.optimizer.build(model.trainable_variables)
            model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
            calls.append(model.calls)
    assert calls[0] == calls[1] + 1


def test_metrics_have_their_variables_outside_a_function_that_is_traced():
    model, traces = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), []
    model.compile(metrics=["accuracy"])

    @tf.function
    def step(labels, outputs):
        traces.append(labels)
        keras_hooks.build_metrics_outside(model, labels, outputs)
        return model.compute_metrics(None, labels, outputs)

    assert float(step(tf.constant([0, 1]), tf.eye(2, 3))["accuracy"]) == 1.0
    assert len(traces) == 1


def test_metrics_have_their_variables_before_the_first_step():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    before = len(model.metrics_variables)
    keras_hooks.build_metrics(model, keras.KerasTensor((None,), "int32"), keras.KerasTensor((None, 4), "float32"))
    variables = model.metrics_variables
    assert len(variables) == before + 2  # total and count
    model.fit(np.ones((2, 3)), np.zeros(2), verbose=0)
    assert list(map(id, model.metrics_variables)) == list(map(id, variables))


def test_variables_without_values_have_shapes_and_never_get_values():
    with keras_hooks.without_values():
        counted = keras.layers.Dense(3)
        counted.build((None, 2))
    assert counted.count_params() == 9
    with keras.StatelessScope():  # which gives values when it is left
        other = keras.Variable(initializer="ones", shape=(2,))
    np.testing.assert_array_equal(other, [1.0, 1.0])
    assert counted.kernel._value is None


def test_the_value_of_a_replica_is_a_variable_of_tensorflow():
    plain = keras.Variable(2.0)
    assert keras_hooks.value_of_replica(plain) is plain.value
    devices = make_devices("mirrored")
    with devices.scope():
        variable = keras.Variable(3.0)

    def add():
        own = keras_hooks.value_of_replica(variable)
        own.assign(own + 1.0)
        return isinstance(own, tf.Variable)

    is_variable = devices.strategy.run(add)
    assert devices.strategy.experimental_local_results(is_variable) == (True,) * devices.replicas
    assert float(read(variable)) == 4.0


def test_a_function_keeps_its_variables_as_constants():
    variable = tf.Variable(2.0)
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec((), tf.float32))
    constant = keras_hooks.as_constants(function)
    variable.assign(3.0)
    assert float(constant(tf.constant(5.0))[0]) == 10.0
    assert not constant.variables
