"""Batches whose order and augmentation are a function of (seed, epoch), on every backend."""

import keras
import numpy as np

from keras_preact.errors import argument_error


class TrainingBatches(keras.utils.PyDataset):
    """Yields normalised, augmented batches of a `DataSet`'s training split, whole batches only.

    Epoch e is the same whatever came before it: order, crops and flips are drawn from (seed, e).

    Args:
        data: A `DataSet`.
        global_batch_size: Images a batch, over all replicas.
        seed: A whole number.
        crop_padding: Pixels of zeros around an image from which a crop of its size is taken; 0 for none.
        flip: Whether half of the images are mirrored.
        epoch: The epoch to start with, from 0.

    Raises:
        ValueError: If a batch is larger than the data set.
    """

    def __init__(self, data, global_batch_size, seed, crop_padding=0, flip=False, epoch=0):
        super().__init__()
        if global_batch_size > len(data.train_images):
            expected = f"at most the {len(data.train_images)} training images of {data.name}"
            raise argument_error("global_batch_size", expected, global_batch_size)
        self.data, self.size, self.seed = data, global_batch_size, seed
        self.crop_padding, self.flip = crop_padding, flip
        self.images = data.normalized(data.train_images)
        self.epoch = epoch
        self._draw()

    def __len__(self):
        return len(self.images) // self.size

    def on_epoch_end(self):
        self.epoch += 1
        self._draw()

    def __getitem__(self, index):
        chosen = self.order[index * self.size : (index + 1) * self.size]
        return self._augmented(chosen), self.data.train_labels[chosen]

    def _draw(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        count = len(self.images)
        self.order = rng.permutation(count)
        self.corners = rng.integers(2 * self.crop_padding + 1, size=(count, 2))
        self.mirrored = rng.random(count) < 0.5 if self.flip else np.zeros(count, bool)

    def _augmented(self, chosen):
        images, pad = self.images[chosen], self.crop_padding
        if pad:
            _, height, width, _ = images.shape
            padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            top, left = self.corners[chosen].T
            rows = top[:, None] + np.arange(height)
            columns = left[:, None] + np.arange(width)
            images = padded[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
        return np.where(self.mirrored[chosen][:, None, None, None], images[:, :, ::-1], images)
