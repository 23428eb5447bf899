"""One Residual Unit in NumPy, written from the paper's figures alone, against the units that `build_network` built.

The reference knows nothing of the package but the names of the weights. Both layouts are compared in float64, in
inference and in training, and BN's moving statistics with them.
"""

import keras
import numpy as np
import pytest
from products import diagonals

import keras_preact
from keras_preact.network.layers.residual_units import ResidualUnits
from keras_preact.network.named_weights import named_weights
from keras_preact.network.spec import NetworkSpec

pytestmark = pytest.mark.usefixtures("float64")

MOMENTUM, EPSILON = 0.8, 1e-3

# The operations of F (Fig. 4), each with the name of its weights, and those after the addition. The leading ones, up to
# the first convolution, are the shortcut's too where a unit changes the shape.
BRANCHES = {
    ("original", "basic"): "conv1 bn1 relu conv2 bn2",
    ("original", "bottleneck"): "conv1 bn1 relu conv2 bn2 relu conv3 bn3",
    ("original", "single"): "conv1 bn1",
    ("bn_after_addition", "basic"): "conv1 bn1 relu conv2",
    ("bn_after_addition", "bottleneck"): "conv1 bn1 relu conv2 bn2 relu conv3",
    ("bn_after_addition", "single"): "conv1",
    ("relu_before_addition", "basic"): "conv1 bn1 relu conv2 bn2 relu",
    ("relu_before_addition", "bottleneck"): "conv1 bn1 relu conv2 bn2 relu conv3 bn3 relu",
    ("relu_before_addition", "single"): "conv1 bn1 relu",
    ("relu_only_preactivation", "basic"): "relu conv1 bn2 relu conv2 bn3",
    ("relu_only_preactivation", "bottleneck"): "relu conv1 bn2 relu conv2 bn3 relu conv3 bn4",
    ("relu_only_preactivation", "single"): "relu conv1 bn2",
    ("preactivation", "basic"): "bn1 relu conv1 bn2 relu conv2",
    ("preactivation", "bottleneck"): "bn1 relu conv1 bn2 relu conv2 bn3 relu conv3",
    ("preactivation", "single"): "bn1 relu conv1",
}
AFTER_ADDITION = {"original": "relu", "bn_after_addition": "bn_after_addition relu"}
NORMALISES_PROJECTIONS = ("original", "relu_before_addition", "relu_only_preactivation")  # where F ends in a BN


class Reference:
    """One unit in NumPy. It reads its weights from a dict by `<operation>/<weight>` and takes out those it has read.

    Attributes:
        moving: BN's moving statistics after a call in training, by name.
    """

    def __init__(self, weights, training):
        self.weights, self.training, self.moving = dict(weights), training, {}

    def unit(self, x, ordering, kind, shortcut, is_first=False, strides=None, strided="conv1", widening="projection"):
        """Returns f(h(x) + F(x)); `is_first` of a network, `strides` of a unit that changes the shape, else None."""
        operations = BRANCHES[ordering, kind].split()
        lead = operations[: operations.index("conv1")]
        branch = shared = self.apply([] if is_first else lead, x)
        for operation in operations[len(lead) :]:
            branch = self.apply([operation], branch, strides if operation == strided and strides else 1)
        if shortcut["name"] == "none":
            return self.apply(AFTER_ADDITION.get(ordering, "").split(), branch)
        h = self.matched(x if strides is None else shared, ordering, strides, widening, branch.shape[-1], shortcut)
        h, branch = self.panel(h, branch, **shortcut)
        return self.apply(AFTER_ADDITION.get(ordering, "").split(), h + branch)

    def matched(self, x, ordering, strides, widening, channels, shortcut):
        """Returns x in F's shape, and convolved in any case by the shortcut of Fig. 2(e)."""
        if shortcut["name"] == "conv1x1" or (strides is not None and widening == "projection"):
            norm = ["shortcut_bn"] if ordering in NORMALISES_PROJECTIONS else []
            return self.apply(["shortcut_conv", *norm], x, strides or 1)
        if strides is None:
            return x
        h = np.zeros((*x[:, ::strides, ::strides, 0].shape, channels))
        h[..., : x.shape[-1]] = x[:, ::strides, ::strides]
        return h

    def panel(self, h, branch, name, scale=None, branch_scale=None):
        """Returns what is added under the panel of Fig. 2; dropout is the identity in inference."""
        if name == "constant_scaling":
            return scale * h, branch_scale * branch
        if name.endswith("gating"):
            gate = 1.0 / (1.0 + np.exp(-self.apply(["gate_conv"], h)))
            return (1.0 - gate) * h, gate * branch if name == "exclusive_gating" else branch
        return h, branch

    def apply(self, operations, x, strides=1):
        for operation in operations:
            if operation == "relu":
                x = np.maximum(x, 0.0)
            elif "bn" in operation:
                x = self.batch_norm(x, operation)
            else:
                x = self.conv(x, operation, strides)
        return x

    def conv(self, x, name, strides):
        kernel, bias = self.weights.pop(f"{name}/kernel"), self.weights.pop(f"{name}/bias")
        side, pad = kernel.shape[0], kernel.shape[0] // 2
        height, width = -(-x.shape[1] // strides), -(-x.shape[2] // strides)
        padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
        out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
        for row in range(height):
            for column in range(width):
                top, left = row * strides, column * strides
                patch = padded[:, top : top + side, left : left + side]
                out[:, row, column] = np.einsum("bijc,ijcf->bf", patch, kernel)
        return out + bias

    def batch_norm(self, x, name):
        gamma, beta, mean, variance = (
            self.weights.pop(f"{name}/{part}") for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        if self.training:
            old, (mean, variance) = (
                (mean, variance),
                (x.mean((0, 1, 2)), ((x - x.mean((0, 1, 2))) ** 2).mean((0, 1, 2))),
            )
            for part, before, now in zip(("moving_mean", "moving_variance"), old, (mean, variance)):
                self.moving[f"{name}/{part}"] = MOMENTUM * before + (1.0 - MOMENTUM) * now
        return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


SHORTCUTS = {
    "identity": {},
    "constant_scaling": {"scale": 0.75, "branch_scale": 1.5},
    "exclusive_gating": {},
    "shortcut_only_gating": {},
    "conv1x1": {},
    "dropout": {},
    "none": {},
}
CHANGES_OF_SHAPE = {  # the convolution that takes the stride, as the reference and as the spec call it
    "basic": ("conv1", "1x1"),
    "single": ("conv1", "1x1"),
    "bottleneck": ("conv1", "1x1"),
    "bottleneck_3x3": ("conv2", "3x3"),
}


def built(**fields):
    """Returns a network in the layout of layers, all weights random, and the same network in the stacked layout."""
    spec = NetworkSpec(
        **fields, conv_bias=("stem", "branch", "last", "shortcut"), bn_momentum=MOMENTUM, bn_epsilon=EPSILON
    )
    layered = keras_preact.build_network(spec, include_top=False, input_shape=(8, 8, 3), layout="layers")
    rng = np.random.default_rng(0)
    for name, (variable, _) in named_weights(layered).items():
        noise = 0.3 * rng.normal(size=variable.shape)
        variable.assign(np.exp(noise) if name.endswith(("gamma", "variance")) else noise)
    return layered, keras_preact.relayout(layered, "stacked")


def weights_of(model):
    """Every weight by the name it has in the layout of layers."""
    arrays = {id(variable): keras.ops.convert_to_numpy(variable.value) for variable in model.variables}
    named = named_weights(model).items()
    return {name: arrays[id(v)] if index is None else arrays[id(v)][index] for name, (v, index) in named}


def signals(model, images, training):
    """Returns x_1, and x_{l+1} by the unit's name: of every unit, or in the stacked layout of every run's last."""
    ends = {}
    for layer in model.layers:
        name = layer.units[-1].name if isinstance(layer, ResidualUnits) else "_".join(layer.name.split("_")[:2])
        ends[name] = layer.output
    ends = {name: output for name, output in ends.items() if name.startswith("stage")}
    outputs = keras.Model(model.input, [model.get_layer("stem_relu").output, *ends.values()])(images, training=training)
    first, *rest = (keras.ops.convert_to_numpy(output) for output in outputs)
    return first, dict(zip(ends, rest))


def assert_equals_reference(models, arguments, training):
    """Compares all units of `models`, one network in both layouts; `arguments` are the reference's, by unit."""
    weights, images = weights_of(models[0]), np.random.default_rng(1).normal(size=(3, 8, 8, 3))
    expected, moving, x = {}, {}, None
    for model in models:
        first, ours = signals(model, images, training)
        if x is None:
            x = first
            for name, keywords in arguments.items():
                prefix = f"{name}_"
                own = {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}
                reference = Reference(own, training)
                expected[name] = x = reference.unit(x, **keywords)
                assert not reference.weights
                moving |= {prefix + key: value for key, value in reference.moving.items()}
        assert list(arguments)[-1] in ours
        for name, signal in ours.items():
            np.testing.assert_allclose(signal, expected[name], rtol=0, atol=1e-10, err_msg=name)
        after = weights_of(model)
        for name, value in moving.items():
            np.testing.assert_allclose(after[name], value, rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("ordering", "shortcut", "kind"),
    diagonals(tuple(keras_preact.ORDERINGS), tuple(SHORTCUTS), ("basic", "bottleneck", "single"), every=3),
)
def test_units_equal_the_reference(ordering, shortcut, kind):
    chosen = {"name": shortcut, **SHORTCUTS[shortcut]}
    width = 4 if kind == "bottleneck" else 1
    models = built(units=(3,), widths=(4 // width,), stem={"width": 4}, unit=kind, ordering=ordering, shortcut=chosen)
    same = dict(ordering=ordering, kind=kind, shortcut=chosen)
    arguments = {"stage1_unit01": {**same, "is_first": True}, "stage1_unit02": same, "stage1_unit03": same}
    for training in (False, True):
        if not (training and shortcut == "dropout"):  # random
            assert_equals_reference(models, arguments, training)


@pytest.mark.parametrize("widening", ["projection", "zero_pad"])
@pytest.mark.parametrize("change", CHANGES_OF_SHAPE)
@pytest.mark.parametrize("ordering", keras_preact.ORDERINGS)
def test_units_that_change_the_shape_equal_the_reference(ordering, change, widening):
    kind, (strided, stride_on) = change.removesuffix("_3x3"), CHANGES_OF_SHAPE[change]
    fields = dict(stem={"width": 4}, unit=kind, stride_on=stride_on)
    models = built(
        units=(1, 1), widths=(2, 4) if kind == "bottleneck" else (4, 8), ordering=ordering, widening=widening, **fields
    )
    same = dict(ordering=ordering, kind=kind, shortcut={"name": "identity"}, widening=widening, strided=strided)
    first = {**same, "is_first": True, "strides": 1 if kind == "bottleneck" else None}
    arguments = {"stage1_unit01": first, "stage2_unit01": {**same, "strides": 2}}
    for training in (False, True):
        assert_equals_reference(models, arguments, training)
