"""Trainable parameters and multiply-adds of every network, counted in a built model, beside the exact integers.

The integers follow from the paper's architecture tables; implementations that print them agree to the digit. The
paper's own 10.2M for ResNet-1001 leaves batch normalisation out: 10,178,490 + 149,216.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from keras_preact.keras_hooks import without_values
from keras_preact.network.costs import model_costs, table
from keras_preact.network.model import ResidualNetwork
from keras_preact.resnets import ResNet

RELEASED = {"first_unit_activates": True, "widening_reads": "raw", "shortcut_norm": True}
BOTH_ACTIVATE = {"first_unit_activates": True}


@dataclass(frozen=True)
class Row:
    """Describes one network and the integers it must have: parameters, and multiply-adds where they are known."""

    label: str
    depth: int
    family: Literal["cifar", "imagenet"]
    num_classes: int
    parameters: int
    multiply_adds: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> ResidualNetwork:
        """Returns the `keras.Model`."""
        options = {"num_classes": self.num_classes, "layout": "stacked", **self.options}
        return ResNet(self.depth, family=self.family, **options)


def _cifar(label, depth, parameters, parameters_100, multiply_adds=None, **options):
    """Returns the rows of CIFAR-10, with its multiply-adds, and of CIFAR-100."""
    return (
        Row(f"{label}, 10 classes", depth, "cifar", 10, parameters, multiply_adds, options),
        Row(f"{label}, 100 classes", depth, "cifar", 100, parameters_100, None, options),
    )


def _imagenet(label, depth, parameters, multiply_adds=None, **options):
    return (Row(label, depth, "imagenet", 1000, parameters, multiply_adds, options),)


ORIGINAL = {"ordering": "original"}
ROWS = (
    *_cifar("ResNet-110 original, zero_pad", 110, 1_727_962, 1_733_812, 252_887_680, **ORIGINAL),
    *_cifar("ResNet-110", 110, 1_727_962, 1_733_812, 252_887_680),
    *_cifar(
        "ResNet-110 original, projection", 110, 1_730_714, 1_736_564, 253_149_824, **ORIGINAL, widening="projection"
    ),
    *_cifar("ResNet-110, projection", 110, 1_730_522, 1_736_372, 253_149_824, widening="projection"),
    *_cifar("ResNet-164 original", 164, 1_704_154, 1_727_284, 244_500_992, **ORIGINAL),
    *_cifar("ResNet-164", 164, 1_703_258, 1_726_388, 244_500_992),
    *_cifar("ResNet-164, stride on 3x3", 164, 1_703_258, 1_726_388, 247_646_720, stride_on="3x3"),
    *_cifar("ResNet-1001 original", 1001, 10_328_602, 10_351_732, 1_487_849_984, **ORIGINAL),
    *_cifar("ResNet-1001", 1001, 10_327_706, 10_350_836, 1_487_849_984),
    *_cifar("ResNet-1001, stride on 3x3", 1001, 10_327_706, 10_350_836, 1_490_995_712, stride_on="3x3"),
    *_imagenet("ResNet-152 original", 152, 60_192_808, 11_513_626_624, **ORIGINAL),
    *_imagenet("ResNet-152", 152, 60_185_128, 11_513_626_624),
    *_imagenet("ResNet-152, stride on 1x1", 152, 60_185_128, 11_282_415_616, stride_on="1x1"),
    *_imagenet("ResNet-152, BN in stem and unit 1", 152, 60_185_256, **BOTH_ACTIVATE),
    *_imagenet("ResNet-200 original", 200, 64_673_832, 15_007_481_856, **ORIGINAL),
    *_imagenet("ResNet-200", 200, 64_666_152, 15_007_481_856),
    *_imagenet("ResNet-200, stride on 1x1", 200, 64_666_152, 14_776_270_848, stride_on="1x1"),
    *_imagenet("ResNet-200, BN in stem and unit 1", 200, 64_666_280, **BOTH_ACTIVATE),
    *_imagenet("ResNet-200, no stem BN", 200, 64_666_152, stem={"activates": False}),
    *_imagenet("ResNet-152, no stem BN", 152, 60_185_128, stem={"activates": False}),
    *_imagenet("ResNet-200 as released for Torch", 200, 64_673_960, **RELEASED),
)


def measure(row: Row) -> tuple[int, int]:
    """Returns (trainable parameters of the built model, multiply-adds) of a `Row`; its weights get no values."""
    with without_values():
        model = row.build()
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    return parameters, sum(cost.multiply_adds for cost in model_costs(model))


def parameter_table() -> bool:
    """Builds every network of `ROWS` and prints its counts beside the exact integers; returns whether all are equal."""
    lines, right = [("network", "parameters", "exact", "multiply-adds", "exact", "")], True
    for row in ROWS:
        parameters, multiply_adds = measure(row)
        equal = parameters == row.parameters and row.multiply_adds in (None, multiply_adds)
        right = right and equal
        exact = "" if row.multiply_adds is None else f"{row.multiply_adds:,}"
        mark = "equal" if equal else "DIFFERS"
        lines.append((row.label, f"{parameters:,}", f"{row.parameters:,}", f"{multiply_adds:,}", exact, mark))
    print("\n".join(table(lines)))
    return right
