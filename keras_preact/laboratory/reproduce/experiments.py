"""The paper's experiments on CIFAR as frozen data, and the scales that they are run at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from keras_preact.laboratory.sweep.trials import Trial
from keras_preact.network.families import key_of
from keras_preact.network.shortcuts import ShortcutSpec
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import get_recipe

IDENTITY = ShortcutSpec()
FAIL_PERCENT = 20.0  # on CIFAR-10, Table 1 writes "fail" for a test error above it


@dataclass(frozen=True)
class PaperExperiment:
    """Describes a run of the paper: network, data set and recipe, which `trial` makes one of ours at some scale.

    Attributes:
        depth: Weight layers.
        ordering: A key of `ORDERINGS` (Fig. 4).
        shortcut: A `ShortcutSpec` (Fig. 2).
        unit: `"single"` for one layer per shortcut; the depth's usual kind if None.
        data: `"cifar10"` or `"cifar100"`.
        recipe: A name of `RECIPES`.
    """

    depth: int
    ordering: str = "original"
    shortcut: ShortcutSpec = IDENTITY
    unit: str | None = None
    data: str = "cifar10"
    recipe: str = "paper_cifar"

    def trial(self, scale: Scale, seed: int = 0) -> Trial | None:
        """Returns the `Trial` of this experiment at a `Scale` with a seed, or None if the scale leaves it out."""
        if scale.data is not None and (self.data, self.recipe) != ("cifar10", "paper_cifar"):
            return None  # one small data set cannot stand for two, nor one short recipe for two
        depth = scale.depths.get(self.depth) if scale.depths is not None else self.depth
        if depth is None:
            return None
        recipe, data = replace(scale.recipes[self.recipe], seed=seed), scale.data or self.data
        fields = self.shortcut.to_dict()
        key, family = key_of("cifar", depth)
        options = {"ordering": self.ordering, "shortcut": fields, **family}
        if self.unit:
            options["unit"] = self.unit
        words = [f"{name}={value:g}" for name, value in fields.items() if name != "name"]
        parts = [data, key, self.unit, self.ordering, "_".join([self.shortcut.name, *words])]
        parts += [self.recipe] if self.recipe != "paper_cifar" else []
        name = ".".join(filter(None, [*parts, f"seed{seed}"]))
        return Trial(key, data, recipe, options, name=name)


@dataclass(frozen=True)
class Scale:
    """Describes how much of an experiment is run.

    Attributes:
        about: What a reader of the numbers must know.
        recipes: The `Recipe` in place of each of the paper's.
        data: The data set in place of the paper's; None for the paper's.
        depths: {the paper's depth: ours}; None for the paper's.
        fail_percent: The test error in %, above which a row of CIFAR-10 is a "fail".
    """

    about: str
    recipes: dict[str, Recipe]
    data: str | None = None
    depths: dict[int, int] | None = None
    fail_percent: float = FAIL_PERCENT


_PAPER, _FAIR = get_recipe("paper_cifar"), get_recipe("fair_cifar")
SCALES = {
    "full": Scale("the paper's networks, data and recipe", {"paper_cifar": _PAPER, "fair_cifar": _FAIR}),
    "short": Scale(
        "the paper's networks and data, a sixteenth of its training: only the order of the rows compares",
        {
            "paper_cifar": _PAPER.replace(
                source="ours: paper_cifar in a sixteenth of its steps",
                steps=4_000,
                warmup_steps=25,
                drops=(2_000, 3_000),
            ),
            "fair_cifar": _FAIR.replace(
                source="ours: fair_cifar in a sixteenth of its epochs", epochs=12, drops=(5, 8)
            ),
        },
    ),
    "small": Scale(
        "CIFAR-10 at 16x16, 2,000 steps, minutes a row on two CPU cores: only the order of the rows compares",
        {
            "paper_cifar": _PAPER.replace(
                source="ours: paper_cifar in 2,000 steps of half a batch, on images of half the side",
                steps=2_000,
                global_batch_size=64,
                warmup_steps=100,
                drops=(1_000, 1_500),
                crop_padding=2,
            )
        },
        data="cifar10_16",
        depths={110: 110, 164: 164},
        fail_percent=math.inf,  # in so few steps no row gets below it
    ),
    "smoke": Scale(
        "scikit-learn's digits, shallower networks, four epochs: shows that every row runs, not the paper's numbers",
        {
            "paper_cifar": get_recipe("digits").replace(
                source="ours: digits in four epochs, in which what is hard to train fails", epochs=4
            )
        },
        data="digits",
        depths={110: 32, 164: 47, 1001: 83},
    ),
}
