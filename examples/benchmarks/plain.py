"""The CIFAR pre-activation bottleneck network in plain Keras functional layers: one stock layer per operation.

This is what a user would write without this package, and what `depth.py` measures it against.
"""

import keras
from keras import layers


def plain_network(depth, num_classes=10):
    """Returns the `keras.Model` of 9n + 2 layers for images (batch, 32, 32, 3); it returns probabilities."""
    images = keras.Input((32, 32, 3), name="images")
    x = activate(conv(images, 16, 3))  # the first unit's own activation, moved to just after conv1
    for stage, width in enumerate((16, 32, 64)):
        for number in range((depth - 2) // 9):
            strides = 2 if stage > 0 and number == 0 else 1
            x = residual_unit(x, width, strides, widens=number == 0, is_activated=stage == number == 0)
    x = layers.GlobalAveragePooling2D()(activate(x))
    return keras.Model(images, layers.Dense(num_classes, activation="softmax")(x), name=f"plain{depth}")


def residual_unit(x, width, strides, widens, is_activated):
    """Applies BN-ReLU-conv three times and adds the shortcut, a projection of the activated signal if it widens."""
    activated = x if is_activated else activate(x)
    shortcut = conv(activated, 4 * width, 1, strides) if widens else x
    branch = conv(activated, width, 1, strides)
    branch = conv(activate(branch), width, 3)
    branch = conv(activate(branch), 4 * width, 1)
    return layers.Add()([shortcut, branch])


def activate(x):
    """Applies BN, then ReLU."""
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))


def conv(x, filters, kernel, strides=1):
    """Applies a convolution without bias, with He's start."""
    start = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    return layers.Conv2D(filters, kernel, strides, "same", use_bias=False, kernel_initializer=start)(x)
