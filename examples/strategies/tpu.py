"""Trains on a TPU: `tf.distribute.TPUStrategy`, in bfloat16. Written to TPUStrategy's rules, and not yet run on one.

TPU_NAME=local python examples/strategies/tpu.py

On the command line: keras-preact train ResNet164 --data cifar10 --strategy tpu --precision mixed_bfloat16
"""

import keras_preact

recipe = keras_preact.RECIPES["paper_cifar"].replace(precision="mixed_bfloat16", global_batch_size=1024, steps=8_000)
recipe = recipe.replace(learning_rate=0.8, drops=(4_000, 6_000))
card = keras_preact.train("ResNet164", data="cifar10", recipe=recipe, strategy="tpu", output="runs/tpu")
print(card["devices"], card["error_percent"])
