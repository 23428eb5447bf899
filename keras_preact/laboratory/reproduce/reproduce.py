"""Tables and figures of the paper by one name each."""

import inspect
from pathlib import Path
from typing import Any

from keras_preact.errors import argument_error, check_choice
from keras_preact.laboratory.reproduce.figures import FIGURES, reproduce_figure
from keras_preact.laboratory.reproduce.parameters import parameter_table
from keras_preact.laboratory.reproduce.report import reproduce_table
from keras_preact.laboratory.reproduce.tables import TABLES
from keras_preact.training.strategy_table import Strategy
from keras_preact.types import PathLike


def reproduce(
    what: str,
    row: str | None = None,
    scale: str = "smoke",
    seeds: int = 1,
    output: PathLike | None = None,
    data_dir: PathLike | None = None,
    strategy: Strategy = "auto",
    run: bool = True,
) -> bool | dict[str, list[dict[str, Any]]] | Path:
    """Runs the experiments of a table or figure of the paper, and prints or draws ours beside it.

    Args:
        what: `"parameters"`, which builds every network and counts; `"table1"` to `"table4"`, as in `reproduce_table`;
            `"figure1"` or `"figure6"`, as in `reproduce_figure`.
        row: One row of a table; all if None.
        scale: As in `reproduce_table`, as are `seeds`, `output`, `data_dir`, `strategy` and `run`.

    Returns:
        Whether all counts are those of the paper (`"parameters"`), what `reproduce_table` returns, or the path of the
        figure.

    Raises:
        ValueError: If an argument is not allowed.
    """
    check_choice("what", what, ("parameters", *TABLES, *FIGURES))
    if row is not None and what not in TABLES:
        raise argument_error("row", f"left out for {what}", row)
    options: dict[str, Any] = dict(
        scale=scale, seeds=seeds, output=output, data_dir=data_dir, strategy=strategy, run=run
    )
    if what == "parameters":
        usual = inspect.signature(reproduce).parameters
        for name, value in options.items():
            if value != usual[name].default:
                raise argument_error(name, f"left out for {what}", value)
        return parameter_table()
    return reproduce_table(what, row, **options) if what in TABLES else reproduce_figure(what, **options)
