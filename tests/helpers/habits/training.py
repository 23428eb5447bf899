"""Habits: training."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from habits.case import BATCH, CLASSES, SIDE, Conv2D, array, changed, compiled, forward, habit, same, step, values


@habit("fit, evaluate, predict")
def _(case):
    model = case.in_graph()
    history = step(case, model, epochs=2, validation_data=(case.x, case.y)).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    found = model.evaluate(case.x, case.y, batch_size=BATCH, verbose=0, return_dict=True)
    same(found["loss"], history["val_loss"][-1])
    predicted = model.predict(case.x, verbose=0)
    assert predicted.dtype == np.float32
    same(predicted.sum(axis=-1), np.ones(BATCH))


@habit("fit from tf.data")
def _(case):
    batches = tf.data.Dataset.from_tensor_slices((case.x, case.y)).batch(BATCH)
    case.in_graph().fit(batches, shuffle=False, verbose=0)
    assert case.in_graph().predict(batches, verbose=0).shape == (BATCH, CLASSES)


@habit("fit from a generator")
def _(case):
    def batches():
        while True:
            yield case.x, case.y

    history = case.in_graph().fit(batches(), steps_per_epoch=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@habit("fit from a PyDataset")
def _(case):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return case.x, case.y

    assert compiled(case.fresh()).fit(Batches(), verbose=0).history["loss"][0] > 0


@habit("a dict of inputs")
def _(case):
    model = case.build(input_tensor=keras.Input((SIDE, SIDE, 3), name="photo"))
    same(model({"photo": case.x}, training=False), forward(model, case.x))


@habit("single batches")
def _(case):
    model = compiled(case.fresh(), metrics=["accuracy"])
    assert set(model.train_on_batch(case.x, case.y, return_dict=True)) == {"loss", "accuracy"}
    loss, accuracy = model.test_on_batch(case.x, case.y)
    assert loss > 0
    assert 0 <= accuracy <= 1
    assert model.predict_on_batch(case.x).shape == (BATCH, CLASSES)


@habit("sample_weight")
def _(case):
    model = compiled(case.fresh())
    weighted = model.evaluate(case.x, case.y, sample_weight=np.array([1.0, 0, 0, 0]), verbose=0)
    same(weighted * BATCH, model.evaluate(case.x[:1], case.y[:1], verbose=0), 1e-4)


@habit("class_weight")
def _(case):
    first, second = compiled(case.fresh()), compiled(case.fresh())
    plain = step(case, first).history["loss"][0]
    doubled = step(case, second, class_weight={0: 2.0, 1: 2.0, 2: 2.0}).history["loss"][0]
    same(doubled, 2 * plain, 1e-4)


@habit("labels as shares of classes")
def _(case):
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model = compiled(case.fresh(), loss=loss)
    assert model.train_on_batch(case.x, keras.utils.to_categorical(case.y, CLASSES)) > 0


@habit("logits and from_logits")
def _(case):
    logits = case.fresh(classifier_activation=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    same(loss(case.y, forward(logits, case.x)), compiled(case.fresh()).evaluate(case.x, case.y, verbose=0))


@habit("the loss of an impossible class is no rounded probability's")
def _(case):
    model = case.fresh()
    kernel = np.zeros(model.layers[-1].kernel.shape)
    model.layers[-1].set_weights([kernel, np.array([0.0, 300.0, 0.0])])
    same(compiled(model).evaluate(case.x[:1], np.array([0]), verbose=0), 300.0)


@habit("an own train_step")
def _(case):
    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
            return {"own": loss}

    base = case.fresh()
    before = values(base.trainable_weights)
    history = step(case, compiled(Own(inputs=base.input, outputs=base.output))).history
    assert list(history) == ["own"]
    assert len(changed(base.trainable_weights, before)) > len(before) / 2


@habit("an own loop with GradientTape")
def _(case):
    model, optimizer = case.fresh(), keras.optimizers.Adam(0.01)
    loss_of, losses = keras.losses.SparseCategoricalCrossentropy(), []
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = loss_of(case.y, model(case.x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        assert None not in gradients
        optimizer.apply(gradients, model.trainable_variables)
        losses.append(float(loss))
    assert losses[-1] < losses[0]


@habit("rates of one's own by layer")
def _(case):
    model, optimizer = case.fresh(), keras.optimizers.SGD(0.1)
    with tf.GradientTape() as tape:
        loss = keras.losses.SparseCategoricalCrossentropy()(case.y, model(case.x, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    head = [v.path.startswith("predictions") for v in model.trainable_variables]
    before = values(model.trainable_variables)
    optimizer.apply([g if is_head else 0 * g for g, is_head in zip(gradients, head)], model.trainable_variables)
    assert changed(model.trainable_variables, before) == ["predictions/kernel", "predictions/bias"]


@habit("a tf.function of inference")
def _(case):
    same(tf.function(lambda x: case.model(x, training=False))(case.x), forward(case.model, case.x))


@habit("jit_compile")
def _(case):
    model = case.fresh()
    model.compile(jit_compile=True)
    same(model.predict(case.x, verbose=0), forward(case.model, case.x), 1e-4)


@habit("a learning rate that is set")
def _(case):
    model = case.in_graph()
    model.optimizer.learning_rate = 0.0
    before = values(model.trainable_weights)
    step(case, model)
    assert changed(model.trainable_weights, before) == []
    model.optimizer.learning_rate = 0.1


@habit("callbacks")
def _(case):
    seen = []
    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch)),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
        keras.callbacks.CSVLogger(case.folder / "log.csv"),
        keras.callbacks.ReduceLROnPlateau(monitor="loss"),
        keras.callbacks.EarlyStopping(monitor="loss", restore_best_weights=True, patience=1, min_delta=1e3),
    ]
    step(case, case.in_graph(), epochs=5, callbacks=callbacks)
    assert seen == [0, 1]
    assert len((case.folder / "log.csv").read_text().splitlines()) == 3


@habit("ModelCheckpoint")
def _(case):
    for number, ending in enumerate((".weights.h5", ".keras")):
        path = case.folder / f"best{ending}"
        kept = keras.callbacks.ModelCheckpoint(path, save_weights_only=not number, save_best_only=True, monitor="loss")
        step(case, case.in_graph(), callbacks=[kept])
        assert path.exists()


@habit("BackupAndRestore")
def _(case):
    folder = case.folder / "backup"
    step(case, case.in_graph(), callbacks=[keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)])
    assert any(folder.iterdir())
    case.in_graph()._initial_epoch = None


@habit("an average of the weights")
def _(case):
    model = compiled(case.fresh(), keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    averages, weights = [], []
    for _ in range(2):
        model.train_on_batch(case.x, case.y)
        averages.append(values(model.optimizer._model_variables_moving_average))
        weights.append(values(model.trainable_weights))
    model.optimizer.finalize_variable_values(model.trainable_weights)
    for first, second, weight, last in zip(*averages, weights[1], values(model.trainable_weights)):
        np.testing.assert_allclose(second, (first + weight) / 2, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(last, second)
    assert any(not np.array_equal(*pair) for pair in zip(*weights))


@habit("accumulated gradients")
def _(case):
    model = compiled(case.fresh(), keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    before = values(model.trainable_weights)
    model.train_on_batch(case.x, case.y)
    assert changed(model.trainable_weights, before) == []
    model.train_on_batch(case.x, case.y)
    assert "predictions/kernel" in changed(model.trainable_weights, before)


@habit("weight decay but for BN and biases")
def _(case):
    optimizer = keras.optimizers.SGD(0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model = case.fresh()
    # at rate 0 nothing decays either: the decay of one step is rate times weight_decay
    optimizer.learning_rate = 1e-3
    optimizer.build(model.trainable_variables)
    kernels = [v for v in model.trainable_variables if "kernel" in v.path]
    rest = [v for v in model.trainable_variables if "kernel" not in v.path]
    before = values(kernels), values(rest)
    optimizer.apply([tf.zeros_like(v) for v in model.trainable_variables])
    assert len(changed(kernels, before[0])) == len(kernels)
    assert changed(rest, before[1]) == []


def with_attribute(case, name, value):
    """Returns a network in which every Conv2D has what people set, as they do it: set it, build again, compile."""
    model = case.fresh()
    for layer in model.layers:
        if isinstance(layer, Conv2D):
            setattr(layer, name, value)
    again = type(model).from_config(model.get_config())
    again.set_weights(case.weights)
    return compiled(again)


@habit("regularize all convolutions")
def _(case):
    model = with_attribute(case, "kernel_regularizer", keras.regularizers.L2(0.01))
    kernels = [v for v in model.trainable_weights if "kernel" in v.path and len(v.shape) == 4]
    same(sum(model.losses), 0.01 * sum(np.sum(np.square(kernel)) for kernel in map(array, kernels)), 1e-4)


@habit("constrain all kernels")
def _(case):
    model = with_attribute(case, "kernel_constraint", keras.constraints.MaxNorm(1e-3))
    step(case, model)
    kernels = [v for v in model.trainable_weights if "kernel" in v.path and len(v.shape) == 4]
    assert max(float(np.sqrt(np.square(kernel).sum(axis=0)).max()) for kernel in map(array, kernels)) < 1.1e-3


@contextlib.contextmanager
def global_policy(name):
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@habit("mixed precision by the global policy")
def _(case):
    with global_policy("mixed_bfloat16"):
        model = case.build()
    model.set_weights(case.weights)
    assert {v.dtype for v in model.weights} == {"float32"}
    assert model.get_layer(case.last).compute_dtype == "bfloat16"
    same(forward(model, case.x), forward(case.model, case.x), 0.1)


@habit("loss scaling of mixed_float16")
def _(case):
    with global_policy("mixed_float16"):
        model = compiled(case.build())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@habit("float64 by the global policy")
def _(case):
    with global_policy("float64"):
        model = case.build()
    assert {v.dtype for v in model.weights} == {"float64"}
    assert model.output.dtype == "float64"
