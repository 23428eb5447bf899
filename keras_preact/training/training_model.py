"""The network as it is trained: uint8 images and their draws in, augmented and normalised on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_preact import keras_hooks
from keras_preact.data.preparation import Preparation
from keras_preact.network.replicas import loss_scaled
from keras_preact.types import Tensor

CROSSENTROPY = "crossentropy"  # the metric that counts each image once, without label smoothing


@keras.saving.register_keras_serializable(package="keras_preact")
class ErrorPercent(keras.metrics.MeanMetricWrapper):
    """Counts images whose most probable class is not their label, in % of all: the paper's test error."""

    def __init__(self, name: str = "error_percent", dtype: str | None = None) -> None:
        super().__init__(_error_percent, name=name, dtype=dtype)
        self._direction = "down"  # what Keras' callbacks look up in mode "auto"

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


def _error_percent(labels, probabilities):
    return 100.0 * (1.0 - keras.metrics.sparse_categorical_accuracy(labels, probabilities))


def crossentropy(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Returns each image's cross-entropy in nats, of shape (batch,).

    Keras' own finds the logits behind a softmax on TensorFlow. Elsewhere it cuts probabilities off at 1e-7, and their
    gradient with them; here they are cut off at the smallest number of their dtype.

    Args:
        labels: Whole numbers, (batch,) or (batch, 1), or shares of classes, (batch, classes).
        probabilities: Those of the classes, (batch, classes).
    """
    shares = len(labels.shape) == 2 and labels.shape[-1] != 1
    if keras.backend.backend() == "tensorflow":
        kind = keras.losses.categorical_crossentropy if shares else keras.losses.sparse_categorical_crossentropy
        return kind(labels, probabilities)
    dtype = keras.backend.standardize_dtype(probabilities.dtype)
    logs = keras.ops.log(keras.ops.maximum(probabilities, float(np.finfo(dtype).tiny)))
    if shares:
        return -keras.ops.sum(keras.ops.cast(labels, dtype) * logs, axis=-1)
    labels = keras.ops.cast(keras.ops.reshape(labels, (-1, 1)), "int32")
    return -keras.ops.take_along_axis(logs, labels, axis=-1)[:, 0]


@keras.saving.register_keras_serializable(package="keras_preact")
class MeanCrossentropy(keras.metrics.MeanMetricWrapper):
    """Averages `crossentropy` over all images, in nats."""

    def __init__(self, name: str = CROSSENTROPY, dtype: str | None = None) -> None:
        super().__init__(crossentropy, name=name, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable(package="keras_preact")
class Crossentropy(keras.losses.Loss):
    """Cross-entropy of labels, whole numbers or shares of classes, of which a share is spread over all classes.

    Args:
        classes: Their number.
        label_smoothing: The share.
    """

    def __init__(self, classes: int, label_smoothing: float = 0.0, name: str = "crossentropy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.classes, self.label_smoothing = classes, label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if len(y_true.shape) < 2 or y_true.shape[-1] == 1:
            if not self.label_smoothing:
                return crossentropy(y_true, y_pred)
            y_true = keras.ops.one_hot(keras.ops.reshape(y_true, (-1,)), self.classes, dtype=y_pred.dtype)
        if self.label_smoothing:
            y_true = y_true * (1.0 - self.label_smoothing) + self.label_smoothing / self.classes
        return crossentropy(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        own = {"classes": self.classes, "label_smoothing": self.label_smoothing, "dtype": self.dtype}
        return {**super().get_config(), **own}


def loss_dtype(policy: keras.DTypePolicy | str) -> str:
    """Returns in what the loss of a network of a Keras dtype policy is computed: float64 with float64, else float32."""
    return "float64" if keras.dtype_policies.get(policy).variable_dtype == "float64" else "float32"


class TrainingModel(keras.Model):
    """Trains `network` on dicts of uint8 images and draws; what is saved is the network alone.

    So Keras' callbacks save, and put back, the network; its weights files only if it is compiled, too.

    It reports one `loss`: in training the one that is minimised; in evaluation the metric `CROSSENTROPY`, where Keras'
    own would smooth labels, and count the images that fill the last batch up.

    Args:
        network: A `keras.Model` from normalised images to probabilities.
        preparation: A `Preparation`: inputs and labels to normalised images and labels.
        fixed_statistics: Whether the network computes as in inference in training too: with BN's moving statistics,
            which stay, and without dropout.
    """

    def __init__(self, network: keras.Model, preparation: Preparation, fixed_statistics: bool = False) -> None:
        super().__init__(name=f"{network.name}_in_training", dtype=network.dtype_policy, autocast=False)
        self.network, self.preparation, self.fixed_statistics = network, preparation, fixed_statistics
        if preparation.size:  # of images in training; it is evaluated on those of its own size
            network.input_spec = [keras.InputSpec(shape=(None, None, None, preparation.image_shape[-1]))]
        self.built, self.is_evaluated = True, False

    def call(self, inputs: Mapping[str, Tensor], training: bool = False) -> Tensor:
        images, _ = self.preparation(inputs, None, training=training)
        return self.network(images, training=training and not self.fixed_statistics)

    def compute_loss(
        self,
        x: Tensor | None = None,
        y: Tensor | None = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        if training and self.preparation.augmentation.mixes:
            _, y = self.preparation(x, y, training=True)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "rmsprop",
        *args: Any,
        with_network: bool = False,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Compiles as `keras.Model` does; the network stays as it was compiled, or not compiled.

        Args:
            optimizer: As in `keras.Model.compile`, as are `*args`, `jit_compile` and `**kwargs`.
            with_network: Whether the network is compiled too, with one optimizer for both: a run saves it with that.
        """
        with _floatx(loss_dtype(self.network.dtype_policy)):
            if with_network:
                self.network.compile(optimizer, *args, jit_compile=jit_compile, **kwargs)
                optimizer, jit_compile = self.network.optimizer, self.network.jit_compile
                kwargs["auto_scale_loss"] = False  # the network's optimizer is scaled already
            elif self.dtype_policy.name == "mixed_float16":
                optimizer = loss_scaled(optimizer)
            super().compile(optimizer, *args, jit_compile=jit_compile, **kwargs)

    def save(self, *arguments: Any, **keywords: Any) -> None:
        """Saves the network."""
        self.network.save(*arguments, **keywords)

    def get_weights(self) -> list[Any]:
        """Returns the network's weights; the model's would hold the training images, where they are on the device."""
        return self.network.get_weights()

    def set_weights(self, weights: list[Any]) -> None:
        """Sets the network's weights."""
        self.network.set_weights(weights)

    def save_weights(self, *arguments: Any, **keywords: Any) -> None:
        """Writes the network's weights file, or this model's, with its optimizer, if it alone is compiled."""
        save = self.network.save_weights if self.network.compiled else super().save_weights
        save(*arguments, **keywords)

    def load_weights(self, *arguments: Any, **keywords: Any) -> None:
        """Reads what `save_weights` wrote."""
        load = self.network.load_weights if self.network.compiled else super().load_weights
        load(*arguments, **keywords)

    def evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        """Evaluates as `keras.Model` does."""
        self.is_evaluated = True
        try:
            return super().evaluate(*arguments, **keywords)
        finally:
            self.is_evaluated = False

    def get_metrics_result(self) -> dict[str, Any]:
        results = super().get_metrics_result()
        crossentropy = results.pop(CROSSENTROPY, None)
        return {**results, "loss": crossentropy} if self.is_evaluated else results

    def build_metrics(self, classes: int) -> None:
        """Makes the metrics' variables, which Keras does within the first step: a resume sets them before it."""
        outputs = keras.KerasTensor((None, classes), self.network.outputs[0].dtype)
        keras_hooks.build_metrics(self, keras.KerasTensor((None,), "int32"), outputs)


@contextlib.contextmanager
def _floatx(dtype):
    """Makes `dtype` Keras' default for a while: `compile` casts the loss to it, whatever dtype the loss has."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


class MultiWorkerModel(keras_hooks.NoSymbolicBuild, TrainingModel):
    """Trains under `tf.distribute.MultiWorkerMirroredStrategy`, where `keras.Model.fit` fails (keras issue 20585).

    The network is built, and a batch of several workers cannot be looked at.
    """

    def train_step(self, data: Any) -> dict[str, Tensor]:
        return _with_an_axis(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Tensor]:
        return _with_an_axis(super().test_step(data))


def _with_an_axis(logs):
    """Returns logs as Keras reduces them over workers: along an axis."""
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
