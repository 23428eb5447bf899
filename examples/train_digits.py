"""Trains ResNet-164 on scikit-learn's handwritten digits, in plain Keras: one to four minutes on two CPU cores.

TF_ENABLE_ONEDNN_OPTS=1 python examples/train_digits.py
"""

import keras

import keras_preact
from keras_preact import Augmentation, TrainingBatches, load

keras.utils.set_random_seed(0)
digits = load("digits")
augmentation = Augmentation(crop_padding=1)
batches = TrainingBatches(digits, global_batch_size=32, seed=0, augmentation=augmentation)
model = keras_preact.ResNet164(input_shape=digits.image_shape, num_classes=10)

decay_steps = 6 * batches.steps_per_epoch - 10
rate = keras.optimizers.schedules.CosineDecay(0.0, decay_steps, warmup_target=0.1, warmup_steps=10)
sgd = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
model.compile(sgd, "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(batches.prepared(), epochs=6, shuffle=False)  # the batches have their own order
images, labels = digits.normalized(digits.test.images), digits.test.labels
print(model.evaluate(images, labels, return_dict=True))
model.save("digits.keras")
