"""What of a network is trained, when, and how fast, stage by stage."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keras_preact.errors import argument_error, check_choice, check_integer, check_number
from keras_preact.network.parts import CLASSIFIER, network_parts
from keras_preact.network.shapes import Shapes

if TYPE_CHECKING:
    from keras_preact.network.model import ResidualNetwork
    from keras_preact.training.recipe import Recipe

STATISTICS = ("inference", "reestimate", "train")
HEAD, TRUNK = "head", "trunk"


@dataclass(frozen=True)
class Tuning:
    """Says what fine-tuning does to the trunk: all of the network but its classifier."""

    freeze: tuple[str, ...] = ()
    """Stages that stay as they are: stem, stage1, stage2, ..., or trunk for all of them."""
    bn: str = "train"
    """BN's statistics: the batch's in stages that are not frozen (train), those of the weights (inference), or those of
    the new images, measured before the first step, in all stages (reestimate). With the last two there is no dropout
    afterwards; it is there while statistics are measured."""
    layer_decay: float = 1.0
    """Learning rate of a stage as a factor of that of the next stage; the head has the recipe's."""
    unfreeze_every: int = 0
    """Epochs, or steps if the run's length is given or chosen in steps, after which one stage more is trained, from the
    last one back; 0 for all from the start. BN's statistics do not wait."""

    def __post_init__(self) -> None:
        names = (self.freeze,) if isinstance(self.freeze, str) else self.freeze
        if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
            raise argument_error("freeze", "names: of stem, stage1, stage2, ..., or trunk; () for none", self.freeze)
        object.__setattr__(self, "freeze", tuple(names))
        check_choice("bn", self.bn, STATISTICS)
        object.__setattr__(self, "layer_decay", check_number("layer_decay", self.layer_decay, 0.0, 1.0))
        object.__setattr__(self, "unfreeze_every", check_integer("unfreeze_every", self.unfreeze_every, minimum=0))

    def check(self, stages: int, recipe: "Recipe", epochs: int | None = None) -> None:
        """Raises a `ValueError` if a network of so many `stages` cannot be trained so by a `Recipe`.

        Args:
            stages: Of the network.
            recipe: The `Recipe`.
            epochs: Those that were asked for, where the recipe has them as steps and `unfreeze_every` counts them.
        """
        for name in self.freeze:
            check_choice("freeze", name, [*trunk_names(stages), TRUNK])
        waiting = len(self.trained(stages)) - 1
        in_steps = recipe.steps and epochs is None
        length, unit = (recipe.steps, "steps") if in_steps else (epochs or recipe.epochs, "epochs")
        if self.unfreeze_every * waiting >= length:
            expected = f"0, or such that {waiting} stages are trained within {length} {unit}"
            hint = f"Nearest: {(length - 1) // waiting}."
            raise argument_error("unfreeze_every", expected, self.unfreeze_every, hint)
        if self.is_stagewise and recipe.optimizer != "sgd":
            hint = "Stages have learning rates of their own with it alone."
            raise argument_error("optimizer", '"sgd" with layer_decay or unfreeze_every', recipe.optimizer, hint)
        if self.is_stagewise and recipe.weight_decay_kind == "decoupled":
            hint = 'Use "l2" or "l2_kernels", whose decay goes with each stage\'s learning rate.'
            raise argument_error("weight_decay_kind", "another with layer_decay or unfreeze_every", "decoupled", hint)

    @property
    def is_stagewise(self) -> bool:
        """Whether stages differ in their learning rates, at some time."""
        return self.layer_decay != 1.0 or self.unfreeze_every > 0

    def trained(self, stages: int) -> list[str]:
        """Returns the names of what is trained at some time, from the input to the head."""
        frozen = trunk_names(stages) if TRUNK in self.freeze else self.freeze
        return [name for name in [*trunk_names(stages), HEAD] if name not in frozen]

    def rates(self, stages: int) -> dict[str, float]:
        """Returns each part's learning rate as a factor of the recipe's, by name."""
        names = [*trunk_names(stages), HEAD]
        return {name: self.layer_decay**back for back, name in enumerate(reversed(names))}

    def starts(self, stages: int) -> dict[str, int]:
        """Returns the epoch, or step if the recipe has `steps`, from which each trained part is trained, by name."""
        return {name: number * self.unfreeze_every for number, name in enumerate(reversed(self.trained(stages)))}


def trunk_names(stages: int) -> list[str]:
    """Returns the names of a trunk's parts, from the input on."""
    return ["stem", *(f"stage{number}" for number in range(1, stages + 1))]


def parts_of_layers(network: "ResidualNetwork") -> dict[str, str]:
    """Returns {layer: name of its part} of every layer with weights; the last activation is its last stage's."""
    from keras_preact.network.layers.residual_units import ResidualUnits

    env, parts, done = Shapes(), {CLASSIFIER: HEAD}, 0
    channels = network.input_shape[-1]
    for part, _ in network_parts(env, (None, None, channels), network.spec):
        last = trunk_names(len(network.spec.units))[-1]
        parts |= {operation.name: last if part == "final" else part for operation in env.operations[done:]}
        done = len(env.operations)
    stacked = {layer.name: f"stage{layer.unit.stage}" for layer in network.layers if isinstance(layer, ResidualUnits)}
    parts |= stacked
    return {layer.name: parts[layer.name] for layer in network.layers if layer.weights}


def freeze(network: "ResidualNetwork", tuning: Tuning) -> None:
    """Makes of a network's layers those trainable that `tuning` trains at some time."""
    trained = set(tuning.trained(len(network.spec.units)))
    parts = parts_of_layers(network)
    for layer in network.layers:
        if layer.weights:
            layer.trainable = parts[layer.name] in trained


def thaw(network: "ResidualNetwork") -> None:
    """Makes all of a network's layers trainable."""
    for layer in network.layers:
        layer.trainable = True


def parts_of_variables(network: "ResidualNetwork") -> list[str]:
    """Returns the name of the part of each of `network.trainable_variables`."""
    parts = parts_of_layers(network)
    names = {id(variable): parts[layer.name] for layer in network.layers for variable in layer.weights}
    return [names[id(variable)] for variable in network.trainable_variables]
