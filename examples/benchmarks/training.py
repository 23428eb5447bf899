"""Measures the public training command end to end: images/s with data and augmentation, beside the bare step.

KERAS_BACKEND=jax python examples/benchmarks/training.py --data cifar10 --data-dir DIR --precision mixed_bfloat16

The peer is the same compiled step, through `fit` as well, fed with one batch that lies on the device: the ratio of the
two is what making and feeding batches costs, and what `train` does after each step. What comes between epochs, such as
validation and a checkpoint, is left out. Both are measured in one run, after a first epoch that compiles.
"""

import argparse
import json
import pathlib
import tempfile
import time

import keras

import keras_preact
from keras_preact.data import load
from keras_preact.data.batches import TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.training.evaluation import evaluation_metrics
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.training_model import Crossentropy, TrainingModel


class EpochSeconds(keras.callbacks.Callback):
    """Times each epoch's training steps, without validation."""

    def __init__(self):
        super().__init__()
        self.seconds, self.steps = [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.start, self.steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        float(logs["loss"])  # waits for the device
        self.end = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(self.end - self.start)


def end_to_end(arguments, recipe, options):
    """Returns images/s of `keras_preact.train`, the first epoch left out."""
    timing = EpochSeconds()
    with tempfile.TemporaryDirectory() as folder:
        keras_preact.train(
            arguments.model,
            data=arguments.data,
            data_dir=arguments.data_dir,
            recipe=recipe.replace(epochs=arguments.epochs + 1, steps=0, drops=(), schedule="cosine"),
            output=pathlib.Path(folder) / "run",
            model_options=options,
            callbacks=[timing],
            verbose=0,
        )
    return timing.steps * recipe.global_batch_size * arguments.epochs / sum(timing.seconds[1:])


def bare(arguments, recipe, options):
    """Returns images/s of the compiled step on one batch, again and again."""
    data = load(arguments.data, arguments.data_dir)
    augmentation = recipe.augmentation()
    network = keras_preact.get_model(
        arguments.model,
        input_shape=data.image_shape,
        num_classes=len(data.class_names),
        dtype=recipe.precision,
        **{"layout": "stacked", **options},
    )
    model = TrainingModel(network, Preparation(data, augmentation))
    optimizer = make_optimizer(recipe.replace(schedule="constant", drops=(), warmup_steps=0), 1)
    model.compile(optimizer, Crossentropy(len(data.class_names)), weighted_metrics=evaluation_metrics())
    inputs, labels = TrainingBatches(data, recipe.global_batch_size, 0, augmentation)[0]
    inputs = {name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()}
    labels = keras.ops.convert_to_tensor(labels)

    def same_batch():
        while True:
            yield inputs, labels

    steps = max(1, len(data.train) // recipe.global_batch_size)
    timing = EpochSeconds()
    feed = same_batch()
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        feed = tf.data.Dataset.from_tensors((inputs, labels)).repeat()
    epochs = arguments.epochs + 1
    model.fit(feed, steps_per_epoch=steps, epochs=epochs, callbacks=[timing], shuffle=False, verbose=0)
    return timing.steps * recipe.global_batch_size * arguments.epochs / sum(timing.seconds[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ResNet164")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2, help="that are timed, after one that compiles")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--unroll", default="auto", help="a number, auto or all")
    arguments = parser.parse_args()
    recipe = keras_preact.RECIPES["paper_cifar"].replace(
        global_batch_size=arguments.batch, precision=arguments.precision
    )
    options = {"unroll": int(arguments.unroll) if arguments.unroll.isdigit() else arguments.unroll}
    peer, ours = bare(arguments, recipe, options), end_to_end(arguments, recipe, options)
    figures = {"end to end, images/s": round(ours, 1), "bare step, images/s": round(peer, 1)}
    print(
        json.dumps({**vars(arguments), "backend": keras.backend.backend(), **figures, "ratio": round(ours / peer, 3)})
    )


if __name__ == "__main__":
    main()
