"""The levels of a training: shallow networks on small images first (Chang et al. 2018, arXiv 1710.10348)."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keras_preact.errors import argument_error
from keras_preact.network.checks import check_computes_alike
from keras_preact.network.copies import without_lora
from keras_preact.network.deepening import check_identity, deepen
from keras_preact.network.families import units_of_depth
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.named_weights import copy_weights
from keras_preact.network.spec import NetworkSpec
from keras_preact.training.recipe import Recipe
from keras_preact.training.source import Source


@dataclass(frozen=True)
class Level:
    """Describes a part of a training.

    Attributes:
        depth: Weight layers of the network; None for its own.
        image_size: Side of the training images, in pixels; 0 for the data set's own.
        end: The step of the whole training after which the level ends.
    """

    depth: int | None
    image_size: int
    end: int


def levels_of(recipe: Recipe, steps_per_epoch: int) -> list[Level]:
    """Returns the `Level`s of a `Recipe`, one if it names none."""
    if not recipe.levels:
        return [Level(None, recipe.image_size, recipe.total_steps(steps_per_epoch))]
    ends = itertools.accumulate(epochs * steps_per_epoch for *_, epochs in recipe.levels)
    return [Level(depth, size, end) for (depth, size, _), end in zip(recipe.levels, ends)]


def level_at(levels: Sequence[Level], step: int) -> int:
    """Returns the number of the level, from 0, that trains the network which a checkpoint after `step` holds."""
    return next((number for number, level in enumerate(levels) if step <= level.end), len(levels) - 1)


def check_levels(levels: Sequence[Level], spec: NetworkSpec, side: int) -> None:
    """Raises a `ValueError` if a network of `spec` cannot end such levels, or an image is larger than `side` pixels."""
    depths = [level.depth for level in levels if level.depth is not None]
    for depth in depths if set(depths) != {spec.depth} else ():
        try:
            units = units_of_depth(spec, depth)
        except ValueError as error:
            raise argument_error("levels", "of depths that the network's family has", depth, str(error)) from error
        if depth == spec.depth and units != spec.units:
            hint = f"A network of {depth} layers grows to units={units}."
            raise argument_error("levels", f"of one depth for a network of units={spec.units}", depths, hint)
    if depths and depths[-1] != spec.depth:
        raise argument_error("levels", f"levels that end with the network's depth, {spec.depth}", depths)
    if len(set(depths)) > 1:
        check_identity(spec)  # now, not when the first level has been trained
    argument = "levels (image size)" if depths else "image_size"
    for level in levels:
        if level.image_size > side:
            raise argument_error(argument, f"at most {side}, the side of the images", level.image_size)
        if 0 < level.image_size < spec.minimum_size:
            raise argument_error(argument, f"at least {spec.minimum_size} for this network", level.image_size)


def segments(step: int, total: int, per_epoch: int) -> Iterator[tuple[int, int, int]]:
    """Yields (first epoch, last epoch, steps in each) of the calls of `fit` from `step` to `total`.

    The first and the last epoch may be short: the first when a run resumes within it.
    """
    while step < total:
        epoch, done = divmod(step, per_epoch)
        whole = 0 if done else (total - step) // per_epoch
        steps = per_epoch if whole else min(per_epoch - done, total - step)
        epochs = whole or 1
        yield epoch, epoch + epochs, steps
        step += epochs * steps


def of_depth(network: ResidualNetwork, depth: int | None) -> ResidualNetwork:
    """Returns a new network like `network`, of another depth; `network` itself where that is its own, or None."""
    if depth in (None, network.spec.depth):
        return network
    spec = network.spec.replace(units=units_of_depth(network.spec, depth))
    return ResidualNetwork.from_config({**network.construction(), "spec": spec.to_dict(), "name": f"resnet{depth}"})


def begin_with(network: ResidualNetwork, source: Source) -> None:
    """Sets a network's weights to those of a `Source`, of the same network or a shallower one, which is deepened.

    Raises:
        ValueError: If the weights are of another network, or of a deeper one.
    """
    trained = without_lora(source.load())
    check_computes_alike(trained, "start")
    if any(theirs > ours for theirs, ours in zip(trained.spec.units, network.spec.units)):
        hint = "A network can be deepened, but not made shallower."
        raise argument_error("start", f"at most {network.spec.units} units deep", trained.spec.units, hint)
    if trained.spec.units != network.spec.units and len(trained.spec.units) == len(network.spec.units):
        trained = deepen(trained, units=network.spec.units)
    ours, theirs = network.fingerprint, trained.fingerprint
    differ = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    sides = [f"{name}: start {theirs.get(name)!r}, network {ours.get(name)!r}" for name in differ]
    if sides:
        hint = f"They differ in {'; '.join(sides)}. For other classes or images, see finetune."
        raise argument_error("start", "weights of this network, or of a shallower one", source.name, hint)
    copy_weights(trained, network)
