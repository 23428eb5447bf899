"""The strategies by name, and the backends that each is for. Imports no Keras."""

from typing import Literal, TypeAlias, get_args

Strategy: TypeAlias = Literal["auto", "none", "mirrored", "multi_worker", "tpu", "jax_data_parallel"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

BACKENDS = {
    "none": ("tensorflow", "jax", "torch"),
    "mirrored": ("tensorflow",),
    "multi_worker": ("tensorflow",),
    "tpu": ("tensorflow",),
    "jax_data_parallel": ("jax",),
}
