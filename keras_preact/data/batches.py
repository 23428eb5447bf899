"""Batches whose order and augmentation are a function of (seed, epoch, step), on every backend."""

import concurrent.futures
import functools
import threading
import time

import keras
import numpy as np

from keras_preact.data.augment import HOST_DRAWS, Augmentation
from keras_preact.data.preparation import Preparation, check_resident
from keras_preact.errors import argument_error, check_choice, check_integer


class TrainingBatches(keras.utils.PyDataset):
    """Yields whole batches of a data set's training split, and the random numbers that `Preparation` takes.

    A batch is (inputs, labels): inputs a dict with `images` uint8 (batch, height, width, channels), or `index` int32
    (batch,), and with what the augmentation draws for the device; labels int32 (batch,). Batch `step` of epoch e is
    the same whatever came before it, in any thread.

    Args:
        data: A `DataSet`.
        global_batch_size: Images a batch, over all replicas and workers.
        seed: A whole number.
        augmentation: An `Augmentation`.
        share: (i, n) for the i-th, from 0, of n equal parts of every batch: one worker's.
        resident: Whether the images lie on the device, so that batches hold indices.
        ahead: Batches that are made ahead, each in a thread; 0 to make each when it is asked for.

    Attributes:
        steps_per_epoch: Batches in a whole epoch; `len()` counts those that are left of the present one.
        epoch: The present epoch, from 0.
        step: The present epoch's batch, from 0, that is batch 0 of this object.
        seconds: Time spent in making batches so far, over all threads.

    Raises:
        ValueError: If a batch is larger than the data set, is not cut evenly by `share`, or the augmentation is none
            for these images.
    """

    def __init__(
        self, data, global_batch_size, seed, augmentation=Augmentation(), share=(0, 1), resident=False, ahead=0
    ):
        super().__init__()  # without Keras' workers: on JAX their queue serves batches of the epoch before
        if check_integer("global_batch_size", global_batch_size) > len(data.train):
            expected = f"at most the {len(data.train)} training images of {data.name}"
            raise argument_error("global_batch_size", expected, global_batch_size)
        augmentation.check(data.image_shape)
        if resident:
            check_resident(data, augmentation)
        self.slice = share_slice(global_batch_size, share)
        if augmentation.mixes and (self.slice.stop - self.slice.start) % 2:
            raise argument_error("global_batch_size", "even on each worker, to mix neighbours", global_batch_size)
        self.data, self.size, self.seed = data, global_batch_size, check_integer("seed", seed, minimum=0)
        self.augmentation, self.resident = augmentation, resident
        self.steps_per_epoch = len(data.train) // global_batch_size
        self.seconds = 0.0
        self._order = functools.lru_cache(maxsize=2)(self._make_order)
        self._queue = ReadAhead(self._make, check_integer("ahead", ahead, minimum=0))
        self.set_position(0)

    def __len__(self):
        return self.steps_per_epoch - self.step

    def __getitem__(self, index):
        return self._queue.get(self.epoch * self.steps_per_epoch + self.step + index)

    def set_position(self, epoch, step=0):
        """Makes batch 0 the `step`-th, from 0, of an epoch. A step behind the last begins the next epoch.

        `keras.Model.fit` takes the length of its first epoch for all of them, so the rest of an epoch wants a `fit` of
        its own.
        """
        epoch, step = check_integer("epoch", epoch, minimum=0), check_integer("step", step, minimum=0)
        if step > self.steps_per_epoch:
            raise argument_error("step", f"at most the {self.steps_per_epoch} of an epoch", step)
        self.epoch, self.step = epoch + step // self.steps_per_epoch, step % self.steps_per_epoch
        self._has_begun = False

    def on_epoch_begin(self):
        self._has_begun = True

    def on_epoch_end(self):
        """Goes on to the next epoch, if this one has begun: Keras ends one before its first."""
        if self._has_begun:
            self.set_position(self.epoch + 1)

    def spec(self):
        """Returns what a batch is without making one: ({name: (shape, dtype)}, (shape, dtype) of the labels)."""
        count = self.slice.stop - self.slice.start
        drawn = _for_device(self._draws(0, 0))
        inputs = {name: ((count, *values.shape[1:]), values.dtype.name) for name, values in drawn.items()}
        if self.resident:
            inputs["index"] = ((count,), "int32")
        else:
            inputs["images"] = ((count, *self.data.image_shape), "uint8")
        return inputs, ((count,), "int32")

    def prepared(self):
        """Returns the same batches as (normalised float32 images, labels), for `keras.Model.fit`."""
        return PreparedBatches(self)

    def _make(self, number):
        """Returns the batch that is `number`-th since the start of epoch 0."""
        start = time.perf_counter()
        epoch, step = divmod(number, self.steps_per_epoch)
        chosen = self._order(epoch)[step * self.size : (step + 1) * self.size][self.slice]
        drawn = {name: values[self.slice] for name, values in self._draws(epoch, step).items()}
        inputs = _for_device(drawn)
        if self.resident:
            inputs["index"] = chosen
        else:
            inputs["images"] = self.data.train.read(chosen, drawn)
        self.seconds += time.perf_counter() - start
        return inputs, self.data.train.labels[chosen]

    def _make_order(self, epoch):
        return self._rng(epoch, 0).permutation(len(self.data.train)).astype(np.int32)

    def _draws(self, epoch, step):
        return self.augmentation.draw(self._rng(epoch, 1 + step), self.size, self.data.image_shape)

    def _rng(self, epoch, purpose):
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, purpose)))


def _for_device(drawn):
    return {name: values for name, values in drawn.items() if name not in HOST_DRAWS}


class ReadAhead:
    """Calls `make` for the numbers that follow the one that is asked for, in threads, and keeps what they return.

    Args:
        make: A function of a whole number; what it returns must depend on nothing else.
        ahead: How many numbers.
    """

    def __init__(self, make, ahead):
        self.make, self.ahead = make, ahead
        self.pool = concurrent.futures.ThreadPoolExecutor(ahead, thread_name_prefix="batches") if ahead else None
        self.made, self.lock = {}, threading.Lock()

    def get(self, number):
        """Returns `make(number)`."""
        if not self.ahead:
            return self.make(number)
        with self.lock:
            wanted = range(number, number + self.ahead + 1)
            for past in set(self.made) - set(wanted):
                self.made.pop(past).cancel()
            for later in wanted:
                if later not in self.made:
                    self.made[later] = self.pool.submit(self.make, later)
            future = self.made[number]
        return future.result()


class PreparedBatches(keras.utils.PyDataset):
    """Yields the batches of a `TrainingBatches` as images and labels that a network takes, prepared one by one."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches
        self.preparation = Preparation(batches.data, batches.augmentation, batches.resident)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        images, labels = self.preparation(*self.batches[index], training=True)
        return keras.ops.convert_to_numpy(images), keras.ops.convert_to_numpy(labels)

    def on_epoch_begin(self):
        self.batches.on_epoch_begin()

    def on_epoch_end(self):
        self.batches.on_epoch_end()


class EvaluationBatches(keras.utils.PyDataset):
    """Yields every image of a split once, in order, in batches of one size.

    A batch is (inputs, labels, weights): {`images`: uint8 (batch, height, width, channels)}, int32 (batch,), and
    float32 (batch,), which is 1 for an image and 0 for what fills up the last batch.

    Args:
        data: A `DataSet`.
        split: `"test"` or `"train"`.
        batch_size: Images a batch, over all replicas and workers.
        share: (i, n) for the i-th, from 0, of n equal parts of every batch.
        ahead: Batches that are made ahead, each in a thread.
    """

    def __init__(self, data, split, batch_size, share=(0, 1), ahead=0):
        super().__init__()
        self.split = getattr(data, check_choice("split", split, ("train", "test")))
        self.size = check_integer("batch_size", batch_size)
        self.slice = share_slice(batch_size, share)
        self._queue = ReadAhead(self._make, check_integer("ahead", ahead, minimum=0))

    def __len__(self):
        return -(-len(self.split) // self.size)

    def __getitem__(self, index):
        return self._queue.get(index)

    def _make(self, index):
        positions = np.arange(index * self.size, (index + 1) * self.size)[self.slice]
        chosen = np.minimum(positions, len(self.split) - 1)
        weights = (positions < len(self.split)).astype(np.float32)
        return {"images": self.split.read(chosen)}, self.split.labels[chosen], weights

    def spec(self):
        """Returns what a batch is without making one, as `TrainingBatches.spec` does."""
        count = self.slice.stop - self.slice.start
        return {"images": ((count, *self.split.image_shape), "uint8")}, ((count,), "int32"), ((count,), "float32")


def share_slice(batch_size, share):
    """Returns the slice of a batch that is the i-th of n parts, for `share` (i, n)."""
    number, count = share
    if not 0 <= number < count:
        raise argument_error("share", "(i, n) with i from 0 to n - 1", share)
    if check_integer("global_batch_size", batch_size) % count:
        raise argument_error("global_batch_size", f"divisible by {count} workers", batch_size)
    part = batch_size // count
    return slice(number * part, (number + 1) * part)
