"""Networks built, and some trained for a little, so that the paper's argument can be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_preact.data.batches import TrainingBatches
from keras_preact.data.dataset import DataSet
from keras_preact.errors import check_integer, check_integers
from keras_preact.laboratory.analysis.measure import analyze
from keras_preact.laboratory.analysis.result import Propagation
from keras_preact.laboratory.table1 import TABLE_1, ShortcutRow
from keras_preact.network.families import cifar_spec
from keras_preact.resnets import ResNet
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.recipes import get_recipe

KINDS = {
    "plain": {"ordering": "original", "shortcut": "none"},
    "original": {"ordering": "original"},
    "preactivation": {"ordering": "preactivation"},
}


@dataclass(frozen=True)
class DepthRun:
    """One network of a study of depths.

    Attributes:
        kind: A key of `KINDS`.
        depth: Weight layers.
        start: Its `Propagation` before training.
        after: The same after it, or None if the loss stopped being finite.
        losses: E of each training step, in nats.
    """

    kind: str
    depth: int
    start: Propagation
    after: Propagation | None
    losses: np.ndarray

    @property
    def training_loss(self) -> float:
        """The mean of E over the last tenth of the steps, in nats."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))


def progress(verbose: int, line: str) -> None:
    """Prints a line of progress, unless `verbose` is 0."""
    if verbose:
        print(line, flush=True)


def study_depths(
    data: DataSet,
    depths: Sequence[int],
    steps: int,
    images: int = 16,
    seed: int = 0,
    verbose: int = 1,
) -> list[DepthRun]:
    """Measures networks of bottleneck units of growing depth, before and after a little training.

    Args:
        data: A `DataSet`.
        depths: Weight layers, 9n + 2 each.
        steps: Training steps; the recipe is `digits`, with its learning rate over these steps.
        images: Test images to measure with.
        seed: Decides weights and order.
        verbose: 0 to print no line of progress after each network.

    Returns:
        A list of `DepthRun`s, one a depth and kind of `KINDS`.

    Raises:
        ValueError: If there is no such network.
    """
    depths, steps = check_integers("depths", depths), check_integer("steps", steps)
    for depth in depths:
        cifar_spec(depth, unit="bottleneck")
    batch = _first_images(data, images)
    runs = []
    for depth in depths:
        for kind, options in KINDS.items():
            network = _network(data, seed, depth, unit="bottleneck", **options)
            start = analyze(network, *batch)
            losses = _train(network, data, steps, seed)
            after = analyze(network, *batch) if np.all(np.isfinite(losses)) else None
            runs.append(DepthRun(kind, depth, start, after, losses))
            loss = f"training loss {runs[-1].training_loss:.3f} after {steps} steps"
            progress(verbose, f"{kind:13} {depth:5} layers: {loss}")
    return runs


def study_shortcuts(
    data: DataSet, depth: int = 110, images: int = 16, seed: int = 0, verbose: int = 1
) -> list[tuple[ShortcutRow, Propagation]]:
    """Measures an untrained network of original basic units with each shortcut of Table 1.

    Args:
        data: A `DataSet`.
        depth: Weight layers, 6n + 2.
        images: Test images to measure with.
        seed: Decides the weights.
        verbose: 0 to print no line of progress after each network.

    Returns:
        A list of (`ShortcutRow`, `Propagation`).
    """
    batch = _first_images(data, images)
    found = []
    for row in TABLE_1:
        network = _network(data, seed, depth, unit="basic", ordering="original", shortcut=row.shortcut)
        result = analyze(network, *batch, seed=seed)
        found.append((row, result))
        if result.network_product is not None:  # as there are labels
            progress(verbose, f"{row.label:24} product of the shortcut factors {result.network_product[0]:.2g}")
    return found


def _first_images(data, count):
    """Returns the first test images, normalised, and their labels."""
    chosen = np.arange(min(count, len(data.test)))
    return data.normalized(data.test.read(chosen)), data.test.labels[chosen]


def _network(data, seed, depth, **options):
    keras.utils.set_random_seed(seed)
    options = {"input_shape": data.image_shape, "num_classes": len(data.class_names), "layout": "stacked", **options}
    return ResNet(depth, family="cifar", **options)


def _train(network, data, steps, seed):
    """Takes training steps by the recipe `digits`; returns the loss of each, in nats, up to the first not finite."""
    recipe = get_recipe("digits").replace(epochs=1)
    network.compile(make_optimizer(recipe, steps), "sparse_categorical_crossentropy")
    batches = TrainingBatches(data, recipe.global_batch_size, seed, recipe.augmentation())
    prepared, losses = batches.prepared(), []
    for step in range(steps):
        if step and step % len(batches) == 0:
            batches.on_epoch_end()
        network.reset_metrics()  # Keras returns the mean since the last reset
        losses.append(float(network.train_on_batch(*prepared[step % len(batches)])))
        if not np.isfinite(losses[-1]):
            break
    return np.array(losses)
