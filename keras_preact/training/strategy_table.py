"""The strategies by name, and the backends that each is for. Imports no Keras."""

BACKENDS = {
    "none": ("tensorflow", "jax", "torch"),
    "mirrored": ("tensorflow",),
    "multi_worker": ("tensorflow",),
    "tpu": ("tensorflow",),
    "jax_data_parallel": ("jax",),
}
STRATEGIES = ("auto", *BACKENDS)
