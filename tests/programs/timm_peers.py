"""Writes safetensors files of timm's pre-activation ResNets, and what these networks answer. Not a test.

`python tests/programs/timm_peers.py FOLDER NAME ...`: as `tf_keras_peers.py`, but NAME.safetensors.
"""

import pathlib
import sys

import numpy as np
import safetensors.torch
import timm
import torch


def randomize(network, images):
    """Draws scales, offsets and biases at random, and takes moving statistics from `images`."""
    generator = torch.Generator().manual_seed(0)
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                is_scale = ".norm" in f".{name}" and name.endswith("weight")
                parameter.copy_(is_scale + 0.2 * torch.randn(parameter.shape, generator=generator).double())
        torch.nn.init.normal_(network.head.fc.weight, std=0.05, generator=generator)
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images)
        for array in network.state_dict().values():
            if array.is_floating_point():
                array.copy_(array.float())
    network.eval()


def write(folder, name):
    torch.manual_seed(1)
    network = timm.create_model(name).double()
    images = np.random.default_rng(2).normal(size=(4, 72, 88, 3)).astype("float32").astype("float64")
    randomize(network, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    safetensors.torch.save_file(network.state_dict(), folder / f"{name}.safetensors")
    signals = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: signals.append(output))
    with torch.no_grad():
        logits = network(torch.from_numpy(images[:2].transpose(0, 3, 1, 2).copy()))
    stages = {f"stage{number}": signal.permute(0, 2, 3, 1).numpy() for number, signal in enumerate(signals, start=1)}
    np.savez(folder / f"{name}.npz", images=images[:2], logits=logits.numpy(), **stages)


if __name__ == "__main__":
    for peer in sys.argv[2:]:
        write(pathlib.Path(sys.argv[1]), peer)
