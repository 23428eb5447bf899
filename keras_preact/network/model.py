"""`ResidualNetwork`: the `keras.Model` of a `NetworkSpec`, and its weights files."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from keras_preact import hdf5
from keras_preact.errors import argument_error
from keras_preact.files import written_aside
from keras_preact.keras_hooks import build_metrics_outside, of_this_backend, optimized_weights
from keras_preact.network.build import KerasLayers, LayerMaker, StackedLayers, changes_of_before, head, policy_of
from keras_preact.network.checks import Layout, check_replicated
from keras_preact.network.claims import as_far_as, classes_of
from keras_preact.network.loaded import Loaded
from keras_preact.network.named_weights import (
    copy_optimizer,
    copy_trainable,
    copy_weights,
    inner_optimizer,
    named_weights,
    optimizer_of,
)
from keras_preact.network.parts import feature_maps, residual_network
from keras_preact.network.replicas import has_strategy, loss_scaled
from keras_preact.network.spec import CONV_PLACES, NetworkSpec
from keras_preact.network.unit_layers import check_has_layer, check_units_alike
from keras_preact.network.weights_files import (
    FINGERPRINT,
    check_whole,
    holds_optimizer,
    misfit,
    read_fingerprint,
    weights_path,
)
from keras_preact.types import PathLike

# Fields that change how a network is computed or trained, but not what a weight means.
PLACES = "optimized_weights"  # in a configuration: see `get_config`
FREE_FIELDS = ("bn_momentum", "bn_synchronized", "stochastic_depth")


@keras.saving.register_keras_serializable(package="keras_preact")
class ResidualNetwork(keras.Model):
    """A network of Residual Units. `zoo.build_network` checks its arguments, and describes them.

    Attributes:
        spec: The `NetworkSpec`.
        layout: `"stacked"` or `"layers"`.
        feature_strides: Image pixels per pixel of each output, along one side, by name; empty without `features`.
        card: The `weights.cards.Card` of the trained weights that it was built with, or None.
        loaded: The `network.loaded.Loaded` that reports what was taken over from trained weights, or None.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        input_shape: tuple[int | None, int | None, int],
        include_top: bool = True,
        pooling: str | None = None,
        num_classes: int | None = 10,
        classifier_activation: str | None = "softmax",
        layout: Layout = "stacked",
        unroll: int | str = "auto",
        remat: bool | int = 0,
        dtype: keras.DTypePolicy | str | None = None,
        name: str | None = None,
        trainable: bool = True,
        input_tensor: keras.KerasTensor | None = None,
        features: Mapping[str, str] | None = None,
        changed_layers: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        policy = policy_of(dtype)
        top: dict[str, Any] = dict(
            include_top=include_top,
            pooling=pooling,
            num_classes=num_classes,
            classifier_activation=classifier_activation,
        )
        execution: dict[str, Any] = dict(unroll=unroll, remat=remat)
        inputs = input_tensor
        if inputs is None:
            inputs = keras.Input(input_shape, dtype=policy.variable_dtype, name="images")
        make = LayerMaker(changed_layers)
        if layout == "layers":
            env = KerasLayers(spec, policy, make=make)
        else:
            env = StackedLayers(spec, policy, make=make, **execution)
        if features:
            outputs = feature_maps(env, inputs, spec, features)
        else:
            outputs = head(residual_network(env, inputs, spec), make, policy, **top)
        super().__init__(inputs=inputs, outputs=outputs, name=name, trainable=trainable)
        self.dtype_policy = policy  # by which `compile` scales the loss of mixed_float16
        make.restore_trainable(self)
        self.spec, self.layout, self._make = spec, layout, make
        self.card: Any = None  # a `Card`, of `weights`, which stands above
        self.loaded: Loaded | None = None
        self._places: list[int] | None = None  # as `_optimized_places` returned them, of a file that is read
        self._arguments = {
            "spec": spec.to_dict(),
            "input_shape": tuple(input_shape),
            **top,
            "layout": layout,
            **execution,
            "features": features,
            "dtype": policy.name,
        }

    def construction(self) -> dict[str, Any]:
        """Returns the arguments of the constructor that decide what is computed, as JSON holds them."""
        return {**self._arguments, "name": self.name, "trainable": self.trainable}

    def get_config(self) -> dict[str, Any]:
        """Returns `construction`, and what was changed since: of layers, and the card and report of trained weights.

        With them go the places in `weights` of those that the optimizer has state of, if not of the trainable ones.
        """
        notes = {"card": self.card, "loaded": self.loaded}
        notes = {name: keras.saving.serialize_keras_object(note) for name, note in notes.items() if note is not None}
        if (places := self._optimized_places()) is not None:
            notes[PLACES] = places
        changed = self._make.changes_of(self)
        return {**self.construction(), **({"changed_layers": changed} if changed else {}), **notes}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> ResidualNetwork:
        config = dict(config)
        notes, places = {name: config.pop(name, None) for name in ("card", "loaded")}, config.pop(PLACES, None)
        if "layers" in config:
            config["changed_layers"] = changes_of_before(config.pop("layers"))
        model = cls(NetworkSpec.from_dict(config.pop("spec")), tuple(config.pop("input_shape")), **config)
        model.card, model.loaded = map(keras.saving.deserialize_keras_object, notes.values())
        model._places = places
        return model

    @property
    def has_top(self) -> bool:
        """Whether the network ends in a classifier."""
        return classes_of(self._arguments) is not None

    @property
    def features(self) -> dict[str, str] | None:
        """The stages whose signals the network returns: a dict from `stage<number>` to the tap, or None."""
        return self._arguments["features"]

    @property
    def feature_strides(self) -> dict[str, int]:
        strides = {f"stage{number}": side for number, side in enumerate(self.spec.stage_strides, start=1)}
        return {name: strides[name] for name in self.features or ()}

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "rmsprop",
        *args: Any,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        **kwargs: Any,
    ) -> None:
        """Compiles as `keras.Model.compile` does, and answers for what Keras on TensorFlow does badly or not at all.

        Without a GPU, and under a strategy, `jit_compile="auto"` means no XLA: on a CPU it takes several times as long
        to compile, and its convolution gradients are slower inside loops. A file keeps "auto". Under a strategy with
        several replicas no model can be trained with `jit_compile=True`: it is turned off, with a warning.

        Raises:
            ValueError: If there are several replicas and what Keras cannot do then is asked for: steps_per_execution
                above 1, or an optimizer with gradient_accumulation_steps or ema_overwrite_frequency. Or if units are
                stacked, and a loop over `layers` has missed their parts: see `unit_layers.check_units_alike`.
        """
        check_units_alike(self)
        self._compile(optimizer, *args, steps_per_execution=steps_per_execution, jit_compile=jit_compile, **kwargs)

    def _compile(self, optimizer="rmsprop", *args, steps_per_execution=1, jit_compile="auto", **kwargs):
        self._asked_jit_compile = jit_compile
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            if jit_compile == "auto" and (has_strategy() or not tf.config.get_visible_devices("GPU")):
                jit_compile = False
            if (replicas := self.distribute_strategy.num_replicas_in_sync) > 1:
                check_replicated(replicas, inner_optimizer(optimizer), steps_per_execution)
                if self.dtype_policy.name == "mixed_float16" and kwargs.get("auto_scale_loss", True):
                    optimizer = loss_scaled(optimizer)
                if jit_compile is True:
                    warnings.warn(f"Keras has no XLA for {replicas} replicas: jit_compile is off.", stacklevel=2)
                    jit_compile = False
        super().compile(optimizer, *args, steps_per_execution=steps_per_execution, jit_compile=jit_compile, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Computes the network as Keras' functional models do; a dict with more than images is a `ValueError`.

        Keras would take the images of `TrainingBatches` and drop what is to be done to them.
        """
        if isinstance(inputs, dict) and len(inputs) > 1:
            hint = "Pass batches.prepared() in place of TrainingBatches: images normalised and varied."
            raise argument_error("inputs", "images alone", sorted(inputs), hint)
        return super().call(inputs, training=training, mask=mask, **kwargs)

    def make_train_function(self, force: bool = False) -> Any:
        """Makes the function of a step as `keras.Model` does, and the optimizer's variables first.

        Made within the first step, as Keras does without a strategy, they have TensorFlow trace it twice.
        """
        optimizer, weights = self.optimizer, self.trainable_variables
        if keras.backend.backend() == "tensorflow" and optimizer is not None and weights and not optimizer.built:
            with self.distribute_strategy.scope():
                optimizer.build(weights)
        return super().make_train_function(force)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Computes what `compile` was given as metrics as `keras.Model` does, and makes their variables first.

        Made within a step, too, they have TensorFlow trace it twice.
        """
        if keras.backend.backend() == "tensorflow" and y is not None:
            build_metrics_outside(self, y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Returns what Keras saves; "auto" where it was asked for, as the file may be read on another device."""
        config = super().get_compile_config()
        if config and "jit_compile" in config:
            config["jit_compile"] = self._asked_jit_compile
        return config

    def _optimized_places(self):
        """Returns of which of `weights` the optimizer has state, or None if of the trainable ones or not compiled."""
        built = optimized_weights(inner_optimizer(optimizer_of(self)))
        if not self.compiled or list(map(id, built)) == list(map(id, self.trainable_variables)):
            return None
        places = {id(variable): index for index, variable in enumerate(self.weights)}
        return [places[id(variable)] for variable in built if id(variable) in places]

    def compile_from_config(self, config: Mapping[str, Any]) -> None:
        """Compiles as `config`, from `get_compile_config`, says; Keras asks for this where `compile` is overridden."""
        config = dict(config)
        places = config.pop(PLACES, self._places)  # in files of before
        self._compile(**keras.saving.deserialize_keras_object(of_this_backend(config)))
        if self.optimizer is not None and places != []:
            built = self.trainable_variables if places is None else [self.weights[index] for index in places]
            self.optimizer.build(built)

    def get_layer(self, name: str | None = None, index: int | None = None) -> keras.layers.Layer:
        """Returns a layer as `keras.Model` does; of a part of stacked units a `ValueError` says where it is."""
        try:
            return super().get_layer(name, index)
        except ValueError:
            check_has_layer(self, name)
            raise

    def with_features(self, features: Mapping[str, str]) -> ResidualNetwork:
        """Returns the network, with a copy of its weights, that returns `features`, as `check_features` gives them."""
        other = type(self).from_config({**self.get_config(), PLACES: None, "features": features})
        theirs, ours = (len(as_far_as(self.spec, those).units) for those in (features, self.features))
        missing = sorted(named_weights(other).keys() - named_weights(self).keys())
        if theirs > ours:  # stacked units after the last stage are there as a whole, of which it has read a part
            missing = [f"stage{theirs}"]
        if missing:
            hint = f"{missing[0]} is not there."
            raise argument_error("features", "of the stages that the network holds", list(features), hint)
        copy_weights(self, other)
        other.card, other.loaded = self.card, self.loaded
        return other

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a weights file must agree on: the spec without `FREE_FIELDS`, the channels read, and the head."""
        spec = {name: value for name, value in self.spec.to_dict().items() if name not in FREE_FIELDS}
        arguments = self._arguments
        plain = {**spec, "channels": arguments["input_shape"][-1], "num_classes": classes_of(arguments)}
        if self.features:  # the network ends after the last of them
            plain["features"] = self.features
        return json.loads(json.dumps(plain))

    def save_weights(self, filepath: PathLike, overwrite: bool = True, max_shard_size: None = None) -> None:
        """Writes a `.weights.h5` file, aside and then renamed. Both layouts write, and read, the stacked one's file.

        It holds the optimizer's state too, as Keras writes it; of a run of units that is frozen in part, what it
        begins with where it is frozen. With the layout of layers it leaves out, with a warning, a state that has other
        shapes than the weights (Adafactor) or an optimizer that cannot be copied (a schedule without `get_config`).

        Args:
            filepath: Where to; the name must end in `.weights.h5`.
            overwrite: Whether an existing file may be replaced.
            max_shard_size: None: it is one file.

        Raises:
            ValueError: If the name ends otherwise, there is a `max_shard_size`, or the file exists and `overwrite` is
                False.
        """
        if max_shard_size is not None:
            raise argument_error("max_shard_size", "None: one file holds all weights, or is not there", max_shard_size)
        path = weights_path(filepath)
        if path.exists() and not overwrite:
            raise argument_error("filepath", "new unless overwrite=True", str(filepath))
        import h5py

        with written_aside(path) as aside:
            keras.Model.save_weights(self._stacked(with_optimizer=True), aside, overwrite=True)
            with h5py.File(aside, "r+") as file:
                file.attrs[FINGERPRINT] = json.dumps(self.fingerprint)
                file.attrs[hdf5.DIGEST] = hdf5.digest_of(file)

    def load_weights(self, filepath: PathLike, skip_mismatch: bool = False, **options: Any) -> None:
        """Reads a `.weights.h5` file of either layout; on any error the model keeps the weights it has.

        Args:
            filepath: A file that `save_weights` wrote.
            skip_mismatch: Passed on to `keras.Model.load_weights`, as are `options`.

        Raises:
            ValueError: If the file is missing, damaged, holds values that are not finite, or belongs to another
                network; the difference is named, or the first array that is missing or of another shape.
        """
        path = weights_path(filepath)
        if not path.is_file():
            raise argument_error("filepath", "an existing .weights.h5 file", str(filepath))
        theirs = read_fingerprint(path)
        if not skip_mismatch:
            self._check_fingerprint(path, theirs)
        optimizer = optimizer_of(self)
        variables = [*self.variables, *(optimizer.variables if optimizer is not None else ())]
        before = [keras.ops.copy(variable) for variable in variables]
        with_optimizer = holds_optimizer(path)
        if with_optimizer and optimizer is not None and not optimizer.built:  # else Keras leaves out its state
            optimizer.build(self.trainable_variables)
        target = self._stacked(with_optimizer)
        try:
            check_whole(path)
            keras.Model.load_weights(target, path, skip_mismatch=skip_mismatch, **options)
        except Exception as error:  # Keras has assigned some arrays by now
            for variable, value in zip(variables, before):
                variable.assign(value)
            reason = misfit(target, path) or " ".join(str(error).split())
            raise argument_error("filepath", "a whole weights file of this network", str(filepath), reason) from error
        if target is not self:
            copy_weights(target, self)
            copy_optimizer(target, self, partial=True)

    def _stacked(self, with_optimizer=False):
        """Returns this model if it is stacked, else its weights, and optimizer if it is compiled, in one that is."""
        if self.layout == "stacked":
            return self
        state = random.getstate()  # the copy's weights draw from it, and are replaced
        other = converted(self, layout="stacked")
        random.setstate(state)
        if with_optimizer and (optimizer := optimizer_of(self)) is not None:
            if not optimizer.built:
                optimizer.build(self.trainable_variables)
            copy_trainable(self, other, partial=True)
            try:
                other.optimizer = type(optimizer).from_config(optimizer.get_config())
                copy_optimizer(self, other, partial=True)
            except (NotImplementedError, ValueError) as error:
                other.optimizer, kind = None, type(optimizer).__name__
                warnings.warn(f"Weights files of this layout leave out the state of {kind}: {error}", stacklevel=3)
        return other

    def _check_fingerprint(self, path, theirs):
        ours = self.fingerprint
        if theirs is None:
            return
        names = {**ours, **theirs}
        if not self.has_top and "features" not in theirs:  # it reads the trunk of a whole network's file
            names = names.keys() - {"num_classes", "features"}
        if isinstance(places := theirs.get("conv_bias"), list):  # a set, which files of before have in any order
            theirs = {**theirs, "conv_bias": [place for place in CONV_PLACES if place in places]}
        differ = sorted(name for name in names if ours.get(name) != theirs.get(name))
        sides = "; ".join(f"{name}: file {theirs.get(name)!r}, model {ours.get(name)!r}" for name in differ)
        if differ:
            raise argument_error("filepath", "a weights file of this network", str(path), f"They differ in {sides}.")


keras.saving.get_custom_objects()["ResidualNetwork"] = ResidualNetwork  # what a .h5 file calls the class


def check_network(model: object) -> None:
    """Raises a `ValueError` unless `model` is a network of this package."""
    if not isinstance(model, ResidualNetwork):
        hint = "What keras.models.clone_model returns is none; type(model).from_config(model.get_config()) is."
        raise argument_error("model", "a network that keras_preact built", type(model).__name__, hint)


def converted(model: ResidualNetwork, **config: Any) -> ResidualNetwork:
    """Returns a network of the configuration of `model` with `config` changed, and its weights, not compiled."""
    other = ResidualNetwork.from_config({**model.get_config(), PLACES: None, **config})
    copy_weights(model, other, partial=bool(model.features))
    other.card, other.loaded = model.card, model.loaded
    return other
