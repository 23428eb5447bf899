"""Stem, stages and head: a `NetworkSpec` becomes a `keras.Model`."""

import itertools

import keras
from keras import layers

from keras_preact.layers.padding import StemPool, ZeroPadShortcut
from keras_preact.layers.residual_units import ResidualUnits
from keras_preact.spec import ORDERINGS, ConvSpec, NetworkSpec
from keras_preact.units import activate, residual_unit

LAYOUTS = ("layers",)


def residual_network(env, x, spec):
    """Applies stem and stages to x, of shape (batch, height, width, channels), up to the last activation."""
    x = stem(env.within("stem"), x, spec)
    for stage in spec.stages:
        for _, run in itertools.groupby(stage):
            x = env.units(x, tuple(run))
    return activate(env.within("final"), x, ORDERINGS[spec.ordering].lead, "")


def stem(env, x, spec):
    """Applies what stands before the first unit: conv1 and, as the spec says, BN of the input, BN-ReLU, max-pooling."""
    parts = spec.stem
    if parts.input_norm != "none":
        x = env.batch_norm(x, "input_bn", center=parts.input_norm == "center", scale=False)
    bias = 0.0 if "stem" in spec.conv_bias else None
    x = env.conv(x, "conv", ConvSpec(parts.width, parts.kernel, parts.strides, bias))
    x = activate(env, x, "BR" if parts.activates else "", "")
    return x if parts.pool == "none" else env.max_pool(x, "pool", parts.pool)


def he_normal():
    """Returns the convolutions' initialiser: normal, deviation sqrt(2 / (k k C_out)), as fb.resnet.torch has it."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def torch_uniform():
    """Returns the classifier's initialiser: uniform in +-1 / sqrt(C_in), Torch's default, which fb.resnet.torch keeps."""
    return keras.initializers.VarianceScaling(1.0 / 3.0, "fan_in", "uniform")


class KerasLayers:
    """An environment (see `units`) that makes a named Keras layer of every operation; its signals are Keras tensors."""

    def __init__(self, spec, dtype, prefix=""):
        self.spec, self.dtype, self.prefix = spec, dtype, prefix

    def within(self, name):
        """Returns this environment with `name` before every layer's name."""
        return type(self)(self.spec, self.dtype, f"{self.prefix}{name}_")

    def units(self, x, run):
        """Applies a run of units that are equal but for their names and drop rates."""
        for unit in run:
            x = residual_unit(self.within(unit.name), x, unit)
        return x

    def conv(self, x, name, conv):
        padding = "same"
        if conv.strides > 1 and conv.kernel > 1:  # "same" would pad even sizes only below and to the right
            x = self._layer(layers.ZeroPadding2D, f"{name}_pad", padding=conv.kernel // 2)(x)
            padding = "valid"
        return self._layer(
            layers.Conv2D,
            name,
            filters=conv.filters,
            kernel_size=conv.kernel,
            strides=conv.strides,
            padding=padding,
            use_bias=conv.bias is not None,
            bias_initializer=keras.initializers.Constant(conv.bias or 0.0),
            kernel_initializer=he_normal(),
        )(x)

    def batch_norm(self, x, name, center=True, scale=True):
        return self._layer(
            layers.BatchNormalization,
            name,
            momentum=self.spec.bn_momentum,
            epsilon=self.spec.bn_epsilon,
            center=center,
            scale=scale,
            # Only TensorFlow keeps statistics per replica; JAX takes them over the whole batch, and refuses the word.
            synchronized=self.spec.bn_synchronized and keras.backend.backend() == "tensorflow",
        )(x)

    def relu(self, x, name):
        return self._layer(layers.Activation, name, activation="relu")(x)

    def sigmoid(self, x, name):
        return self._layer(layers.Activation, name, activation="sigmoid")(x)

    def add(self, a, b, name):
        return self._layer(layers.Add, name)([a, b])

    def multiply(self, a, b, name):
        return self._layer(layers.Multiply, name)([a, b])

    def affine(self, x, name, scale, offset):
        return self._layer(layers.Rescaling, name, scale=scale, offset=offset)(x)

    def dropout(self, x, name, rate):
        return self._layer(layers.Dropout, name, rate=rate)(x)

    def stochastic_depth(self, x, name, rate):
        return self._layer(layers.Dropout, name, rate=rate, noise_shape=(None, 1, 1, 1))(x)

    def zero_pad(self, x, name, filters, strides):
        return self._layer(ZeroPadShortcut, name, filters=filters, strides=strides)(x)

    def max_pool(self, x, name, padding):
        return self._layer(StemPool, name, padding=padding)(x)

    def _layer(self, kind, name, **arguments):
        return kind(name=self.prefix + name, dtype=self.dtype, **arguments)


class StackedLayers(KerasLayers):
    def units(self, x, run):
        name = run[0].name if len(run) == 1 else f"{run[0].name.replace('unit', 'units')}_{run[-1].name[-2:]}"
        return self._layer(ResidualUnits, name, units=run, bn_momentum=self.spec.bn_momentum, bn_epsilon=self.spec.bn_epsilon)(x)


def head(x, dtype, include_top, pooling, num_classes, classifier_activation):
    """Applies global pooling and the classifier, whose logits and probabilities are float32 at least.

    Returns (batch, num_classes) with the top; without it (batch, channels) for a `pooling`, else x as it is.
    """
    if include_top or pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="pool", dtype=dtype)(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="pool", dtype=dtype)(x)
    if not include_top:
        return x
    dtype = dtype.variable_dtype  # float32 under mixed precision: a softmax of many classes needs it
    x = layers.Dense(num_classes, name="logits", dtype=dtype, kernel_initializer=torch_uniform())(x)
    return layers.Activation(classifier_activation, name="predictions", dtype=dtype)(x)


@keras.saving.register_keras_serializable(package="keras_preact")
class ResidualNetwork(keras.Model):
    """Builds the `keras.Model` of a `NetworkSpec`; the functions of `zoo` check their arguments and call it.

    Attributes:
        spec: The `NetworkSpec`.
        layout: How the units are laid out; see `zoo.build_network`.
    """

    def __init__(
        self,
        spec,
        input_shape,
        include_top=True,
        pooling=None,
        num_classes=10,
        classifier_activation="softmax",
        layout="layers",
        dtype=None,
        name=None,
        input_tensor=None,
        trainable=True,
    ):
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        top = dict(
            include_top=include_top,
            pooling=pooling,
            num_classes=num_classes,
            classifier_activation=classifier_activation,
        )
        inputs = input_tensor
        if inputs is None:
            inputs = keras.Input(input_shape, dtype=policy.variable_dtype, name="images")
        outputs = head(residual_network((StackedLayers if layout=="stacked" else KerasLayers)(spec, policy), inputs, spec), policy, **top)
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)
        self.spec, self.layout = spec, layout
        self._arguments = {
            "spec": spec.to_dict(),
            "input_shape": tuple(input_shape),
            **top,
            "layout": layout,
            "dtype": policy.name,
        }

    def get_config(self):
        return {**self._arguments, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        return cls(NetworkSpec.from_dict(config.pop("spec")), tuple(config.pop("input_shape")), **config)
