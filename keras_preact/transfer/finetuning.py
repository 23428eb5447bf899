"""Fine-tuning: a trained trunk with a new head becomes a run on other images."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_preact.data.dataset import DataLike, DataSet, Subset
from keras_preact.errors import argument_error, check_arguments, check_integer, check_integers
from keras_preact.names import check_name
from keras_preact.network.checks import check_computes_alike
from keras_preact.network.copies import without_lora
from keras_preact.network.families import cifar_spec, imagenet_spec
from keras_preact.network.model import ResidualNetwork
from keras_preact.network.parts import CLASSIFIER
from keras_preact.network.spec import NetworkSpec
from keras_preact.training.callback_state import check_callbacks
from keras_preact.training.evaluation import evaluation_metrics, loaded, reestimate_statistics
from keras_preact.training.experiment import (
    FOREIGN,
    Experiment,
    RunOptions,
    check_backend,
    check_epochs,
    check_precision,
    named_recipe,
)
from keras_preact.training.fitting import Training
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.processes import Clock
from keras_preact.training.recipe import Recipe
from keras_preact.training.sgd import RecipeSGD
from keras_preact.training.signals import EndingSignals
from keras_preact.training.source import Source, Trained, find_source
from keras_preact.training.strategy_table import Strategy
from keras_preact.training.trainer import carry_out
from keras_preact.training.training_model import Crossentropy, loss_dtype
from keras_preact.transfer.optimizer import StagewiseSGD
from keras_preact.transfer.rule import recipe_for
from keras_preact.transfer.trunk import Tuning, freeze, parts_of_variables, thaw
from keras_preact.types import PathLike
from keras_preact.weights.pretrained import adapt_channels, adaptation
from keras_preact.zoo import build_network

log = logging.getLogger(__name__)

RULE = "finetune"  # the name of the recipe that the number of images chooses; it counts in steps
EPOCHS = 10
BN_MOMENTUM = 0.9  # the paper's; some weights have 0.997, under which new statistics take thousands of steps


@dataclass(frozen=True)
class FineTuned(Experiment):
    """Holds, beside what decides any run's result, the weights that it starts from and what is done to them."""

    source: Source = dataclasses.field(kw_only=True)
    tuning: Tuning = dataclasses.field(kw_only=True)

    @property
    def weights(self) -> Source:
        return self.source

    def plain(self) -> dict[str, Any]:
        weights = {"weights": self.source.name, "digest": self.source.digest}
        return {**super().plain(), "finetuning": {**weights, **dataclasses.asdict(self.tuning)}}


def finetune(
    weights: Trained,
    data: DataLike,
    *,
    data_dir: PathLike | None = None,
    skip_corrupt: bool = False,
    recipe: str | Recipe | None = None,
    output: PathLike | None = None,
    overwrite: bool = False,
    strategy: Strategy = "auto",
    checkpoint_steps: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] | None = (),
    verbose: str | int = "auto",
    **fields: Any,
) -> dict[str, Any]:
    """Trains a network with trained weights on other images, and writes a run folder as `train` does.

    The head is new: it has the data's classes and starts at zero, as in big_transfer. All other weights are the trained
    ones, to the bit; what does not fit is an error. Images may have another size than those that the weights were
    trained on, and another number of channels, to which the first kernel is fitted as `weights=` does it. They are
    normalised as the weights' images were, where that is known (see `source.find_source`) and of as many channels.

    Args:
        weights: A network of this package, a name of `list_weights()`, the folder of a finished run, or a `.keras` or
            `.weights.h5` file.
        data: As in `train`: a folder of images (`class/name.png`), a name of `keras_preact.data.DATA_SETS`, or a
            `DataSet`.
        data_dir: As in `train`, as are `skip_corrupt`, `output`, `overwrite`, `strategy`, `checkpoint_steps`,
            `callbacks` and `verbose`.
        recipe: A name of `RECIPES`, or a `Recipe`; if None, `recipe_for` the number of training images.
        **fields: Fields of `Tuning` (`freeze`, `bn`, `layer_decay`, `unfreeze_every`), and fields of `Recipe` that
            differ from the recipe's, e.g. `freeze="stem", bn="train", image_size=64, steps=200`. With `epochs`, `drops`
            and `unfreeze_every` count epochs, too, else steps.

    Returns:
        The card, as `train` returns it; `finetuning` in it holds the weights and the `Tuning`.

    Raises:
        ValueError: If an argument is not allowed; nothing is written then.
        FloatingPointError, OSError: As `train`.
    """
    clock = Clock()
    check_backend()
    tuning, changes = _sorted(fields)
    run_options = RunOptions(output, overwrite, strategy, checkpoint_steps, callbacks or (), verbose, clock)
    source = find_source(weights)
    name, recipe, data = _recipe_and_data(recipe, changes, data, data_dir, skip_corrupt)
    if others := [depth for depth, *_ in recipe.levels if depth != source.spec.depth]:
        hint = "A trained network is deepened by train(start=...)."
        raise argument_error("levels", f"of the trained network's depth, {source.spec.depth}", others[0], hint)
    epochs = changes.get("epochs") if name == RULE and not changes.get("steps") else None
    tuning.check(len(source.spec.units), recipe, epochs)
    if epochs is not None:
        steps_per_epoch = recipe.steps // epochs
        tuning = dataclasses.replace(tuning, unfreeze_every=tuning.unfreeze_every * steps_per_epoch)
    data = source.normalized(data)
    experiment = FineTuned(
        network_name(source),
        data.folder or data.name,
        recipe,
        {},
        recipe_name=name,
        data_dir=data.data_dir,
        skip_corrupt=skip_corrupt,
        source=source,
        tuning=tuning,
    )
    check_callbacks(run_options.callbacks, recipe)
    check_precision(recipe.precision)
    return carry_out(experiment, data, FineTuning, run_options)


def _sorted(fields):
    """Returns the `Tuning` and the fields of `Recipe` in `fields`; a `ValueError` says if one is neither."""
    tuning, recipe = ([field.name for field in dataclasses.fields(owner)] for owner in (Tuning, Recipe))
    own = [name for name in inspect.signature(finetune).parameters if name != "fields"]
    check_arguments("finetune", fields, [*own, *tuning, *recipe], FOREIGN)
    chosen = {name: value for name, value in fields.items() if name in tuning}
    return Tuning(**chosen), {name: value for name, value in fields.items() if name in recipe}


def network_name(source: Source) -> str:
    """Returns what a run calls the network of a `Source`: `resnet<depth>`, its own name if it is of no family.

    Raises:
        ValueError: If its own name can be no part of a file's name, in which its weights' name has it.
    """
    spec = source.spec
    for make_spec, which in ((cifar_spec, {"depth": spec.depth}), (imagenet_spec, {"units": spec.units})):
        with contextlib.suppress(ValueError):  # of a family that has no such network
            known = make_spec(**which, unit=spec.unit)
            if (known.units, known.widths) == (spec.units, spec.widths):
                return f"resnet{spec.depth}"
    return check_name("weights.name", source.model)


def _recipe_and_data(recipe, changes, data, data_dir, skip_corrupt):
    if recipe is not None:
        name, recipe = named_recipe(recipe, **changes)
        return name, recipe, loaded(data, data_dir, recipe.image_size, skip_corrupt)
    check_epochs(Recipe(), changes)
    data = loaded(data, data_dir, changes.get("image_size"), skip_corrupt)
    count = len(data.train) - check_integer("validation_images", changes.get("validation_images", 0), minimum=0)
    if count < 1:
        expected = f"below the {len(data.train)} training images"
        raise argument_error("validation_images", expected, changes["validation_images"])
    batch = check_integer("global_batch_size", changes.get("global_batch_size", recipe_for(count).global_batch_size))
    steps = changes.get("steps") or None
    if steps is None and "epochs" in changes:
        steps_per_epoch = max(1, count // batch)
        steps = check_integer("epochs", changes["epochs"]) * steps_per_epoch
        if drops := check_integers("drops", changes.get("drops", ()), may_be_empty=True):
            changes = {**changes, "drops": tuple(drop * steps_per_epoch for drop in drops)}
    recipe = recipe_for(count, steps)
    if changes.get("schedule", recipe.schedule) != recipe.schedule:
        recipe = recipe.replace(schedule="constant", drops=())
    free = ("seed", "precision", "steps", "epochs")  # with which it is still the rule's recipe
    own = [name for name in changes if name not in free and changes[name] != getattr(recipe, name)]
    recipe = recipe.replace(**{**changes, "steps": recipe.steps})
    if own:
        recipe = recipe.replace(source=f"{RULE} with its own {', '.join(own)}; {recipe.source}")
    return RULE, recipe, data


class FineTuning(Training):
    """Builds and trains a `FineTuned` experiment's network."""

    experiment: FineTuned

    def __init__(self, experiment: FineTuned, data: DataSet, *arguments: Any) -> None:
        super().__init__(experiment, repeated(data, experiment.recipe), *arguments)

    @property
    def fixed_statistics(self) -> bool:
        return self.experiment.tuning.bn != "train"

    def make_network(self) -> ResidualNetwork:
        source, recipe = self.experiment.source, self.recipe
        spec = source.spec.replace(bn_momentum=BN_MOMENTUM, bn_synchronized=recipe.bn_synchronized)
        network = new_head(source.load(), spec, self.data, recipe.precision, self.experiment.model)
        freeze(network, self.experiment.tuning)
        return network

    def make_optimizer(self, network: ResidualNetwork) -> RecipeSGD:
        tuning, recipe = self.experiment.tuning, self.recipe
        if not tuning.is_stagewise:
            return super().make_optimizer(network)
        stages, unit = len(network.spec.units), 1 if recipe.steps else self.steps_per_epoch
        rates, starts, parts = tuning.rates(stages), tuning.starts(stages), parts_of_variables(network)
        return make_optimizer(
            recipe,
            self.steps_per_epoch,
            StagewiseSGD,
            rates=[rates[part] for part in parts],
            starts=[starts[part] * unit for part in parts],
        )

    def fit(self, signals: EndingSignals) -> None:
        """Trains from the restored step to the last; before the first, measures BN's statistics if that is asked."""
        if self.experiment.tuning.bn == "reestimate" and not self.start:
            network = self.model.network
            thaw(network)  # frozen layers take no statistics
            reestimate_statistics(self.model, self.batches, self.devices)
            freeze(network, self.experiment.tuning)
        super().fit(signals)

    def finish(self) -> None:
        """Leaves a network that is trainable as a whole, by an optimizer without momentum or state."""
        super().finish()
        network = self.model.network
        thaw(network)
        optimizer = keras.optimizers.SGD(self.recipe.learning_rate)
        loss = Crossentropy(len(self.data.class_names), dtype=loss_dtype(self.recipe.precision))
        network.compile(optimizer, loss, weighted_metrics=evaluation_metrics())


def repeated(data: DataSet, recipe: Recipe) -> DataSet:
    """Returns `data` with its training images so often that a run counted in steps has ten epochs or fewer.

    An epoch ends with a validation and a checkpoint, and few images make epochs of a step or two. Where the rate or the
    end waits for so many epochs, each has every image once. A batch of more images than there are is a `ValueError`.
    """
    count = len(data.train)
    steps_per_epoch = -(-recipe.steps // EPOCHS)
    times = -(-steps_per_epoch * recipe.global_batch_size // count)
    if times <= 1 or recipe.patience or recipe.early_stopping:
        return data
    if recipe.global_batch_size > count:
        raise argument_error("global_batch_size", f"at most the {count:,} training images", recipe.global_batch_size)
    log.info(f"An epoch has each of the {count:,} training images {times} times.")
    return dataclasses.replace(data, train=Subset(data.train, np.tile(np.arange(count), times)))


def new_head(
    trained: ResidualNetwork, spec: NetworkSpec, data: DataSet, precision: str, name: str | None = None
) -> ResidualNetwork:
    """Returns a network of `spec` with the trunk of a trained one, and a head of zeros for the classes of `data`.

    Args:
        trained: A `ResidualNetwork` of the same graph, with or without a head.
        spec: The new network's.
        data: A `DataSet`.
        precision: A Keras dtype policy.
        name: The new network's; that of `trained` if None.

    Raises:
        ValueError: If the images are too small, or a part of the trunk is not there.
    """
    check_computes_alike(trained, "weights")
    trained = without_lora(trained)
    config = trained.get_config()
    network = build_network(
        spec,
        input_shape=data.image_shape,
        num_classes=len(data.class_names),
        name=name or trained.name,
        layout=trained.layout,
        dtype=precision,
        **({name: config[name] for name in ("unroll", "remat")} if trained.layout == "stacked" else {}),
    )
    theirs = {layer.name: layer for layer in trained.layers}
    for layer in network.layers:
        if layer.name == CLASSIFIER:
            layer.kernel.assign(np.zeros(layer.kernel.shape, "float32"))
        elif layer.weights:
            if layer.name not in theirs:
                raise argument_error("weights", "those of a whole trunk", trained.name, f"{layer.name} is not there.")
            layer.set_weights(_fitted(theirs[layer.name], layer))
    return network


def _fitted(theirs, ours):
    """Returns the arrays of a trained layer for the same layer of a network that may read other channels."""
    arrays, shapes = theirs.get_weights(), [tuple(variable.shape) for variable in ours.weights]
    if [array.shape for array in arrays] == shapes:
        return arrays
    kernel, *rest = arrays
    if ours.name != "stem_conv" or [array.shape for array in rest] != shapes[1:]:
        expected = f"for images of as many channels, as {ours.name} has arrays of shape {shapes}"
        raise argument_error("weights", expected, [array.shape for array in arrays])
    channels = shapes[0][2]
    about = f"{channels} channels instead of {kernel.shape[2]}: {adaptation(kernel, channels)}"
    log.info(f"The kernel of {ours.name} reads {about}")
    return [adapt_channels(kernel, channels), *rest]
