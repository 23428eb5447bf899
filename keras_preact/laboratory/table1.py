"""Table 1 of the paper, which `analysis` measures and `reproduce` trains: ResNet-110 of original units on CIFAR-10."""

from dataclasses import dataclass

from keras_preact.network.shortcuts import ShortcutSpec


@dataclass(frozen=True)
class ShortcutRow:
    """Describes a row of Table 1.

    Attributes:
        name: Its name in commands.
        label: Its name in pictures.
        paper_error_percent: The paper's test error; None for "fail", an error above 20 %.
        shortcut: A `ShortcutSpec`.
    """

    name: str
    label: str
    paper_error_percent: float | None
    shortcut: ShortcutSpec


def _row(name, label, error, shortcut, **parameters):
    return ShortcutRow(name, label, error, ShortcutSpec(shortcut, **parameters))


# The failing exclusive gates are of b_g = 0 ... -5; 0 is run.
TABLE_1 = (
    _row("original", "identity", 6.61, "identity"),
    _row("constant_scaling_0_1", "scaling 0, F x 1", None, "constant_scaling", scale=0.0, branch_scale=1.0),
    _row("constant_scaling_0.5_1", "scaling 0.5, F x 1", None, "constant_scaling", scale=0.5, branch_scale=1.0),
    _row("constant_scaling_0.5_0.5", "scaling 0.5, F x 0.5", 12.35, "constant_scaling", scale=0.5, branch_scale=0.5),
    _row("exclusive_gating_0", "exclusive gate, b = 0", None, "exclusive_gating", gate_bias=0.0),
    _row("exclusive_gating_-6", "exclusive gate, b = -6", 8.70, "exclusive_gating", gate_bias=-6.0),
    _row("exclusive_gating_-7", "exclusive gate, b = -7", 9.81, "exclusive_gating", gate_bias=-7.0),
    _row("shortcut_only_gating_0", "shortcut gate, b = 0", 12.86, "shortcut_only_gating", gate_bias=0.0),
    _row("shortcut_only_gating_-6", "shortcut gate, b = -6", 6.91, "shortcut_only_gating", gate_bias=-6.0),
    _row("conv1x1", "1x1 convolution", 12.22, "conv1x1"),
    _row("dropout_0.5", "dropout 0.5", None, "dropout", rate=0.5),
)
