"""Trains on all GPUs of this machine, or on its CPU if there is none: `tf.distribute.MirroredStrategy`.

python examples/strategies/mirrored.py

On the command line: keras-preact train ResNet11 --strategy mirrored
"""

import keras_preact

recipe = keras_preact.RECIPES["digits"].replace(epochs=2, bn_synchronized=True)
card = keras_preact.train("ResNet11", recipe=recipe, strategy="mirrored", output="runs/mirrored")
print(card["devices"], card["error_percent"])
