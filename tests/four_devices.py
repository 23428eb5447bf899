"""Run by `test_jax.py`: a run on four simulated devices of JAX equals one on one device."""

import os
import pathlib
import sys

os.environ |= {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}

import numpy as np
import pytest

import keras_preact
from keras_preact.training import checkpoints

folder = pathlib.Path(sys.argv[1])
recipe = keras_preact.RECIPES["digits"].replace(epochs=1, global_batch_size=360, clip_norm=0.3, learning_rate=0.01)
for strategy, replicas in (("none", 1), ("auto", 4)):
    card = keras_preact.train("ResNet11", recipe=recipe, output=folder / strategy, strategy=strategy, verbose=0)
    assert card["devices"]["replicas"] == replicas
alone, together = (checkpoints.newest(folder / name / "checkpoints").arrays for name in ("none", "auto"))
for name, array in alone.items():
    np.testing.assert_allclose(together[name], array, rtol=1e-5, atol=1e-5, err_msg=name)
with pytest.raises(ValueError, match="multiple of the 4 replicas"):
    keras_preact.train("ResNet11", recipe=recipe.replace(global_batch_size=90), output=folder / "other")
print("four devices: done")
