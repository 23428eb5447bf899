"""What a network costs, stage by stage: parameters, multiply-adds, memory for its signals."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_preact.errors import argument_error, check_integer
from keras_preact.network.checks import Layout
from keras_preact.network.claims import as_far_as, classes_of
from keras_preact.network.parts import CLASSIFIER, last_activation, network_parts
from keras_preact.network.shapes import Operation, Shapes, Weight
from keras_preact.network.spec import NetworkSpec
from keras_preact.network.unit_spec import ORDERINGS

if TYPE_CHECKING:
    from keras_preact.network.model import ResidualNetwork


@dataclass(frozen=True)
class StageCost:
    """What one part of a network costs for one image.

    Attributes:
        name: `stem`, `stage1`, ..., or `head`.
        shape: (height, width, channels) of its output.
        units: Residual Units in it.
        trainable: Trainable parameters.
        moving: Moving statistics of its batch normalisations.
        multiply_adds: Those of convolutions and classifier; additions, BN and ReLU are not counted.
        elements: Elements of the outputs of all its operations.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    trainable: int
    moving: int
    multiply_adds: int
    elements: int


def network_costs(
    spec: NetworkSpec,
    input_shape: Sequence[int],
    num_classes: int | None = None,
    features: Mapping[str, str] | None = None,
    layout: Layout = "layers",
) -> list[StageCost]:
    """Returns the `StageCost`s of a `NetworkSpec`, without building it.

    Args:
        spec: A `NetworkSpec`.
        input_shape: (height, width, channels), all known.
        num_classes: Outputs of the classifier; None for a network without the top.
        features: Of a backbone, a dict from `stage<number>` to its tap: it ends with the last of them.
        layout: Where a backbone's last signal is what the next stage reads, the layout of layers holds that activation
            alone, the stacked one the run of units that begins with it.
    """
    env, groups, units, done = Shapes(), {}, {}, 0
    for part, count in _parts(env, tuple(input_shape), spec, features or {}, layout):
        groups[part], units[part] = env.operations[done:], count
        done = len(env.operations)
    if num_classes is not None:
        weights = {"kernel": Weight((spec.out_width, num_classes), "he"), "bias": Weight((num_classes,), 0.0)}
        groups["head"].append(Operation("pool", shape=(spec.out_width,)))
        groups["head"].append(Operation(CLASSIFIER, weights, weights["kernel"].size, (num_classes,)))
    costs, before = [], ()
    for name, operations in groups.items():
        before = operations[-1].shape if operations else before
        sizes = [(weight.trainable, weight.size) for op in operations for weight in op.weights.values()]
        costs.append(
            StageCost(
                name=name,
                shape=before,
                units=units[name],
                trainable=sum(size for trainable, size in sizes if trainable),
                moving=sum(size for trainable, size in sizes if not trainable),
                multiply_adds=sum(op.multiply_adds for op in operations),
                elements=sum(op.elements for op in operations),
            )
        )
    return costs


def _parts(
    env: Shapes, x: tuple[int, ...], spec: NetworkSpec, features: Mapping[str, str], layout: str
) -> Iterator[tuple[str, int]]:
    """Yields the name of each part of a network and the number of its units, once `env` has recorded the part."""
    held = as_far_as(spec, features)
    parts, last = network_parts(env, x, held), len(held.units)
    for count in (0, *held.units):
        part, x = next(parts)  # the last activation is not asked for
        yield part, count
    if features and (features.get(f"stage{last}") != "activated" or not ORDERINGS[spec.ordering].lead):
        return
    if features and layout == "stacked" and last < len(spec.units):
        _, run = next(itertools.groupby(spec.stages[last]))
        units = tuple(run)
        env.units(x, units)
        yield f"stage{last + 1}", len(units)
    else:
        last_activation(env, x, held)
        yield "head", 0


def model_costs(model: ResidualNetwork, size: Sequence[int] | None = None) -> list[StageCost]:
    """Returns the `StageCost`s of a built network, for images of its own size or of `size` (height, width)."""
    from keras_preact.network.model import check_network

    check_network(model)
    config = model.get_config()
    height, width, channels = config["input_shape"]
    height, width = size or (height, width)
    if height is None or width is None:
        raise argument_error("size", "(height, width) for a network of undefined size", size)
    return network_costs(model.spec, (height, width, channels), classes_of(config), model.features, model.layout)


def summary(
    model: ResidualNetwork,
    batch_size: int = 1,
    size: Sequence[int] | None = None,
    print_fn: Callable[[str], object] = print,
) -> None:
    """Prints, per stage, units, output shape, parameters, multiply-adds and the memory of the signals.

    Args:
        model: A network that this package built.
        batch_size: Images whose signals are counted. Their memory is that of every operation's output, an upper bound
            of what a training step keeps; the backward pass needs what BN, ReLU and convolutions read.
        size: (height, width) of the images, if the network leaves it open.
        print_fn: Called with each line.

    Raises:
        ValueError: If `model` is not of this package, or its image size is unknown.
    """
    import keras

    batch_size = check_integer("batch_size", batch_size)
    costs = model_costs(model, size)
    bytes_each = {"float64": 8, "float32": 4}.get(
        keras.dtype_policies.get(model.get_config()["dtype"]).compute_dtype, 2
    )
    header = ("part", "units", "output", "parameters", "multiply-adds", f"signals of {batch_size}, MB")
    rows = [
        (
            cost.name,
            str(cost.units or ""),
            " x ".join(map(str, cost.shape)),
            f"{cost.trainable:,}",
            f"{cost.multiply_adds:,}",
            f"{cost.elements * bytes_each * batch_size / 1e6:,.1f}",
        )
        for cost in costs
    ]
    total = lambda name: sum(getattr(cost, name) for cost in costs)  # noqa: E731
    last = (
        "all",
        str(total("units")),
        "",
        f"{total('trainable'):,}",
        f"{total('multiply_adds'):,}",
        f"{total('elements') * bytes_each * batch_size / 1e6:,.1f}",
    )
    whole = f"{model.name}: {model.spec.depth} layers, {model.spec.ordering}, shortcut {model.spec.shortcut.name}"
    print_fn(f"{whole}; as far as stage{len(as_far_as(model.spec, model.features).units)}" if model.features else whole)
    for line in table([header, *rows, last]):
        print_fn(line)
    print_fn(f"parameters are trainable ones; {total('moving'):,} moving statistics besides")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: the first column to the left, the others to the right, a rule under the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths)] for row in rows)
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
