"""One Residual Unit in NumPy, written from the paper's figures alone, against the units that `build_network` built.

The reference knows nothing of the package but the names of the weights. Both layouts are compared in float64, in
inference and in training, and BN's moving statistics with them.
"""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.copying import named_weights
from keras_preact.spec import NetworkSpec

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
            old, (mean, variance) = (mean, variance), (x.mean((0, 1, 2)), ((x - x.mean((0, 1, 2))) ** 2).mean((0, 1, 2)))
            for part, before, now in zip(("moving_mean", "moving_variance"), old, (mean, variance)):
                self.moving[f"{name}/{part}"] = MOMENTUM * before + (1.0 - MOMENTUM) * now
        return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


@pytest.fixture(autouse=True, scope="module")
def float64():
    """Computes in float64, and leaves Keras as it was for other files."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.utils.clear_session()  # the policy, too
