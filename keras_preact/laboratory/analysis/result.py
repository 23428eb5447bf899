"""What a measurement says: one row per unit, as arrays, text, CSV and JSON."""

import csv
import dataclasses
import io
import json
import math
from dataclasses import dataclass

import numpy as np

from keras_preact.errors import check_integer
from keras_preact.files import write_text
from keras_preact.types import PathLike


@dataclass(frozen=True)
class Propagation:
    """Holds what `analyze` measured. Arrays have one entry per unit, in order, and cannot be written to.

    The size of a signal is the root of the mean square of its elements, that of a gradient the Euclidean norm over the
    whole batch. Without labels what follows from the loss is None.

    Attributes:
        network: The model's name.
        depth: Its weight layers.
        ordering: Where BN and ReLU stand (Fig. 4).
        shortcut: What stands on the shortcut (Fig. 2).
        training: Whether BN used the batch's statistics and dropout was on.
        images: How many images there were.
        loss: E, the mean cross-entropy in nats.
        gradient_at_end: |dE/dx_{L+1}|, after the last unit.
        units: The units' names.
        stage: The number of each unit's stage, from 1.
        keeps_shape: Whether x_{l+1} has the shape of x_l; eqs. (3) to (8) hold between such units.
        signal_rms: x_l.
        shortcut_rms: h(x_l) of eq. (1), after scaling, gate, convolution or dropout; 0 in a plain network.
        branch_rms: F(x_l) of eq. (1), after its scaling or gate.
        cut_share: Share of the elements of y_l that the ReLU after the addition sets to zero (eq. 2).
        gate_openness: Mean of 1 - g(x_l), the factor on the shortcut; not a number without a gate.
        gradient_norm: |dE/dx_l|.
        direct_norm: Its direct term (eq. 5; eq. 8 if the shortcut is no identity): what comes from the end of the
            unit's stage on the shortcuts alone, with the gradient stopped at every F.
        branch_norm: The branch term: |dE/dx_l - direct term|.
        shortcut_factor: The factor by which h multiplies the norm of the direct term in the backward pass: lambda_l of
            eq. (6).
        after_addition_factor: The same for f, which follows the addition.
        shortcut_product: Product of the shortcut factors from this unit to the end of its stage (eqs. 7 and 8).
        loss_without: E if the unit is deleted, so that x_l takes the place of x_{l+1}; not a number for units that
            change the shape or were not asked for.
    """

    network: str
    depth: int
    ordering: str
    shortcut: str
    training: bool
    images: int
    loss: float | None
    gradient_at_end: float | None
    units: tuple[str, ...]
    stage: np.ndarray
    keeps_shape: np.ndarray
    signal_rms: np.ndarray
    shortcut_rms: np.ndarray
    branch_rms: np.ndarray
    cut_share: np.ndarray
    gate_openness: np.ndarray
    gradient_norm: np.ndarray | None = None
    direct_norm: np.ndarray | None = None
    branch_norm: np.ndarray | None = None
    shortcut_factor: np.ndarray | None = None
    after_addition_factor: np.ndarray | None = None
    shortcut_product: np.ndarray | None = None
    loss_without: np.ndarray | None = None

    def __post_init__(self) -> None:
        for array in self.columns.values():
            array.setflags(write=False)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The measured arrays by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def network_product(self) -> np.ndarray | None:
        """The product of the shortcut factors from each unit to the network's end, over units that keep the shape."""
        if self.shortcut_factor is None:
            return None
        return np.cumprod(np.where(self.keeps_shape, self.shortcut_factor, 1.0)[::-1])[::-1]

    def table(self, rows: int = 20) -> str:
        """Returns text with one line per unit, at most `rows` of them, evenly spaced from the first to the last."""
        rows = check_integer("rows", rows)
        chosen = np.unique(np.linspace(0, len(self.units) - 1, min(rows, len(self.units))).round().astype(int))
        columns = {name: array for name, array in self.columns.items() if name not in ("stage", "keeps_shape")}
        lines = [("unit", *columns)]
        lines += [(self.units[i], *(_short(array[i]) for array in columns.values())) for i in chosen]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)

    def csv(self) -> str:
        """Returns a CSV with all units and columns; what is not a number stays empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("unit", *self.columns))
        for index, name in enumerate(self.units):
            writer.writerow((name, *(_plain(array[index], "") for array in self.columns.values())))
        return text.getvalue()

    def to_csv(self, path: PathLike) -> None:
        """Writes `csv()` to a file, whole or not at all."""
        write_text(path, self.csv())

    def to_json(self, path: PathLike) -> None:
        """Writes all attributes to a JSON file, whole or not at all; what is not a number becomes null."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {name: None for name in ("loss", "gradient_at_end") if not math.isfinite(values[name] or 0.0)}
        arrays = {name: [_plain(entry, None) for entry in array] for name, array in self.columns.items()}
        write_text(path, json.dumps({**values, **arrays}, indent=1) + "\n")


def _short(number):
    return "-" if math.isnan(number) else f"{number:.3g}"


def _plain(number, missing):
    """Returns a NumPy number as Python's; `missing` if it is none or infinite."""
    number = number.item()
    return number if math.isfinite(number) else missing
