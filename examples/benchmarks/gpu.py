"""Measures training steps on a GPU: ours through `keras.Model.fit` beside eager PyTorch, bfloat16, a line per cell.

KERAS_BACKEND=jax XLA_PYTHON_CLIENT_PREALLOCATE=false python examples/benchmarks/gpu.py --cells 164:128 164:512 1001:128

A cell is DEPTH:BATCH, or DEPTH:BATCH:UNROLL, which is measured without the peer. Images are 32x32 and lie on the GPU,
so neither side waits for data; both take a step of SGD with momentum. "first" is the seconds to the end of the first
step: building, tracing, compiling.
"""

import argparse
import itertools
import json
import time

import keras
import numpy as np
import torch
from torch_eager import torch_network

import keras_preact

STEPS = 20


class Timing(keras.callbacks.Callback):
    """Times an epoch; it waits for the device at the epoch's end only."""

    seconds = ()

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])
        self.seconds = (*self.seconds, time.perf_counter() - self.start)


def ours(depth, batch, rounds, unroll="auto"):
    """Returns (seconds to the end of the first step, images/s of the best round)."""
    start = time.perf_counter()
    network = keras_preact.ResNet(depth, unit="bottleneck", layout="stacked", dtype="mixed_bfloat16", unroll=unroll)
    network.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=True)
    images, labels = map(keras.ops.convert_to_tensor, random_batch(batch))
    batches, timing = ((images, labels) for _ in itertools.count()), Timing()
    network.fit(batches, steps_per_epoch=1, verbose=0)
    first = time.perf_counter() - start
    network.fit(batches, steps_per_epoch=STEPS, epochs=rounds + 1, callbacks=[timing], verbose=0)
    return first, batch * STEPS / min(timing.seconds[1:])


def eager_torch(depth, batch, rounds):
    """Returns what `ours` does, of the peer."""
    start = time.perf_counter()
    network = torch_network(depth).cuda()
    images, labels = random_batch(batch)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).cuda()  # channels_last in memory
    labels = torch.from_numpy(labels).long().cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()

    steps(1)
    first, seconds = time.perf_counter() - start, []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        steps(STEPS)
        seconds.append(time.perf_counter() - start)
    return first, batch * STEPS / min(seconds[1:])


def random_batch(batch):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, 32, 32, 3)).astype("float32"), rng.integers(10, size=batch).astype("int32")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cells", nargs="+", default=["164:128", "164:512", "1001:128"], help="DEPTH:BATCH or DEPTH:BATCH:UNROLL"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of 20 steps each, after one that is left out")
    arguments = parser.parse_args()
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__, "keras": keras.__version__}))
    for cell in arguments.cells:
        depth, batch, *unroll = map(int, cell.split(":"))
        line = {"depth": depth, "batch": batch, "unroll": unroll[0] if unroll else "auto"}
        first, speed = ours(depth, batch, arguments.rounds, line["unroll"])
        line |= {"ours, first, s": round(first, 1), "ours, images/s": round(speed)}
        if not unroll:
            first, peer = eager_torch(depth, batch, arguments.rounds)
            line |= {"eager torch, first, s": round(first, 1), "eager torch, images/s": round(peer)}
            line["ours / eager torch"] = round(speed / peer, 2)
            torch.cuda.empty_cache()
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
