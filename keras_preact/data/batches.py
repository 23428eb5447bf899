"""Batches whose order and augmentation are a function of (seed, epoch, step), on every backend."""

from __future__ import annotations

from typing import Literal, TypeAlias

import keras
import numpy as np

from keras_preact import bounds
from keras_preact.data.augment import HOST_DRAWS, Augmentation
from keras_preact.data.dataset import DataSet
from keras_preact.data.preparation import Preparation, check_resident
from keras_preact.errors import argument_error, check_choice, check_integer

ArraySpec: TypeAlias = tuple[tuple[int, ...], str]  # shape, dtype


class TrainingBatches(keras.utils.PyDataset):
    """Yields whole batches of a data set's training split, and the random numbers that `Preparation` takes.

    A batch is (inputs, labels): inputs a dict with `images` uint8 (batch, height, width, channels), or `index` int32
    (batch,), and with what the augmentation draws for the device; labels int32 (batch,). Batch `step` of epoch e is
    the same whatever came before it, in any thread. What an epoch's order has after its last whole batch is left out;
    as every epoch has another order, these are other images each time.

    Args:
        data: A `DataSet`.
        global_batch_size: Images per batch, over all replicas and workers.
        seed: A whole number.
        augmentation: An `Augmentation`.
        share: (i, n) for the i-th, from 0, of n equal parts of every batch: one worker's.
        resident: Whether the images lie on the device, so that batches hold indices.

    Attributes:
        steps_per_epoch: Batches in a whole epoch; `len()` counts those that are left of the present one.
        epoch: The present epoch, from 0.
        step: The present epoch's batch, from 0, that is batch 0 of this object.

    Raises:
        ValueError: If a batch is larger than the data set, is not cut evenly by `share`, or the augmentation is none
            for these images.
    """

    def __init__(
        self,
        data: DataSet,
        global_batch_size: int,
        seed: int,
        augmentation: Augmentation = Augmentation(),
        share: tuple[int, int] = (0, 1),
        resident: bool = False,
    ) -> None:
        super().__init__()  # without Keras' workers: on JAX their queue serves batches of the epoch before
        for name, value, kind in (("data", data, DataSet), ("augmentation", augmentation, Augmentation)):
            if not isinstance(value, kind):
                raise argument_error(name, f"of the class {kind.__name__}", type(value).__name__)
        if check_integer("global_batch_size", global_batch_size) > len(data.train):
            expected = f"at most the {len(data.train)} training images of {data.name}"
            raise argument_error("global_batch_size", expected, global_batch_size)
        augmentation.check(data.image_shape)
        if resident:
            check_resident(data, augmentation)
        self.slice = share_slice("global_batch_size", global_batch_size, share)
        if augmentation.mixes and (self.slice.stop - self.slice.start) % 2:
            raise argument_error("global_batch_size", "even on each worker, to mix neighbours", global_batch_size)
        self.data, self.size = data, global_batch_size
        self.seed = check_integer("seed", seed, minimum=0, maximum=bounds.SEED)
        self.augmentation, self.resident = augmentation, resident
        self.steps_per_epoch = len(data.train) // global_batch_size
        self.set_position(0)

    def __len__(self) -> int:
        return self.steps_per_epoch - self.step

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(
                f"There are the batches 0 to {len(self) - 1} in what is left of the epoch, and no {index}."
            )
        step = self.step + index
        chosen = self.order[step * self.size : (step + 1) * self.size][self.slice]
        drawn = {name: values[self.slice] for name, values in self._draws(step).items()}
        inputs = _for_device(drawn)
        if self.resident:
            inputs["index"] = chosen
        else:
            inputs["images"] = self.data.train.read(chosen, drawn)
        return inputs, self.data.train.labels[chosen]

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Makes batch 0 the `step`-th, from 0, of an epoch. A step after the last begins the next epoch."""
        epoch, step = check_integer("epoch", epoch, minimum=0), check_integer("step", step, minimum=0)
        if step > self.steps_per_epoch:
            raise argument_error("step", f"at most the {self.steps_per_epoch} of an epoch", step)
        self.epoch, self.step = epoch + step // self.steps_per_epoch, step % self.steps_per_epoch
        self.order = self._rng(0).permutation(len(self.data.train)).astype(np.int32)

    def on_epoch_end(self) -> None:
        self.set_position(self.epoch + 1)

    def spec(self) -> tuple[dict[str, ArraySpec], ArraySpec]:
        """Returns what a batch is without making one: ({name: (shape, dtype)}, (shape, dtype) of the labels)."""
        count = self.slice.stop - self.slice.start
        drawn = _for_device(self._draws(0))
        inputs = {name: ((count, *values.shape[1:]), values.dtype.name) for name, values in drawn.items()}
        if self.resident:
            inputs["index"] = ((count,), "int32")
        else:
            inputs["images"] = ((count, *self.data.image_shape), "uint8")
        return inputs, ((count,), "int32")

    def prepared(self) -> PreparedBatches:
        """Returns the same batches as (normalised float32 images, labels), for `keras.Model.fit`."""
        return PreparedBatches(self)

    def _draws(self, step):
        return self.augmentation.draw(self._rng(1 + step), self.size, self.data.image_shape)

    def _rng(self, purpose):
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.epoch, purpose)))


def _for_device(drawn):
    return {name: values for name, values in drawn.items() if name not in HOST_DRAWS}


class PreparedBatches(keras.utils.PyDataset):
    """Yields the batches of a `TrainingBatches` as images and labels that a network takes, prepared one by one.

    Pass `shuffle=False` to `fit`: the batches have their own order, which Keras would change.
    On JAX and torch a model's first `fit` takes an epoch of one or two batches for done, and begins with the next.
    `keras.Model.fit` takes the length of its first epoch for all of them, so the rest of an epoch wants a `fit` of its
    own. A loop of one's own begins each epoch with `set_position(epoch)` of the `TrainingBatches`, or all are the same.
    """

    def __init__(self, batches: TrainingBatches) -> None:
        super().__init__()
        self.batches, self.has_begun, self.is_read = batches, False, False
        self.preparation = Preparation(batches.data, batches.augmentation, batches.resident)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        self.is_read |= index == len(self) - 1
        images, labels = self.preparation(*self.batches[index], training=True)
        return keras.ops.convert_to_numpy(images), keras.ops.convert_to_numpy(labels)

    def on_epoch_begin(self) -> None:
        self.has_begun, self.is_read = True, False

    def on_epoch_end(self) -> None:
        # Keras ends an epoch before its first. TensorFlow has read two batches by then, others have begun it as well.
        if self.has_begun and self.is_read:
            self.batches.on_epoch_end()
        self.has_begun = self.is_read = False


class EvaluationBatches(keras.utils.PyDataset):
    """Yields every image of a split once, in order, in batches of one size.

    A batch is (inputs, labels, weights): {`images`: uint8 (batch, height, width, channels)}, int32 (batch,), and
    float32 (batch,), which is 1 for an image and 0 for what fills up the last batch.

    Args:
        data: A `DataSet`.
        split: `"test"` or `"train"`.
        batch_size: Images a batch, over all replicas and workers.
        share: (i, n) for the i-th, from 0, of n equal parts of every batch.

    Raises:
        ValueError: If there is no such split, or a batch is not cut evenly by `share`.
    """

    def __init__(
        self, data: DataSet, split: Literal["test", "train"], batch_size: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        super().__init__()
        self.split = getattr(data, check_choice("split", split, ("train", "test")))
        self.size = check_integer("batch_size", batch_size)
        self.slice = share_slice("batch_size", batch_size, share)

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        positions = np.arange(index * self.size, (index + 1) * self.size)[self.slice]
        chosen = np.minimum(positions, len(self.split) - 1)
        weights = (positions < len(self.split)).astype(np.float32)
        return {"images": self.split.read(chosen)}, self.split.labels[chosen], weights

    def spec(self) -> tuple[dict[str, ArraySpec], ArraySpec, ArraySpec]:
        """Returns what a batch is without making one, as `TrainingBatches.spec` does."""
        count = self.slice.stop - self.slice.start
        return {"images": ((count, *self.split.image_shape), "uint8")}, ((count,), "int32"), ((count,), "float32")


def share_slice(argument: str, batch_size: int, share: tuple[int, int]) -> slice:
    """Returns the slice of a batch that is the i-th of n parts, for `share` (i, n); `argument` names its size."""
    number, count = share
    if not 0 <= number < count:
        raise argument_error("share", "(i, n) with i from 0 to n - 1", share)
    if check_integer(argument, batch_size) % count:
        raise argument_error(argument, f"divisible by {count} workers", batch_size)
    part = batch_size // count
    return slice(number * part, (number + 1) * part)
