"""Trains on all devices that JAX sees: `keras.distribution.DataParallel`. Four are made of one CPU here.

python examples/strategies/jax_data_parallel.py

On the command line: KERAS_BACKEND=jax keras-preact train ResNet11 --strategy jax_data_parallel
In several processes: KERAS_BACKEND=jax keras-preact launch --workers 2 -- train ResNet11
"""

import os

os.environ |= {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}

import keras_preact

recipe = keras_preact.RECIPES["digits"].replace(epochs=2)
card = keras_preact.train("ResNet11", recipe=recipe, strategy="jax_data_parallel", output="runs/jax_data_parallel")
print(card["devices"], card["error_percent"])
