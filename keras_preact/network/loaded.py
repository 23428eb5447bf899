"""What a network took over from trained weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.errors import from_fields


@keras.saving.register_keras_serializable(package="keras_preact")
@dataclass(frozen=True)
class Loaded:
    """Reports what a network took over from trained weights.

    Attributes:
        source: The card's name, or the file.
        arrays: How many arrays were taken over as they are.
        new: Names of arrays that keep their fresh initial values.
        unused: Names of arrays of the source that the network has no place for.
        adapted: What was changed to fit, in a sentence each.
    """

    source: str
    arrays: int
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Loaded:
        """Returns the report of `get_config`."""
        return from_fields(cls, config)

    def __str__(self) -> str:
        parts = [f"{self.source}: {self.arrays} arrays loaded"]
        for names, what in ((self.new, "new"), (self.unused, "not used")):
            parts += [f"{name} {what}" for name in names] if len(names) <= 4 else [f"{len(names)} arrays {what}"]
        return ", ".join(parts) + "".join(f". {sentence}" for sentence in self.adapted)
