"""Batches made ahead of the step that needs them, and how long it waited."""

import collections
import copy
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_preact.data.batches import TrainingBatches

AHEAD = 8
THREADS = 2


class Feed:
    """Yields the training batches from a step on, without end.

    Args:
        batches: `TrainingBatches`.
        step: Training steps done before.

    Attributes:
        waited: Seconds that the reader has waited for batches.
    """

    def __init__(self, batches: TrainingBatches, step: int = 0) -> None:
        self.batches, self.position = batches, divmod(step, batches.steps_per_epoch)
        self.waited = 0.0

    def __call__(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Returns a new generator of (inputs, labels)."""
        batches = copy.copy(self.batches)  # Keras begins a generator before it ends another
        batches.set_position(*self.position)
        with ThreadPoolExecutor(THREADS) as threads:
            while True:
                yield from self._epoch(batches, threads)
                batches.on_epoch_end()

    def _epoch(self, batches, threads):
        indices = iter(range(len(batches)))
        coming = collections.deque(threads.submit(batches.__getitem__, i) for i in itertools.islice(indices, AHEAD))
        while coming:
            start = time.perf_counter()
            batch = coming.popleft().result()
            self.waited += time.perf_counter() - start
            coming.extend(threads.submit(batches.__getitem__, index) for index in itertools.islice(indices, 1))
            yield batch
