"""A network as an ONNX file, written operation by operation: the Residual Unit in one more environment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_preact.errors import argument_error
from keras_preact.exporting.inference import inference_weights, stacked
from keras_preact.network.environment import ConvSpec, Environment
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.parts import CLASSIFIER, residual_network
from keras_preact.network.unit_spec import UnitSpec
from keras_preact.network.units import residual_unit
from keras_preact.types import PathLike
from keras_preact.version import __version__

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from keras_preact.weights.preprocessing import Preprocessing

OPSET, IR_VERSION = 17, 8  # of 2022: what reads these reads the file
_LAST_OFF = {"starts": 0, "ends": -1, "axes": 1}
ACTIVATIONS = {"softmax": ("Softmax", {"axis": -1}), "sigmoid": ("Sigmoid", {}), "linear": ("Identity", {})}


def check_activation(model: ResidualNetwork) -> tuple[str, dict[str, Any]]:
    """Returns the ONNX operation, with its attributes, of the classifier's activation; a `ValueError` if none."""
    name = keras.activations.serialize(model.get_layer(CLASSIFIER).activation)
    if not isinstance(name, str) or name not in ACTIVATIONS:  # a dict of one that is registered
        listed = ", ".join(ACTIVATIONS)
        received = name if isinstance(name, str) else name.get("registered_name")
        raise argument_error("formats", f'without "onnx", which knows the activations {listed}', received)
    return ACTIVATIONS[name]


def write_onnx(
    model: ResidualNetwork,
    path: PathLike,
    preprocessing: Preprocessing,
    class_names: Iterable[str],
    card: Mapping[str, Any] | None = None,
) -> None:
    """Writes an ONNX file, in float32, that maps uint8 `images` to `probabilities`, `logits` and `features`.

    `images` are (batch, height, width, channels) of any batch size and of the height and width of
    `preprocessing.input_shape`; they are normalised inside, not resized. An operation has the name of its Keras layer.
    The file's metadata hold `class_names`, a JSON list, and `card`, JSON.

    Args:
        model: A network with a classifier.
        path: A path that does not exist.
        preprocessing: A `Preprocessing`.
        class_names: A name for each output.
        card: A dict that JSON can hold, or None.
    """
    import onnx

    graph = OnnxGraph(_weights_by_unit(stacked(model, "float32")), model.spec.bn_epsilon)
    _network(graph, model, preprocessing)
    file = onnx.helper.make_model(
        graph.built(model.name, preprocessing.input_shape, model.output_shape[-1], model.spec.out_width),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="keras_preact",
        producer_version=__version__,
    )
    metadata = {"class_names": json.dumps(list(class_names)), **({} if card is None else {"card": json.dumps(card)})}
    onnx.helper.set_model_props(file, metadata)
    onnx.checker.check_model(file)
    onnx.save(file, path)


def _weights_by_unit(model):
    """Returns every folded weight as an array by its name in the layout of layers, `stage1_unit02_conv1/kernel`."""
    found: dict[str, np.ndarray] = {}
    for layer, parts in inference_weights(model).items():
        layer = model.get_layer(layer)
        for name, tensor in parts.items():
            array = keras.ops.convert_to_numpy(tensor)
            if isinstance(layer, ResidualUnits):
                found |= {f"{unit.name}_{name}": array[index] for index, unit in enumerate(layer.units)}
            else:
                found[f"{layer.name}/{name}"] = array
    return found


def _network(graph, model, preprocessing):
    x = graph.node("Cast", "cast", "images", to=1)  # 1: float32
    x = graph.node("Sub", "center", x, graph.constant("mean", np.asarray(preprocessing.mean, "float32")))
    x = graph.node("Div", "scale", x, graph.constant("std", np.asarray(preprocessing.std, "float32")))
    x = graph.node("Transpose", "channels_first", x, perm=[0, 3, 1, 2])
    x = residual_network(graph, x, model.spec)
    x = graph.node("GlobalAveragePool", "pool", x)
    graph.node("Flatten", "features", x)
    weights = [graph.constant(name, graph.weights[name]) for name in (f"{CLASSIFIER}/kernel", f"{CLASSIFIER}/bias")]
    graph.node("Gemm", "logits", "features", *weights)
    kind, attributes = check_activation(model)
    graph.node(kind, "probabilities", "logits", **attributes)


class OnnxGraph(Environment[str]):
    """An environment whose signals are names of ONNX values, (batch, channels, height, width)."""

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        epsilon: float,
        prefix: str = "",
        nodes: list[onnx.NodeProto] | None = None,
        constants: dict[str, onnx.TensorProto] | None = None,
    ) -> None:
        self.weights, self.epsilon, self.prefix = weights, epsilon, prefix
        self.nodes = [] if nodes is None else nodes
        self.constants = {} if constants is None else constants
        self.in_width = 0  # channels of x_l, of the unit that it is of

    def within(self, name: str) -> OnnxGraph:
        return OnnxGraph(self.weights, self.epsilon, f"{self.prefix}{name}_", self.nodes, self.constants)

    def node(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Appends an operation; it and its one output are called `name`, which is returned."""
        import onnx

        name = self.prefix + name
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def constant(self, name: str, values: npt.ArrayLike) -> str:
        """Keeps an array as an initializer and returns its name."""
        import onnx

        name = self.prefix + name
        self.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def built(self, name: str, image_shape: Sequence[int], classes: int, channels: int) -> onnx.GraphProto:
        """Returns the `onnx.GraphProto` from `images` to `probabilities`, `logits` and `features`."""
        import onnx

        value, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
        images = value("images", kinds.UINT8, ["batch", *image_shape])
        widths = {"probabilities": classes, "logits": classes, "features": channels}
        found = [value(name, kinds.FLOAT, ["batch", width]) for name, width in widths.items()]
        return onnx.helper.make_graph(self.nodes, name, [images], found, list(self.constants.values()))

    def units(self, x: str, run: tuple[UnitSpec, ...]) -> str:
        for unit in run:
            env = self.within(unit.name)
            env.in_width = unit.in_width
            x = residual_unit(env, x, unit)
        return x

    def _weight(self, name, change=lambda array: array):
        return self.constant(name, change(self.weights[self.prefix + name]))

    def conv(self, x: str, name: str, conv: ConvSpec) -> str:
        weights = [self._weight(f"{name}/kernel", lambda kernel: kernel.transpose(3, 2, 0, 1))]
        if f"{self.prefix}{name}/bias" in self.weights:
            weights.append(self._weight(f"{name}/bias"))
        return self.node("Conv", name, x, *weights, strides=[conv.strides] * 2, pads=[conv.kernel // 2] * 4)

    def batch_norm(self, x: str, name: str, center: bool = True, scale: bool = True) -> str:
        moving = f"{self.prefix}{name}/moving_mean"
        if moving not in self.weights:  # folded
            return x
        width = self.weights[moving].shape
        gamma = self._weight(f"{name}/gamma") if scale else self.constant(f"{name}/gamma", np.ones(width, "float32"))
        beta = self._weight(f"{name}/beta") if center else self.constant(f"{name}/beta", np.zeros(width, "float32"))
        statistics = [self._weight(f"{name}/{part}") for part in ("moving_mean", "moving_variance")]
        return self.node("BatchNormalization", name, x, gamma, beta, *statistics, epsilon=self.epsilon)

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", name, x)

    def sigmoid(self, x: str, name: str) -> str:
        return self.node("Sigmoid", name, x)

    def add(self, a: str, b: str, name: str) -> str:
        return self.node("Add", name, a, b)

    def multiply(self, a: str, b: str, name: str) -> str:
        return self.node("Mul", name, a, b)

    def affine(self, x: str, name: str, scale: float, offset: float) -> str:
        x = self.node("Mul", f"{name}_mul", x, self.constant(f"{name}/scale", np.float32(scale)))
        return self.node("Add", name, x, self.constant(f"{name}/offset", np.float32(offset)))

    def dropout(self, x: str, name: str, rate: float) -> str:
        return x

    def stochastic_depth(self, x: str, name: str, rate: float) -> str:
        return x

    def zero_pad(self, x: str, name: str, filters: int, strides: int) -> str:
        bounds = {"starts": [0, 0], "ends": [np.iinfo(np.int64).max] * 2, "axes": [2, 3], "steps": [strides] * 2}
        bounds = [self.constant(f"{name}/{part}", np.asarray(values, "int64")) for part, values in bounds.items()]
        x = self.node("Slice", f"{name}_slice", x, *bounds)
        pads = np.asarray([0, 0, 0, 0, 0, filters - self.in_width, 0, 0], "int64")
        pads = self.constant(f"{name}/pads", pads)
        return self.node("Pad", name, x, pads)

    def max_pool(self, x: str, name: str, padding: str) -> str:
        attributes = {"kernel_shape": [3, 3], "strides": [2, 2]}
        if padding == "same":
            return self.node("MaxPool", name, x, auto_pad="SAME_UPPER", **attributes)
        if padding == "zero":
            # onnxruntime (1.31) makes a Pad with zeros and a MaxPool one pool, which pads with -inf. A channel more,
            # taken off after it, keeps the two apart.
            pads = self.constant(f"{name}/pads", np.asarray([0, 0, 1, 1, 0, 1, 1, 1], "int64"))
            x = self.node("MaxPool", f"{name}_pool", self.node("Pad", f"{name}_pad", x, pads), **attributes)
            bounds = [self.constant(f"{name}/{part}", np.asarray([k], "int64")) for part, k in _LAST_OFF.items()]
            return self.node("Slice", name, x, *bounds)
        return self.node("MaxPool", name, x, pads=[1] * 4, **attributes)
