"""Copies of a `ResidualNetwork`: in another layout, compiled alike, with LoRA as a part of its kernels."""

from __future__ import annotations

from typing import Any, Literal

from keras_preact.errors import argument_error
from keras_preact.keras_hooks import copy_exclusions
from keras_preact.network.checks import Layout, check_execution, check_layout
from keras_preact.network.model import ResidualNetwork, check_network, converted
from keras_preact.network.named_weights import copy_optimizer, copy_trainable, inner_optimizer


def relayout(
    model: ResidualNetwork,
    layout: Layout,
    unroll: int | Literal["auto", "all"] | None = None,
    remat: bool | int | None = None,
) -> ResidualNetwork:
    """Returns the same network in another layout, with the same weights and, if compiled, optimizer state.

    Args:
        model: A `ResidualNetwork`.
        layout: `"stacked"` or `"layers"`.
        unroll: As in `zoo.build_network`; that of `model` if None, which the layout of layers keeps for the other.
        remat: Likewise.

    Returns:
        `model` itself if nothing changes, else a new `ResidualNetwork`, compiled as `model` is.

    Raises:
        ValueError: If `model` is no network of this package, an argument is not allowed, or `model` is frozen in part
            within a run of units, which is one layer when stacked, or has a unit's layer with its own regularizer. Or
            if it is compiled with what Keras cannot copy, or with an optimizer whose state has not the weights' shapes.
    """
    check_network(model)
    layout, config = check_layout(layout, unroll, remat), model.get_config()
    unroll, remat = check_execution(
        config["unroll"] if unroll is None else unroll, config["remat"] if remat is None else remat
    )
    changes = {"layout": layout, "unroll": unroll, "remat": remat}
    if all(str(config[name]) == str(value) for name, value in changes.items()):  # 1 is no True here
        return model
    names = {layer.name for layer in ResidualNetwork.from_config({**config, **changes, "changed_layers": None}).layers}
    for name, own in config.get("changed_layers", {}).items():
        if (left := own.keys() - {"trainable"}) and name not in names:
            raise argument_error("layout", f'"{model.layout}" while {name} has its own {min(left)}', layout)
    other = converted(model, **changes)
    copy_trainable(model, other)
    compile_alike(model, other, partial=True)
    return other


def compile_alike(model: ResidualNetwork, other: ResidualNetwork, **how: Any) -> None:
    """Compiles `other` as `model` is, if it is, with the optimizer's state; `how` are arguments of `copy_optimizer`."""
    if not model.compiled:
        return
    try:
        if config := model.get_compile_config():
            other.compile_from_config(config)
            copy_exclusions(inner_optimizer(model.optimizer), inner_optimizer(other.optimizer))
    except (NotImplementedError, TypeError) as error:
        reason = f"{' '.join(str(error).split())} Compile both after it is made."
        expected = "compiled with what Keras can serialize, or not compiled"
        raise argument_error("model", expected, model.name, reason) from error
    copy_optimizer(model, other, **how)


def without_lora(model: ResidualNetwork) -> ResidualNetwork:
    """Returns a copy of a network whose kernels hold what LoRA adds to them; the network itself if it has none."""
    changed = model.get_config().get("changed_layers", {})
    if not any("lora_rank" in own for own in changed.values()):
        return model
    plain = {
        layer: {name: value for name, value in own.items() if not name.startswith("lora_")}
        for layer, own in changed.items()
    }
    return converted(model, changed_layers=plain)
