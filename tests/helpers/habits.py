"""What people do with `keras.applications.ResNet50V2`: each habit is a function of a `Case` that asserts what it gives.

Every habit is run on a network that the function of `keras.applications` builds, with fewer and narrower units, and on
ours in both layouts. `REFUSED` lists those that ours answers with one sentence.
"""

import copy
import functools
import pickle
import re
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf
from keras.src.applications import resnet

import keras_preact

CLASSES, BATCH, SIDE = 3, 4, 32
HABITS = {}
SPEC = keras_preact.NetworkSpec((3,), (8,), stem={"width": 8, "strides": 4})
Conv2D, BatchNormalization = keras.layers.Conv2D, keras.layers.BatchNormalization

# What each of ours answers with one sentence, and a word of it; all else does what keras.applications' does.
ONE_FILE = {"sharded weights": "max_shard_size", "weights by name from .h5": r"\.weights\.h5"}
REFUSED = {
    "keras.applications": {},
    "layers": ONE_FILE,
    "stacked": {
        **ONE_FILE,
        "freeze the batch normalisations": 'layout="layers"',
        "freeze one unit": 'layout="layers"',
        "a signal within a unit": 'layout="layers"',
        "regularize all convolutions": 'layout="layers"',
        "constrain all kernels": 'layout="layers"',
    },
}


def as_keras_applications(classes=CLASSES, **options):
    """Returns a network of the function that `keras.applications.ResNet50V2` calls, with 3 units of few channels."""

    def units(x):
        return resnet.stack_residual_blocks_v2(x, 8, 3, name="conv2")

    options = {"input_shape": (SIDE, SIDE, 3), **options}
    return resnet.ResNet(units, True, True, name="resnet_v2", weights=None, classes=classes, **options)


def ours(layout, classes=CLASSES, **options):
    """Returns a network of this package with as many units."""
    options = {"input_shape": (SIDE, SIDE, 3), **options}
    return keras_preact.build_network(SPEC, num_classes=classes, layout=layout, name="resnet_v2", **options)


@dataclass
class Case:
    """Holds one kind of network: how it is built, its layers' names, and a network that habits leave as it is."""

    kind: str
    folder: object
    build: object = field(init=False)

    def __post_init__(self):
        is_theirs = self.kind == "keras.applications"
        self.build = as_keras_applications if is_theirs else functools.partial(ours, self.kind)
        self.last, self.inner, self.unit = (
            ("post_relu", "conv2_block2_2_conv", "conv2_block2")
            if is_theirs
            else ("final_relu", "stage1_unit02_conv2", "stage1_unit02")
        )
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(BATCH, SIDE, SIDE, 3)).astype("float32")
        self.y = np.arange(BATCH) % CLASSES
        keras.utils.set_random_seed(0)
        self.model = self.build()
        self.weights = self.model.get_weights()
        self.trained = None

    def fresh(self, **options):
        """Returns a new network with the weights of `model`."""
        model = self.build(**options)
        model.set_weights(self.weights)
        return model

    def in_graph(self):
        """Returns the one network that is compiled to a graph, which is traced once for all habits."""
        if self.trained is None:
            self.trained = compiled(self.fresh(), run_eagerly=False, metrics=["accuracy"])
        return self.trained


def habit(name):
    """Returns a decorator that adds a function to `HABITS`."""

    def add(function):
        assert name not in HABITS
        HABITS[name] = function
        return function

    return add


def compiled(model, optimizer=None, loss="sparse_categorical_crossentropy", run_eagerly=True, **options):
    """Compiles a model, op by op unless said: a graph takes longer to trace than these networks to train."""
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly, **options)
    return model


def step(case, model, **options):
    """Trains a compiled model for one step."""
    return model.fit(case.x, case.y, batch_size=BATCH, verbose=0, **options)


def array(tensor):
    """Returns a copy of a tensor or variable as an array, in float64 so that bfloat16 compares, too."""
    tensor = tensor.value if isinstance(tensor, keras.Variable) else tensor
    return np.array(tensor.numpy() if hasattr(tensor, "numpy") else tensor, "float64")


def values(variables):
    return [array(variable) for variable in variables]


def changed(variables, before):
    """Returns the paths of the variables that are no longer what they were."""
    return [v.path for v, old in zip(variables, before, strict=True) if not np.array_equal(array(v), old)]


def same(first, second, bound=1e-5):
    np.testing.assert_allclose(array(first), array(second), atol=bound, rtol=bound)


def statistics(model):
    return [v for v in model.non_trainable_weights if "moving" in v.path]


def forward(model, x):
    return array(model(x, training=False))


def attempt(case, name):
    """Runs a habit; returns None if all is as it should be, else what was wrong."""
    sentence = REFUSED[case.kind].get(name)
    try:
        HABITS[name](case)
    except (ValueError, NotImplementedError) as error:
        if sentence is None or not re.search(sentence, str(error)) or "Received" not in str(error):
            return f"{name}: {type(error).__name__}: {error}"
        return None
    except Exception as error:  # any other is a habit that does not hold
        return f"{name}: {type(error).__name__}: {error}"
    return None if sentence is None else f"{name}: not refused"


# The head and the layers


@habit("the head is one Dense called predictions")
def _(case):
    head = case.model.layers[-1]
    assert (type(head), head.name, head.units) == (keras.layers.Dense, "predictions", CLASSES)
    assert head.activation is keras.activations.softmax


@habit("the layer before the head has the pooled features")
def _(case):
    assert case.model.layers[-2].output.shape == (None, 32)
    features = keras.Model(case.model.input, case.model.layers[-2].output)
    kernel, bias = case.model.layers[-1].get_weights()
    same(keras.ops.softmax(forward(features, case.x) @ kernel + bias), forward(case.model, case.x))


@habit("layers by name and by number")
def _(case):
    assert case.model.get_layer("predictions") is case.model.get_layer(index=-1) is case.model.layers[-1]
    try:
        case.model.get_layer("no_such_layer")
    except ValueError as error:
        assert "No such layer" in str(error)  # noqa: PT017


@habit("layers of a kind")
def _(case):
    assert [layer for layer in case.model.layers if isinstance(layer, keras.layers.Dense)] == case.model.layers[-1:]
    assert isinstance(case.model.layers[0], keras.layers.InputLayer)


@habit("every layer has a name, an output and a configuration")
def _(case):
    layers = case.model.layers
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(hasattr(layer, "output") and layer.get_config()["name"] == layer.name for layer in layers)


@habit("summary")
def _(case):
    lines = []
    case.model.summary(line_length=200, print_fn=lines.append, show_trainable=True)
    text = "\n".join(lines)
    assert "predictions (Dense)" in text
    assert f"{case.model.count_params():,}" in text


@habit("count_params")
def _(case):
    assert case.model.count_params() == sum(int(np.prod(v.shape)) for v in case.model.weights)
    assert case.model.count_params() == sum(layer.count_params() for layer in case.model.layers)


@habit("inputs and outputs")
def _(case):
    model = case.model
    assert model.inputs[0] is model.input
    assert model.outputs[0] is model.output
    assert (model.input_shape, model.output_shape) == ((None, SIDE, SIDE, 3), (None, CLASSES))


@habit("weights stand in the order of layers")
def _(case):
    model = case.model
    assert [v.path for layer in model.layers for v in layer.weights] == [v.path for v in model.weights]
    trainable = [v.path for layer in model.layers for v in layer.trainable_weights]
    assert [v.path for v in model.trainable_weights] == trainable
    assert trainable[-2:] == ["predictions/kernel", "predictions/bias"]
    assert len({v.path for v in model.weights}) == len(model.weights)


@habit("get_weights and set_weights")
def _(case):
    model = case.build()
    model.set_weights([weight + 1 for weight in case.weights])
    same(model.get_weights()[0], case.weights[0] + 1)
    assert refused(lambda: model.set_weights(case.weights[:-1]))


def refused(call):
    try:
        call()
    except ValueError:
        return True
    return False


@habit("from_config")
def _(case):
    again = type(case.model).from_config(case.model.get_config())
    again.set_weights(case.weights)
    same(forward(again, case.x), forward(case.model, case.x))


@habit("to_json")
def _(case):
    again = keras.models.model_from_json(case.model.to_json())
    assert [layer.name for layer in again.layers] == [layer.name for layer in case.model.layers]


@habit("clone_model")
def _(case):
    clone = keras.models.clone_model(case.model)
    assert not np.array_equal(clone.get_weights()[0], case.weights[0])  # its own, new
    clone.set_weights(case.weights)
    same(forward(clone, case.x), forward(case.model, case.x))


@habit("clone_model that changes layers")
def _(case):
    def change(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense):
            config["use_bias"] = False
        return type(layer).from_config(config)

    clone = keras.models.clone_model(case.model, clone_function=change)
    assert len(clone.weights) == len(case.weights) - 1


@habit("deepcopy")
def _(case):
    same(forward(copy.deepcopy(case.model), case.x), forward(case.model, case.x))


@habit("pickle")
def _(case):
    same(forward(pickle.loads(pickle.dumps(case.model)), case.x), forward(case.model, case.x))


@habit("own number of classes, logits")
def _(case):
    model = case.build(classes=7, classifier_activation=None)
    assert model.output_shape == (None, 7)
    assert model.layers[-1].activation is keras.activations.linear


@habit("without the top, pooled, of any size")
def _(case):
    assert case.build(include_top=False, input_shape=(None, None, 3)).output_shape == (None, None, None, 32)
    for pooling in ("avg", "max"):
        assert case.build(include_top=False, pooling=pooling).output_shape == (None, 32)


@habit("on a tensor of one's own")
def _(case):
    inputs = keras.Input((SIDE, SIDE, 3), name="own")
    assert case.build(input_tensor=inputs).inputs[0] is inputs


# Freezing


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


# In bigger models


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


# Training


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
    step(case, model)
    before = values(model.trainable_weights)
    model.optimizer.finalize_variable_values(model.trainable_weights)
    assert len(model.optimizer._model_variables_moving_average) == len(before)


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


@habit("mixed precision by the global policy")
def _(case):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = case.build()
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(case.weights)
    assert {v.dtype for v in model.weights} == {"float32"}
    assert model.get_layer(case.last).compute_dtype == "bfloat16"
    same(forward(model, case.x), forward(case.model, case.x), 0.1)


@habit("loss scaling of mixed_float16")
def _(case):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(case.build())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    finally:
        keras.config.set_dtype_policy("float32")


@habit("float64 by the global policy")
def _(case):
    keras.config.set_dtype_policy("float64")
    try:
        model = case.build()
    finally:
        keras.config.set_dtype_policy("float32")
    assert {v.dtype for v in model.weights} == {"float64"}
    assert model.output.dtype == "float64"


# Files


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
