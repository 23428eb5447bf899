"""Habits: the head, the layers and what is read of them."""

import copy
import pickle

import keras
import numpy as np

from habits.case import CLASSES, SIDE, forward, habit, refused, same


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
    else:
        raise AssertionError("a layer that is not there was found")


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
