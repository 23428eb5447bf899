"""What a network is, as frozen data: stem, stages, and the units of `unit_spec`. Imports no Keras.

A figure or equation number refers to *Identity Mappings in Deep Residual Networks* (He et al. 2016, arXiv 1603.05027);
"[1]" is *Deep Residual Learning for Image Recognition* (arXiv 1512.03385).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from keras_preact import bounds
from keras_preact.errors import (
    argument_error,
    check_choice,
    check_fields,
    check_flag,
    check_integer,
    check_integers,
    check_number,
    from_fields,
)
from keras_preact.network.shortcuts import OWN, ShortcutSpec
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS, UnitSpec

POOLS = ("none", "negative_infinity", "zero", "same")
INPUT_NORMS = ("none", "center", "plain")
CONV_PLACES = ("stem", "branch", "last", "shortcut")


@dataclass(frozen=True)
class StemSpec:
    """Describes what stands before the first unit.

    Args:
        width: Channels of conv1.
        kernel: Side of conv1's kernel; the input is padded by half of it on every side.
        strides: Stride of conv1.
        activates: Whether conv1 is followed by BN and ReLU.
        pool: What the 3x3 max-pooling with stride 2 is padded with: one pixel of `"negative_infinity"` or `"zero"` on
            every side, `"same"` as TensorFlow pads (on even sizes only below and to the right), or `"none"`: no pool.
        input_norm: Batch normalisation of the input: `"none"`, `"center"` (beta, no gamma) or `"plain"` (neither).
    """

    width: int = 16
    kernel: int = 3
    strides: int = 1
    activates: bool = True
    pool: str = "none"
    input_norm: str = "none"

    def __post_init__(self) -> None:
        for name in ("width", "kernel", "strides"):
            object.__setattr__(self, name, check_integer(f"stem.{name}", getattr(self, name)))
        check_flag("stem.activates", self.activates)
        if self.kernel % 2 == 0:
            raise argument_error("stem.kernel", "odd", self.kernel, f"Nearest: {self.kernel + 1}.")
        check_choice("stem.pool", self.pool, POOLS)
        check_choice("stem.input_norm", self.input_norm, INPUT_NORMS)


@dataclass(frozen=True)
class NetworkSpec:
    """Describes a whole network without its head.

    Args:
        units: Units of each stage.
        widths: Channels of each stage's inner convolutions; a bottleneck unit returns four times as many.
        unit: `"basic"`, `"bottleneck"` or `"single"` (one 3x3 convolution per shortcut, Table 3).
        strides: Stride of the first unit of each stage; 1, 2, 2, ... if left out.
        stem: A `StemSpec` or a dict of its fields.
        ordering: A key of `ORDERINGS` (Fig. 4).
        shortcut: A key of `SHORTCUT_PARAMETERS` (Fig. 2), or a `ShortcutSpec`.
        widening: How a shortcut changes shape: `"projection"` (1x1 convolution, option B of [1]) or `"zero_pad"`
            (subsampling, then zero channels after the others, option A of [1]; no parameters).
        stride_on: Which convolution of a bottleneck unit takes the stride, `"1x1"` (the first) or `"3x3"`. Units
            without a 1x1 convolution take it on their first.
        widening_reads: What the shortcut of a unit that changes shape reads: the `"activated"` signal, which F reads
            too, or the `"raw"` one.
        project_first_units: Whether the first unit of every stage has a projection even if its shape stays.
        shortcut_norm: Whether a 1x1 convolution on the shortcut is followed by BN; if None, where F ends in a BN.
        first_unit_activates: Whether the network's first unit keeps its own leading activation although the stem has
            one (MXNet, Gluon). It always does if the stem has none.
        conv_bias: The convolutions that have a bias: any of `"stem"`, `"shortcut"`, `"last"` (the last of F),
            `"branch"` (the others of F).
        bn_momentum: Share of the old moving statistics that a training step keeps.
        bn_epsilon: Added to the variance.
        bn_synchronized: Whether batch statistics are taken over all replicas of a `tf.distribute` strategy.
        stochastic_depth: Probability that a training sample skips F in a unit: one per unit, or one number p for the
            last unit with unit l of L getting p * l / L (Huang et al. 2016, arXiv 1603.09382). F is divided by the
            probability of being kept, so inference needs no factor.

    Raises:
        ValueError: If a value is not allowed, or values contradict each other.
    """

    units: tuple[int, ...]
    widths: tuple[int, ...]
    unit: str = "bottleneck"
    strides: tuple[int, ...] | None = None
    stem: StemSpec = StemSpec()
    ordering: str = "preactivation"
    shortcut: ShortcutSpec = field(default_factory=ShortcutSpec)
    widening: str = "projection"
    stride_on: str = "1x1"
    widening_reads: str = "activated"
    project_first_units: bool = False
    shortcut_norm: bool | None = None
    first_unit_activates: bool = False
    conv_bias: tuple[str, ...] = ()
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    bn_synchronized: bool = False
    stochastic_depth: float | tuple[float, ...] = 0.0

    if TYPE_CHECKING:  # a checker would hold what is passed to what the fields are in the end

        def __init__(
            self,
            units: Sequence[int],
            widths: Sequence[int],
            unit: str = "bottleneck",
            strides: Sequence[int] | None = None,
            stem: StemSpec | dict[str, Any] = StemSpec(),
            ordering: str = "preactivation",
            shortcut: str | ShortcutSpec | Mapping[str, Any] = ShortcutSpec(),
            widening: str = "projection",
            stride_on: str = "1x1",
            widening_reads: str = "activated",
            project_first_units: bool = False,
            shortcut_norm: bool | None = None,
            first_unit_activates: bool = False,
            conv_bias: Sequence[str] = (),
            bn_momentum: float = 0.9,
            bn_epsilon: float = 1e-5,
            bn_synchronized: bool = False,
            stochastic_depth: float | Sequence[float] = 0.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("units", check_integers("units", self.units))
        if sum(self.units) > bounds.UNITS:
            raise argument_error("units", f"at most {bounds.UNITS:,} in all", sum(self.units))
        put("widths", check_integers("widths", self.widths))
        strides = (1,) + (2,) * (len(self.units) - 1) if self.strides is None else self.strides
        put("strides", check_integers("strides", strides))
        for name in ("widths", "strides"):
            if len(getattr(self, name)) != len(self.units):
                expected = f"one number per stage, {len(self.units)} as in `units`"
                raise argument_error(name, expected, getattr(self, name))
        put("stem", from_fields(StemSpec, self.stem) if isinstance(self.stem, dict) else self.stem)
        if not isinstance(self.stem, StemSpec):
            raise argument_error("stem", "a StemSpec or a dict of its fields", self.stem)
        put("shortcut", ShortcutSpec.of(self.shortcut))
        for name in ("project_first_units", "first_unit_activates", "bn_synchronized"):
            check_flag(name, getattr(self, name))
        if self.shortcut_norm is not None:
            check_flag("shortcut_norm", self.shortcut_norm)
        check_choice("unit", self.unit, UNIT_KINDS, OWN)
        check_choice("ordering", self.ordering, ORDERINGS, OWN)
        check_choice("widening", self.widening, ("projection", "zero_pad"))
        check_choice("stride_on", self.stride_on, ("1x1", "3x3"))
        check_choice("widening_reads", self.widening_reads, ("activated", "raw"))
        if not isinstance(self.conv_bias, (tuple, list)):
            raise argument_error("conv_bias", f"some of {', '.join(CONV_PLACES)}, in a tuple", self.conv_bias)
        places = {check_choice("conv_bias", place, CONV_PLACES) for place in self.conv_bias}
        put("conv_bias", tuple(sorted(places, key=CONV_PLACES.index)))
        put("bn_momentum", check_number("bn_momentum", self.bn_momentum, 0.0, 1.0, below_high=True))
        put("bn_epsilon", check_number("bn_epsilon", self.bn_epsilon, 0.0, 1.0))
        put("stochastic_depth", self._check_stochastic_depth())
        self._check_widening()
        if any(self.drop_rates) and self.shortcut.row.is_plain:
            raise argument_error("stochastic_depth", "0 in a plain network (no shortcut)", self.stochastic_depth)
        if not self.stem.activates and not ORDERINGS[self.ordering].is_preactivation:
            raise argument_error("stem.activates", f"True with ordering={self.ordering!r}", False)

    def _check_stochastic_depth(self):
        rates = self.stochastic_depth
        if not isinstance(rates, (tuple, list)):
            return check_number("stochastic_depth", rates, 0.0, 1.0, below_high=True)
        if len(rates) != sum(self.units):
            expected = f"one number, or one per unit ({sum(self.units)})"
            raise argument_error("stochastic_depth", expected, f"{len(rates)} numbers")
        return tuple(check_number("stochastic_depth", rate, 0.0, 1.0, below_high=True) for rate in rates)

    def _check_widening(self):
        widths = (self.stem.width, *(width * UNIT_KINDS[self.unit][1] for width in self.widths))
        narrows = any(after < before for before, after in itertools.pairwise(widths))
        pads = self.widening == "zero_pad" and not (self.shortcut.row.is_plain or self.shortcut.row.projects)
        if pads and narrows:
            hint = 'Use widening="projection" to make a signal narrower.'
            raise argument_error("widths", 'growing from stage to stage with widening="zero_pad"', self.widths, hint)

    @property
    def depth(self) -> int:
        """The number of weight layers on the longest path: conv1, those of F, and the classifier."""
        return sum(self.units) * len(UNIT_KINDS[self.unit][0]) + 2

    @property
    def _strides(self) -> tuple[int, ...]:
        return self.strides or ()  # never None once the spec is made

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Input pixels per output pixel of each stage, along one side."""
        of_stem = self.stem.strides * (1 if self.stem.pool == "none" else 2)
        first, *others = self._strides
        return tuple(itertools.accumulate((of_stem * first, *others), operator.mul))

    @property
    def total_stride(self) -> int:
        """Input pixels per output pixel, along one side."""
        return self.stage_strides[-1]

    @property
    def minimum_size(self) -> int:
        """The smallest input side, in pixels, that the network takes."""
        return max(8, self.total_stride)

    @property
    def out_width(self) -> int:
        """Channels of the last stage's output."""
        return self.widths[-1] * UNIT_KINDS[self.unit][1]

    @property
    def drop_rates(self) -> tuple[float, ...]:
        """The probability of skipping F, for every unit in order."""
        count = sum(self.units)
        if isinstance(self.stochastic_depth, tuple):
            return self.stochastic_depth
        return tuple(self.stochastic_depth * unit / count for unit in range(1, count + 1))

    @functools.cached_property
    def stages(self) -> tuple[tuple[UnitSpec, ...], ...]:
        """The `UnitSpec`s of the network: a tuple of stages, each a tuple of units."""
        stages, in_width, rates = [], self.stem.width, iter(self.drop_rates)
        drops = any(self.drop_rates)
        drops_lead = self.stem.activates and not self.first_unit_activates
        for stage, (count, width, strides) in enumerate(zip(self.units, self.widths, self._strides), start=1):
            units, digits = [], max(2, len(str(count)))
            for number in range(1, count + 1):
                unit = self._unit(stage, number, digits, in_width, width, strides)
                own = dict(drops_lead=drops_lead, drop_rate=next(rates), has_stochastic_depth=drops)
                units.append(dataclasses.replace(unit, **own))
                in_width, strides, drops_lead = unit.out_width, 1, False
            stages.append(tuple(units))
        return tuple(stages)

    def _unit(self, stage, number, digits, in_width, width, strides):
        unit = UnitSpec(
            stage=stage,
            number=number,
            digits=digits,
            kind=self.unit,
            in_width=in_width,
            width=width,
            strides=strides,
            ordering=self.ordering,
            shortcut=self.shortcut,
            widening=self.widening,
            stride_on=self.stride_on,
            widening_reads=self.widening_reads,
            projects=number == 1 and self.project_first_units,
            shortcut_norm="B" in ORDERINGS[self.ordering].tail if self.shortcut_norm is None else self.shortcut_norm,
            drops_lead=False,
            conv_bias=self.conv_bias,
            has_stochastic_depth=False,
        )
        convolves = self.widening == "projection" or self.shortcut.row.projects
        return dataclasses.replace(unit, projects=unit.projects or (unit.changes_shape and convolves))

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain data that JSON can hold; `NetworkSpec.from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> NetworkSpec:
        """Returns the spec whose `to_dict` gave `fields`."""
        return from_fields(cls, fields)

    def replace(self, **fields: Any) -> NetworkSpec:
        """Returns a copy with some fields changed; an unknown one is a `ValueError` that lists those that exist."""
        check_fields(type(self), fields)
        return dataclasses.replace(self, **fields)
