"""What a Residual Unit is, as frozen data: orderings (Fig. 4), shortcuts (Fig. 2), kinds of units. Imports no Keras.

A figure or equation number refers to *Identity Mappings in Deep Residual Networks* (He et al. 2016, arXiv 1603.05027);
"[1]" is *Deep Residual Learning for Image Recognition* (arXiv 1512.03385).
"""

from dataclasses import dataclass, field

from keras_preact.errors import argument_error, check_choice, check_number, from_fields


@dataclass(frozen=True)
class Ordering:
    """Says where the one movable BN (B) and the one movable ReLU (R) of a unit stand (Fig. 4).

    Every ordering keeps BN-ReLU between two convolutions. `lead` stands before the first convolution, `tail` after
    the last, `after_addition` after the sum: it is the f of eq. (1).
    """

    lead: str
    tail: str
    after_addition: str

    def __post_init__(self):
        if sorted(self.lead + self.tail + self.after_addition) != ["B", "R"]:
            raise argument_error("ordering", "a row with exactly one B and one R", self)

    @property
    def is_preactivation(self):
        """True if the shortcut carries a signal that no activation has touched (Fig. 4(d) and (e))."""
        return bool(self.lead)


ORDERINGS = {  # lead  tail  after_addition
    "original": Ordering("", "B", "R"),  # Fig. 4(a)
    "bn_after_addition": Ordering("", "", "BR"),  # Fig. 4(b)
    "relu_before_addition": Ordering("", "BR", ""),  # Fig. 4(c)
    "relu_only_preactivation": Ordering("R", "B", ""),  # Fig. 4(d)
    "preactivation": Ordering("BR", "", ""),  # Fig. 4(e)
}

# The parameters each shortcut takes, at the paper's value (Table 1).
SHORTCUT_PARAMETERS = {
    "identity": {},  # Fig. 2(a)
    "constant_scaling": {"scale": 0.5, "branch_scale": 0.5},  # Fig. 2(b)
    "exclusive_gating": {"gate_bias": -6.0},  # Fig. 2(c)
    "shortcut_only_gating": {"gate_bias": -6.0},  # Fig. 2(d)
    "conv1x1": {},  # Fig. 2(e)
    "dropout": {"rate": 0.5},  # Fig. 2(f)
    "none": {},  # a plain network, for the degradation problem of [1]
}


@dataclass(frozen=True)
class ShortcutSpec:
    """Describes h, the shortcut of every unit (Fig. 2), with its parameters; those left out get the paper's value.

    Args:
        name: A key of `SHORTCUT_PARAMETERS`. `"none"` is a plain network: F alone.
        scale: `constant_scaling` only: lambda, the factor on the shortcut (eq. 6).
        branch_scale: `constant_scaling` only: the factor on F.
        gate_bias: Gating only: b_g, the initial bias of g(x) = sigmoid(W_g x + b_g).
        rate: `dropout` only: the share of shortcut elements set to zero in training. This is inverted dropout: the
            elements that stay are multiplied by 1 / (1 - rate), so the mean factor is 1 and inference is the identity.
            The paper speaks of an expected factor of 1 - rate, that is, of dropout without this rescaling.

    Raises:
        ValueError: If `name` is unknown, a parameter does not belong to it, or a value is not finite or out of range.
    """

    name: str = "identity"
    scale: float | None = None
    branch_scale: float | None = None
    gate_bias: float | None = None
    rate: float | None = None

    def __post_init__(self):
        takes = SHORTCUT_PARAMETERS[check_choice("shortcut", self.name, SHORTCUT_PARAMETERS)]
        for parameter in ("scale", "branch_scale", "gate_bias", "rate"):
            value = getattr(self, parameter)
            if parameter not in takes:
                if value is not None:
                    allowed = f"left out: the shortcut {self.name!r} takes {', '.join(takes) or 'no parameters'}"
                    raise argument_error(parameter, allowed, value)
                continue
            bounds = {"low": 0.0, "high": 1.0, "below_high": True} if parameter == "rate" else {}
            value = takes[parameter] if value is None else check_number(parameter, value, **bounds)
            object.__setattr__(self, parameter, value)

    @classmethod
    def of(cls, value):
        """Returns the `ShortcutSpec` that `value` means: itself, a name, or a dict of its fields."""
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            return from_fields(cls, value)
        return cls(value)


@dataclass(frozen=True)
class ConvSpec:
    """Describes one convolution: output channels, square kernel side, stride, and the bias's start (None: no bias)."""

    filters: int
    kernel: int
    strides: int = 1
    bias: float | None = None


# The kernel sides of a unit's convolutions, and the last one's channels over those of the others.
UNIT_KINDS = {
    "basic": ((3, 3), 1),  # [3x3, 3x3] of [1]
    "bottleneck": ((1, 3, 1), 4),  # [1x1, 3x3, 1x1] of [1]
    "single": ((3,), 1),  # "1 layer per shortcut" of Table 3
}


@dataclass(frozen=True)
class UnitSpec:
    """Describes one Residual Unit. Units of one stage that are equal can share one definition and be stacked.

    `drop_rate` (stochastic depth) and `name` differ from unit to unit and take no part in the comparison.
    """

    name: str = field(compare=False)
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
    def out_width(self):
        """Channels of x_{l+1}."""
        return self.width * UNIT_KINDS[self.kind][1]

    @property
    def places(self):
        """The row of Fig. 4: an `Ordering`."""
        return ORDERINGS[self.ordering]

    @property
    def changes_shape(self):
        """True if x_{l+1} has not the shape of x_l."""
        return self.strides != 1 or self.in_width != self.out_width

    @property
    def activates_before_split(self):
        """True if the shortcut, too, reads the activated signal (appendix of the paper; fb.resnet.torch)."""
        reshapes = self.changes_shape or self.projects
        return reshapes and self.widening_reads == "activated" and self.shortcut.name != "none"

    @property
    def convs(self):
        """The `ConvSpec`s of F, first to last."""
        kernels, _ = UNIT_KINDS[self.kind]
        strided = 1 if self.kind == "bottleneck" and self.stride_on == "3x3" else 0
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
    def projection(self):
        """The `ConvSpec` of a 1x1 convolution on the shortcut."""
        return ConvSpec(self.out_width, 1, self.strides, 0.0 if "shortcut" in self.conv_bias else None)
