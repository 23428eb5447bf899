"""Sweeps that resume after a kill, and keras-tuner's searches, over a network and its recipe."""

import importlib
from typing import Any

# Imported when first asked for: a sweep needs no keras-tuner.
_LAZY = {
    "PreActHyperModel": "keras_preact.laboratory.sweep.hypermodel",
    "Range": "keras_preact.laboratory.sweep.hypermodel",
    "launch_search": "keras_preact.laboratory.sweep.workers",
    "sweep": "keras_preact.laboratory.sweep.grid",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'keras_preact.laboratory.sweep' has no attribute {name!r}")
