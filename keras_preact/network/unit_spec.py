"""What a Residual Unit is, as frozen data: orderings (Fig. 4), kinds of units; `shortcuts` has Fig. 2. No Keras here.

A figure or equation number refers to *Identity Mappings in Deep Residual Networks* (He et al. 2016, arXiv 1603.05027);
"[1]" is *Deep Residual Learning for Image Recognition* (arXiv 1512.03385).
"""

from dataclasses import dataclass, field

from keras_preact.errors import argument_error
from keras_preact.network.environment import ConvSpec
from keras_preact.network.shortcuts import ShortcutSpec


@dataclass(frozen=True)
class Ordering:
    """Says where the one movable BN (B) and the one movable ReLU (R) of a unit stand (Fig. 4).

    Every ordering keeps BN-ReLU between two convolutions. `lead` stands before the first convolution, `tail` after
    the last, `after_addition` after the sum: it is the f of eq. (2).
    """

    lead: str
    tail: str
    after_addition: str

    def __post_init__(self) -> None:
        places = (self.lead, self.tail, self.after_addition)
        if not all(isinstance(letters, str) for letters in places) or sorted("".join(places)) != ["B", "R"]:
            raise argument_error("ordering", "a row with exactly one B and one R", self)

    @property
    def is_preactivation(self) -> bool:
        """True if an activation leads F (Fig. 4(d) and (e))."""
        return bool(self.lead)


ORDERINGS = {  # lead  tail  after_addition
    "original": Ordering("", "B", "R"),  # Fig. 4(a)
    "bn_after_addition": Ordering("", "", "BR"),  # Fig. 4(b)
    "relu_before_addition": Ordering("", "BR", ""),  # Fig. 4(c)
    "relu_only_preactivation": Ordering("R", "B", ""),  # Fig. 4(d)
    "preactivation": Ordering("BR", "", ""),  # Fig. 4(e)
}

# The kernel sides of a unit's convolutions, and the last one's channels over those of the others.
UNIT_KINDS = {
    "basic": ((3, 3), 1),  # [3x3, 3x3] of [1]
    "bottleneck": ((1, 3, 1), 4),  # [1x1, 3x3, 1x1] of [1]
    "single": ((3,), 1),  # "1 layer per shortcut" of Table 3
}


@dataclass(frozen=True)
class UnitSpec:
    """Describes one Residual Unit. Units of one stage that are equal can share one definition and be stacked.

    `stage` and `number`, both from 1, are its place in the network; its name has so many `digits` of the number. They
    and `drop_rate` (stochastic depth) differ from unit to unit and take no part in the comparison.
    """

    stage: int = field(compare=False)
    number: int = field(compare=False)
    digits: int = field(compare=False)
    kind: str
    in_width: int
    width: int
    strides: int
    ordering: str
    shortcut: ShortcutSpec
    widening: str
    stride_on: str
    widening_reads: str
    projects: bool
    shortcut_norm: bool
    drops_lead: bool
    conv_bias: tuple[str, ...]
    has_stochastic_depth: bool
    drop_rate: float = field(default=0.0, compare=False)

    @property
    def label(self) -> str:
        """The number as names have it: `07`, or `007` in a stage of 100 units or more."""
        return f"{self.number:0{self.digits}}"

    @property
    def name(self) -> str:
        """What the names of its layers begin with: `stage2_unit07`."""
        return f"stage{self.stage}_unit{self.label}"

    @property
    def out_width(self) -> int:
        """Channels of x_{l+1}."""
        return self.width * UNIT_KINDS[self.kind][1]

    @property
    def places(self) -> Ordering:
        """The row of Fig. 4: an `Ordering`."""
        return ORDERINGS[self.ordering]

    @property
    def changes_shape(self) -> bool:
        """True if x_{l+1} has not the shape of x_l."""
        return self.strides != 1 or self.in_width != self.out_width

    @property
    def activates_before_split(self) -> bool:
        """True if the shortcut, too, reads the activated signal (appendix of the paper; fb.resnet.torch)."""
        reshapes = self.changes_shape or self.projects
        return reshapes and self.widening_reads == "activated" and not self.shortcut.row.is_plain

    @property
    def convs(self) -> tuple[ConvSpec, ...]:
        """The `ConvSpec`s of F, first to last."""
        kernels, _ = UNIT_KINDS[self.kind]
        large = [k for k, kernel in enumerate(kernels) if kernel > 1]
        strided = large[0] if large and self.stride_on == "3x3" else 0
        last = len(kernels) - 1
        return tuple(
            ConvSpec(
                filters=self.out_width if k == last else self.width,
                kernel=kernel,
                strides=self.strides if k == strided else 1,
                bias=0.0 if ("last" if k == last else "branch") in self.conv_bias else None,
            )
            for k, kernel in enumerate(kernels)
        )

    @property
    def projection(self) -> ConvSpec:
        """The `ConvSpec` of a 1x1 convolution on the shortcut."""
        return ConvSpec(self.out_width, 1, self.strides, 0.0 if "shortcut" in self.conv_bias else None)
