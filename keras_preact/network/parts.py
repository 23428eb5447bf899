"""Stem, stages and last activation: a `NetworkSpec` run in an `environment.Environment`. Imports no Keras."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from keras_preact.network.environment import ConvSpec, NetworkEnvironment, Signal
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.unit_spec import ORDERINGS
from keras_preact.network.units import activate

TAPS = ("sum", "activated")
CLASSIFIER = "predictions"  # the layer, named as in keras.applications


def residual_network(env: NetworkEnvironment[Signal], x: Signal, spec: NetworkSpec) -> Signal:
    """Applies stem and stages to x, of shape (batch, height, width, channels), up to the last activation."""
    *_, (_, x) = network_parts(env, x, spec)
    return x


def network_parts(env: NetworkEnvironment[Signal], x: Signal, spec: NetworkSpec) -> Iterator[tuple[str, Signal]]:
    """Yields the name of each part of a network, `"stem"`, `"stage1"`, ..., `"final"`, and the signal after it."""
    x = stem(env.within("stem"), x, spec)
    yield "stem", x
    for number, stage in enumerate(spec.stages, start=1):
        for _, run in itertools.groupby(stage):
            x = env.units(x, tuple(run))
        yield f"stage{number}", x
    yield "final", last_activation(env, x, spec)


def last_activation(env: NetworkEnvironment[Signal], x: Signal, spec: NetworkSpec) -> Signal:
    """Applies, after the last sum, what leads a unit of this ordering."""
    return activate(env.within("final"), x, ORDERINGS[spec.ordering].lead, "")


def feature_maps(env: Any, x: Any, spec: NetworkSpec, taps: Mapping[str, str]) -> dict[str, Any]:
    """Applies a network as far as `taps` need it, and returns a dict of the stages' signals.

    Args:
        env: A `KerasLayers` or `StackedLayers`.
        x: The images (batch, height, width, channels).
        spec: A `NetworkSpec`.
        taps: A dict from `stage<number>` to one of `TAPS`. `"sum"` is x_{l+1} of the stage's last unit: what the next
            shortcut carries. `"activated"` is what the next unit's first convolution reads: in pre-activation orderings
            (Fig. 4(d), (e)) that unit's own leading ReLU or BN-ReLU of the sum, or the network's last; in the others,
            which put nothing between the two, the sum itself.
    """
    found: dict[str, Any] = {}
    lead = ORDERINGS[spec.ordering].lead
    taps = {name: tap if lead else "sum" for name, tap in taps.items()}
    x = stem(env.within("stem"), x, spec)
    for number, stage in enumerate(spec.stages, start=1):
        before = f"stage{number - 1}"
        if len(found) == len(taps):
            break
        for _, run in itertools.groupby(stage):
            run = tuple(run)
            reads = taps.get(before) == "activated" and before not in found
            x, signal = env.units(x, run, return_lead=True) if reads else (env.units(x, run), None)
            if reads:
                found[before] = signal
        if taps.get(f"stage{number}") == "sum":
            found[f"stage{number}"] = x
    if len(found) < len(taps):
        found[f"stage{len(spec.units)}"] = last_activation(env, x, spec)
    return {name: found[name] for name in taps}


def stem(env: NetworkEnvironment[Signal], x: Signal, spec: NetworkSpec) -> Signal:
    """Applies what stands before the first unit: conv1 and, as the spec says, BN of the input, BN-ReLU, max-pooling."""
    parts = spec.stem
    if parts.input_norm != "none":
        x = env.batch_norm(x, "input_bn", center=parts.input_norm == "center", scale=False)
    bias = 0.0 if "stem" in spec.conv_bias else None
    x = env.conv(x, "conv", ConvSpec(parts.width, parts.kernel, parts.strides, bias))
    x = activate(env, x, "BR" if parts.activates else "", "")
    return x if parts.pool == "none" else env.max_pool(x, "pool", parts.pool)
