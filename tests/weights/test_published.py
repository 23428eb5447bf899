"""A network as others trained and published it: akamaster's ResNets for CIFAR.

github.com/akamaster/pytorch_resnet_cifar10: original ordering, option A. Its zero channels stand half before and half
after an image's channels, ours all after; so the channels of ours are theirs in another order. The weights are drawn
at random here; the forward pass in NumPy knows nothing of this package.
"""

import numpy as np
import pytest

import keras_preact
from keras_preact.exporting.inference import inference_weights, outputs, stacked
from keras_preact.network.named_weights import assign, named_weights

WIDTHS, UNITS, CLASSES = (16, 32, 64), 2, 10
BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def published(rng):
    """Arrays by akamaster's names and in Torch's order of axes, all random."""
    arrays = {}

    def conv(name, ins, outs):
        arrays[f"{name}.weight"] = rng.normal(size=(outs, ins, 3, 3)) * (2 / (9 * ins)) ** 0.5

    def bn(name, width):
        for part, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            arrays[f"{name}.{part}"] = low + rng.random(width)

    conv("conv1", 3, WIDTHS[0])
    bn("bn1", WIDTHS[0])
    before = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        for unit in range(UNITS):
            for number, ins in ((1, before), (2, width)):
                conv(f"layer{stage}.{unit}.conv{number}", ins, width)
                bn(f"layer{stage}.{unit}.bn{number}", width)
            before = width
    arrays["linear.weight"] = rng.normal(size=(CLASSES, before)) * 0.3
    arrays["linear.bias"] = rng.normal(size=CLASSES)
    return arrays


def numpys_logits(arrays, images):
    """What akamaster's network answers for images (batch, height, width, 3)."""

    def conv(x, name, stride=1):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
        return np.einsum("bihwrc,oirc->bohw", windows, arrays[f"{name}.weight"], optimize=True)

    def bn(x, name):
        scale, offset, mean, variance = (arrays[f"{name}.{part}"][:, None, None] for part in BN.values())
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset

    x = np.maximum(bn(conv(images.transpose(0, 3, 1, 2), "conv1"), "bn1"), 0)
    for stage, width in enumerate(WIDTHS, start=1):
        for unit in range(UNITS):
            name, widens = f"layer{stage}.{unit}", x.shape[1] < width
            branch = np.maximum(bn(conv(x, f"{name}.conv1", 1 + widens), f"{name}.bn1"), 0)
            branch = bn(conv(branch, f"{name}.conv2"), f"{name}.bn2")
            if widens:
                x = np.pad(x[:, :, ::2, ::2], ((0, 0), (width // 4, width // 4), (0, 0), (0, 0)))
            x = np.maximum(branch + x, 0)
    return x.mean(axis=(2, 3)) @ arrays["linear.weight"].T + arrays["linear.bias"]


def channel_orders(widths=WIDTHS):
    """Returns for each stage which of their channels each of ours is: the carried ones first, zeros after them."""
    orders = [np.arange(widths[0])]
    for width in widths[1:]:
        carried = width // 4 + orders[-1]
        orders.append(np.concatenate([carried, np.setdiff1d(np.arange(width), carried)]))
    return orders


def as_ours(arrays, orders):
    """Returns akamaster's arrays by our names, with the channels of each stage's signal in our order."""
    ours = {}

    def conv(name, theirs, ins, outs):
        kernel = arrays[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        ours[f"{name}/kernel"] = kernel[:, :, ins][..., outs]

    def bn(name, theirs, order):
        ours.update({f"{name}/{part}": arrays[f"{theirs}.{other}"][order] for part, other in BN.items()})

    every = slice(None)
    conv("stem_conv", "conv1", every, orders[0])
    bn("stem_bn", "bn1", orders[0])
    before = orders[0]
    units = len({name.split(".")[1] for name in arrays if name.startswith("layer1.")})
    for stage, order in enumerate(orders, start=1):
        for unit in range(units):
            name, theirs = f"stage{stage}_unit{unit + 1:02}", f"layer{stage}.{unit}"
            conv(f"{name}_conv1", f"{theirs}.conv1", before, every)
            bn(f"{name}_bn1", f"{theirs}.bn1", every)
            conv(f"{name}_conv2", f"{theirs}.conv2", every, order)
            bn(f"{name}_bn2", f"{theirs}.bn2", order)
            before = order
    ours["predictions/kernel"], ours["predictions/bias"] = arrays["linear.weight"].T[before], arrays["linear.bias"]
    return ours


def network(arrays, orders, depth=6 * UNITS + 2, side=8, **options):
    """Returns our network with akamaster's arrays."""
    options = {"classifier_activation": None, "dtype": "float64", **options}
    model = keras_preact.ResNet(
        depth, ordering="original", widening="zero_pad", input_shape=(side, side, 3), num_classes=CLASSES, **options
    )
    assign(named_weights(model), as_ours(arrays, orders).__getitem__)
    return model


@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_a_published_network_is_one_of_ours_with_its_channels_reordered(layout, float64):
    rng = np.random.default_rng(0)
    arrays, images = published(rng), rng.normal(size=(3, 8, 8, 3))
    expected = numpys_logits(arrays, images)
    model = network(arrays, channel_orders(), layout=layout)
    np.testing.assert_allclose(model(images, training=False), expected, rtol=1e-9)
    folded = stacked(model)
    np.testing.assert_allclose(outputs(folded, inference_weights(folded), images)["logits"], expected, rtol=1e-9)
    as_they_are = network(arrays, [np.arange(width) for width in WIDTHS], layout=layout)
    assert np.abs(as_they_are(images, training=False) - expected).max() > 0.1 * np.abs(expected).max()
