"""A run of equal Residual Units as one layer: their weights stacked on a leading axis, applied in a loop."""

import keras
from keras import ops

from keras_preact.layers.batch_norm import batch_norm
from keras_preact.layers.loop import scan
from keras_preact.shapes import Shapes
from keras_preact.spec import ShortcutSpec, UnitSpec, from_fields
from keras_preact.units import residual_unit


@keras.saving.register_keras_serializable(package="keras_preact")
class ResidualUnits(keras.layers.Layer):
    def __init__(self, units, bn_momentum, bn_epsilon, unroll=1, remat=0, **kwargs):
        super().__init__(**kwargs)
        self.units = tuple(units)
        self.bn_momentum, self.bn_epsilon = bn_momentum, bn_epsilon
        self.unroll, self.remat = unroll, remat
        self.unit = self.units[0]
        self.draws = self.unit.shortcut.name == "dropout" or self.unit.has_stochastic_depth
        if self.draws:
            self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape):
        shapes = Shapes()
        residual_unit(shapes, (1, 1, input_shape[-1]), self.unit)
        self.stacks = {}
        for name, weight in shapes.weights.items():
            if weight.start == "he":
                deviation = (2.0 / (weight.shape[0] * weight.shape[1] * weight.shape[3])) ** 0.5
                start = keras.initializers.RandomNormal(0.0, deviation)
            else:
                start = keras.initializers.Constant(weight.start)
            self.stacks[name] = self.add_weight(
                name=name.replace("/", "_"),
                shape=(len(self.units), *weight.shape),
                initializer=start,
                trainable=weight.trainable,
                autocast=weight.trainable,
            )
        self.built = True

    def call(self, x, training=False):
        moving = [name for name in self.stacks if "/moving_" in name]
        stacked = {name: ops.convert_to_tensor(variable) for name, variable in self.stacks.items()}
        seed = None
        if self.draws:
            stacked["index"] = ops.arange(len(self.units))
            stacked["drop_rate"] = ops.convert_to_tensor([unit.drop_rate for unit in self.units], "float32")
            seed = self.seed_generator.next() if training else None
        names = moving if training else []
        outputs = {name: (self.stacks[name].shape[1:], self.stacks[name].dtype) for name in names}

        def step(x, slices):
            env = Slices(self, slices, training, seed)
            x = residual_unit(env, x, self.unit)
            return x, {name: env.updates[name] for name in names}

        if self.unit.changes_shape or len(self.units) == 1:
            x, updates = step(x, {name: value[0] for name, value in stacked.items()})
            updates = {name: update[None] for name, update in updates.items()}
        else:
            x, updates = scan(step, x, stacked, outputs, self.unroll, self.remat)
        for name, update in updates.items():
            self.stacks[name].assign(update)
        return x

    def compute_output_shape(self, input_shape):
        batch = input_shape[0]
        return (batch, *residual_unit(Shapes(), tuple(input_shape[1:]), self.unit))


class Slices:
    def __init__(self, layer, slices, training, seed):
        self.layer, self.slices, self.training, self.seed = layer, slices, training, seed
        self.updates = {}

    def conv(self, x, name, conv):
        kernel = self.slices[f"{name}/kernel"]
        if conv.kernel == 1:
            x = x[:, :: conv.strides, :: conv.strides, :] if conv.strides > 1 else x
            x = ops.matmul(x, kernel[0, 0])
        elif conv.strides > 1:
            pad = conv.kernel // 2
            x = ops.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
            x = ops.conv(x, kernel, conv.strides, "valid", data_format="channels_last")
        else:
            x = ops.conv(x, kernel, 1, "same", data_format="channels_last")
        return x if conv.bias is None else x + self.slices[f"{name}/bias"]

    def batch_norm(self, x, name):
        parts = {part: self.slices[f"{name}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")}
        x, mean, variance = batch_norm(x, **parts, epsilon=self.layer.bn_epsilon, training=self.training)
        if self.training:
            keep = self.layer.bn_momentum
            for part, value in (("moving_mean", mean), ("moving_variance", variance)):
                self.updates[f"{name}/{part}"] = parts[part] * keep + ops.cast(value, parts[part].dtype) * (1 - keep)
        return x

    def relu(self, x, name):
        return ops.relu(x)

    def sigmoid(self, x, name):
        return ops.sigmoid(x)

    def add(self, a, b, name):
        return a + b

    def multiply(self, a, b, name):
        return a * b

    def affine(self, x, name, scale, offset):
        return x * scale + offset
