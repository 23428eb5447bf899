"""Verbs about networks: `list` and `inspect`."""

import pathlib

from tyro.conf import Positional

from keras_preact.network import costs
from keras_preact.network.families import FAMILIES, NETWORKS
from keras_preact.network.spec import ORDERINGS, SHORTCUT_PARAMETERS
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
    print()
    for what, names in (("recipes", RECIPES), ("orderings", ORDERINGS), ("shortcuts", SHORTCUT_PARAMETERS)):
        print(f"{what}: {', '.join(names)}")


def inspect(model: Positional[str], /, *, batch_size: int = 1) -> None:
    """Shows what a network costs, stage by stage.

    Args:
        model: The name of a network, a run folder, or a .keras file.
        batch_size: Images whose signals are counted.
    """
    from keras_preact import zoo
    from keras_preact.training import run_folder

    path = pathlib.Path(model)
    if path.is_dir():
        network = run_folder.load_model(path)
    elif path.suffix == ".keras" and path.is_file():
        network = run_folder.read_model(path)
    else:
        network = zoo.get_model(model)
    costs.summary(network, batch_size)
