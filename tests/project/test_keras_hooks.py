"""The private parts of Keras and TensorFlow that the package uses still do what it needs of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact import keras_hooks
from keras_preact.training.strategies import make_devices


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


def test_keras_clips_where_the_hook_is():
    class Halved(keras_hooks.ClippingHook, keras.optimizers.SGD):
        def clip(self, gradients, clip):
            (gradient,) = clip(gradients)
            return [gradient / 2]

    variable = keras.Variable([0.0, 0.0])
    Halved(1.0, global_clipnorm=1.0).apply([keras.ops.convert_to_tensor([3.0, 4.0])], [variable])
    np.testing.assert_allclose(variable.value, [-0.3, -0.4], rtol=1e-6)


def test_fit_looks_at_no_batch_before_training():
    """A model that is not built computes a step: Keras would have called it on symbolic tensors before."""

    class Called(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.symbolic = keras.layers.Dense(1), 0

        def call(self, x):
            self.symbolic += isinstance(x, keras.KerasTensor)
            return self.dense(x)

    class Unseen(keras_hooks.NoSymbolicBuild, Called):
        pass

    for kind, calls in ((Called, 1), (Unseen, 0)):
        model = kind()
        model.compile("sgd", "mse", run_eagerly=True)
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
        assert min(model.symbolic, 1) == calls


def test_metrics_have_their_variables_before_the_first_step():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", "mse", weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    before = len(model.metrics_variables)
    keras_hooks.build_metrics(model, keras.KerasTensor((None,), "int32"), keras.KerasTensor((None, 4), "float32"))
    variables = model.metrics_variables
    assert len(variables) == before + 2  # total and count
    model.fit(np.ones((2, 3)), np.zeros(2), verbose=0)
    assert list(map(id, model.metrics_variables)) == list(map(id, variables))


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
    assert float(variable.value) == 4.0


def test_a_function_keeps_its_variables_as_constants():
    variable = tf.Variable(2.0)
    function = tf.function(lambda x: x * variable).get_concrete_function(tf.TensorSpec((), tf.float32))
    constant = keras_hooks.as_constants(function)
    variable.assign(3.0)
    assert float(constant(tf.constant(5.0))[0]) == 10.0
    assert not constant.variables
