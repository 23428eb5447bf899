"""Tables 1 to 4 of the paper: every row, its number, and the experiment that stands for it.

The rows of Table 1 are in `laboratory.table1`, since `explain` measures them as well. Table 5 (ResNet-152 and
ResNet-200 on ImageNet) is left out: the paper speaks of three weeks on 8 GPUs for ResNet-200, and no small data set or
shallow network stands for it. Its networks can be built, and `reproduce.parameters` holds their sizes to the digit.
"""

from dataclasses import dataclass
from typing import Any

from keras_preact.laboratory.reproduce.experiments import PaperExperiment
from keras_preact.laboratory.table1 import TABLE_1
from keras_preact.network.unit_spec import ORDERINGS

FAIL = "fail"  # a test error above 20 %


@dataclass(frozen=True)
class Row:
    """Describes a row, or one number of it.

    Attributes:
        name: Its name in commands.
        paper: Test error in %, median of 5 runs, or `FAIL`.
        experiment: The `PaperExperiment`; None for a number that the paper quotes from others.
    """

    name: str
    paper: float | str
    experiment: PaperExperiment | None = None


def _pair(label, original, preactivation, depth, **fields):
    """Returns the two numbers of a line of Table 3."""
    return (
        Row(f"{label}.original", original, PaperExperiment(depth, **fields)),
        Row(f"{label}.preactivation", preactivation, PaperExperiment(depth, "preactivation", **fields)),
    )


def _orderings(depth, *errors):
    return (Row(f"{depth}.{name}", paper, PaperExperiment(depth, name)) for name, paper in zip(ORDERINGS, errors))


_QUOTED_10 = {"NIN": 8.81, "DSN": 8.22, "FitNet": 8.39, "Highway": 7.72, "All-CNN": 7.25, "ELU": 6.55}
_QUOTED_10["FitResNet_LSUV"] = 5.84
_QUOTED_100 = {"NIN": 35.68, "DSN": 34.57, "FitNet": 35.04, "Highway": 32.39, "All-CNN": 33.71, "ELU": 24.28}
_QUOTED_100["FitNet_LSUV"] = 27.66
_CIFAR100: dict[str, Any] = {"data": "cifar100"}

TABLES = {
    "table1": tuple(
        Row(row.name, row.paper_error_percent or FAIL, PaperExperiment(110, shortcut=row.shortcut)) for row in TABLE_1
    ),
    "table2": (
        *_orderings(110, 6.61, 8.17, 7.84, 6.71, 6.37),
        *_orderings(164, 5.93, 6.50, 6.14, 5.91, 5.46),
    ),
    "table3": (
        *_pair("cifar10.110_single", 9.90, 8.91, 110, unit="single"),
        *_pair("cifar10.110", 6.61, 6.37, 110),
        *_pair("cifar10.164", 5.93, 5.46, 164),
        *_pair("cifar10.1001", 7.61, 4.92, 1001),
        *_pair("cifar100.164", 25.16, 24.33, 164, **_CIFAR100),
        *_pair("cifar100.1001", 27.82, 22.71, 1001, **_CIFAR100),
    ),
    # The last line of CIFAR-10 was trained with the authors' Torch code, the others with Caffe.
    "table4": (
        *(Row(f"cifar10.{name}", paper) for name, paper in _QUOTED_10.items()),
        Row("cifar10.110.original", 6.61, PaperExperiment(110)),
        Row("cifar10.1202.original", 7.93, PaperExperiment(1202)),
        Row("cifar10.164.preactivation", 5.46, PaperExperiment(164, "preactivation")),
        Row("cifar10.1001.preactivation", 4.92, PaperExperiment(1001, "preactivation")),
        Row("cifar10.1001.preactivation_64", 4.62, PaperExperiment(1001, "preactivation", recipe="fair_cifar")),
        *(Row(f"cifar100.{name}", paper) for name, paper in _QUOTED_100.items()),
        Row("cifar100.164.original", 25.16, PaperExperiment(164, **_CIFAR100)),
        Row("cifar100.1001.original", 27.82, PaperExperiment(1001, **_CIFAR100)),
        Row("cifar100.164.preactivation", 24.33, PaperExperiment(164, "preactivation", **_CIFAR100)),
        Row("cifar100.1001.preactivation", 22.71, PaperExperiment(1001, "preactivation", **_CIFAR100)),
    ),
}
