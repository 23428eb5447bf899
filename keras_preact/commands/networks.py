"""Verbs about networks: `list` and `inspect`."""

import pathlib

from tyro.conf import Positional

from keras_preact import zoo
from keras_preact.network import costs
from keras_preact.network.spec import ORDERINGS, SHORTCUT_PARAMETERS
from keras_preact.training import run_folder
from keras_preact.training.recipes import RECIPES


def list_networks() -> None:
    """Lists the networks with their parameters and multiply-adds."""
    rows = [("name", "layers", "units", "image", "classes", "parameters", "multiply-adds")]
    for name in zoo.list_models():
        model = zoo.get_model(name)
        parts = costs.model_costs(model)
        height, width, _ = model.input_shape[1:]
        rows.append(
            (
                name,
                str(model.spec.depth),
                "-".join(map(str, model.spec.units)),
                f"{height}x{width}",
                str(model.output_shape[-1]),
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
    path = pathlib.Path(model)
    if path.is_dir():
        network = run_folder.load_model(path)
    elif path.suffix == ".keras" and path.is_file():
        network = run_folder.read_model(path)
    else:
        network = zoo.get_model(model)
    costs.summary(network, batch_size)
