"""Verbs about networks: `list` and `inspect`."""

from tyro.conf import Positional

from keras_preact.network import costs
from keras_preact.network.families import FAMILIES, IMAGENET_UNITS, NETWORKS
from keras_preact.network.shortcuts import SHORTCUT_PARAMETERS
from keras_preact.network.unit_spec import ORDERINGS
from keras_preact.training.recipes import RECIPES


def list_networks() -> None:
    """Lists the networks with their parameters and multiply-adds."""
    rows = [("name", "layers", "units", "image", "classes", "parameters", "multiply-adds")]
    for name, (family, which) in NETWORKS.items():
        make_spec, side, classes = FAMILIES[family]
        spec = make_spec(**which)
        parts = costs.network_costs(spec, (side, side, 3), classes)
        rows.append(
            (
                name,
                str(spec.depth),
                "-".join(map(str, spec.units)),
                f"{side}x{side}",
                str(classes),
                f"{sum(part.trainable for part in parts):,}",
                f"{sum(part.multiply_adds for part in parts):,}",
            )
        )
    print("\n".join(costs.table(rows)))
    cifar, imagenet = "6n + 2 or 9n + 2", ", ".join(map(str, IMAGENET_UNITS))
    print(f"\nEvery depth of a family has a name: resnet56 (CIFAR: {cifar}), resnet18 (ImageNet: {imagenet}).\n")
    for what, names in (("recipes", RECIPES), ("orderings", ORDERINGS), ("shortcuts", SHORTCUT_PARAMETERS)):
        print(f"{what}: {', '.join(names)}")


def inspect(model: Positional[str], /, *, batch_size: int = 1) -> None:
    """Shows what a network costs, stage by stage.

    Args:
        model: The name of a network, or a trained one: a name of `keras-preact weights list`, the folder of a run or of
            kept weights, a .keras file or a .weights.h5 file.
        batch_size: Images whose signals are counted.
    """
    from keras_preact.training import inspection

    inspection.inspect(model, batch_size)
