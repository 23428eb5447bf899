"""Types that many signatures share. Shapes and units stand in the docstrings."""

import os
from typing import Any, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]

# What `keras.ops` takes and returns: a tensor of TensorFlow, JAX or torch, a `keras.KerasTensor`, or an array. They
# share no class, so a checker can hold it to nothing.
Tensor: TypeAlias = Any
