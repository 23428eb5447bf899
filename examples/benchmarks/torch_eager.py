"""The network of `plain.py` in eager PyTorch, channels_last, as a user of torch would write and train it."""

import torch
from torch import nn


class ResidualUnit(nn.Module):
    """Applies BN-ReLU-conv three times and adds the shortcut, a projection of the activated signal if it widens."""

    def __init__(self, in_width, width, strides, is_activated):
        super().__init__()
        widens = in_width != 4 * width
        self.activation1 = None if is_activated else activation(in_width)
        self.conv1 = conv(in_width, width, 1, strides)
        self.activation2 = activation(width)
        self.conv2 = conv(width, width, 3)
        self.activation3 = activation(width)
        self.conv3 = conv(width, 4 * width, 1)
        self.projection = conv(in_width, 4 * width, 1, strides) if widens else None

    def forward(self, x):
        activated = x if self.activation1 is None else self.activation1(x)
        shortcut = x if self.projection is None else self.projection(activated)
        branch = self.conv1(activated)
        branch = self.conv2(self.activation2(branch))
        return shortcut + self.conv3(self.activation3(branch))


def torch_network(depth, num_classes=10):
    """Returns the `nn.Module` of 9n + 2 layers for images (batch, 3, 32, 32); it returns logits."""
    parts, in_width = [conv(3, 16, 3), activation(16)], 16
    for stage, width in enumerate((16, 32, 64)):
        for number in range((depth - 2) // 9):
            strides = 2 if stage > 0 and number == 0 else 1
            parts.append(ResidualUnit(in_width, width, strides, is_activated=stage == number == 0))
            in_width = 4 * width
    parts += [activation(in_width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_width, num_classes)]
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


def training_step(network, images, labels, precision="float32"):
    """Returns a function that takes one step of SGD with momentum on one batch, and returns the loss as a float.

    Args:
        network: The `nn.Module`.
        images: float32 array (batch, height, width, channels).
        labels: int array (batch,).
        precision: `"float32"`, or `"mixed_bfloat16"` for autocast.
    """
    images = torch.from_numpy(images).permute(0, 3, 1, 2)  # a view, so it is channels_last in memory
    labels = torch.from_numpy(labels).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    network.train()

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(network, images, precision="float32", is_compiled=False):
    """Returns a function that computes the probabilities of one batch, as a float32 array.

    Args:
        network: The `nn.Module`; it is changed.
        images: float32 array (batch, height, width, channels).
        precision: `"float32"`, or `"mixed_bfloat16"` for weights and signals in bfloat16.
        is_compiled: Whether by `torch.compile`, else eagerly.
    """
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    network = network.eval()
    if precision == "mixed_bfloat16":
        network, images = network.bfloat16(), images.bfloat16()
    network = torch.compile(network) if is_compiled else network

    def answer():
        with torch.inference_mode():
            return network(images).float().softmax(-1).numpy()

    return answer


def set_statistics(network, **ranges):
    """Draws gamma, beta, moving_mean and moving_variance of every BN evenly from (low, high)."""
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, ours in names.items():
                getattr(module, name).data.uniform_(*ranges[ours])


def limits(seconds_of):
    """Returns what the machine can do: GFLOP/s of a product of matrices in two precisions, and GB/s of a copy.

    Args:
        seconds_of: A function that calls a function some times, and returns the least seconds of a call.
    """
    side, megabytes, found = 1024, 256, {}
    for name in ("float32", "bfloat16"):
        matrix = torch.randn(side, side).to(getattr(torch, name))
        found[f"{name}_gflop_s"] = 2 * side**3 / seconds_of(lambda matrix=matrix: matrix @ matrix) / 1e9
    source = torch.zeros(megabytes << 18)
    target = torch.empty_like(source)
    found["copy_gb_s"] = 2 * megabytes / 1024 / seconds_of(lambda: target.copy_(source))
    return found


def activation(channels):
    """Returns BN, then ReLU."""
    return nn.Sequential(nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1), nn.ReLU(inplace=True))


def conv(in_width, filters, kernel, strides=1):
    """Returns a convolution without bias, with He's start."""
    layer = nn.Conv2d(in_width, filters, kernel, strides, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
