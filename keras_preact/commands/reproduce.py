"""The verb `reproduce`: the paper's numbers, ours beside them."""

import pathlib
from typing import Literal

from tyro.conf import Positional

from keras_preact.training.strategy_table import Strategy


def reproduce(
    what: Positional[Literal["parameters", "table1", "table2", "table3", "table4", "figure1", "figure6"]],
    /,
    *,
    row: str | None = None,
    scale: Literal["smoke", "small", "short", "full"] = "smoke",
    seeds: int = 1,
    output: pathlib.Path | None = None,
    data_dir: pathlib.Path | None = None,
    strategy: Strategy = "auto",
    run: bool = True,
) -> None:
    """Runs the experiments of a table or figure of the paper, and prints or draws ours beside it.

    The same command resumes what was killed. Start it several times, and the processes share the rows.

    Args:
        what: parameters: trainable parameters and multiply-adds of every network, beside the exact integers. table1
            to table4: test errors on CIFAR. figure1, figure6: training loss and test error against iterations.
        row: One row of a table; all if left out.
        scale: full: the paper's networks, data and recipe. short: a sixteenth of its training, minutes per row on a
            GPU; only the order of the rows is comparable. small: the paper's networks on CIFAR-10 at 16x16, minutes per
            row on a CPU, for the same. smoke: scikit-learn's digits and shallower networks, minutes on a CPU.
        seeds: Runs of each row.
        output: The folder of the results, one JSON per run; runs/reproduce/<scale> if left out.
        data_dir: Where CIFAR's files are, if not where its loader looks.
        strategy: Devices to compute on, as in train.
        run: Run what has no result yet; with --no-run it stays blank.
    """
    from keras_preact.laboratory.reproduce import reproduce as reproducing

    found = reproducing.reproduce(what, row, scale, seeds, output, data_dir, strategy, run)
    if found is False:
        raise SystemExit(1)
    if what.startswith("figure"):
        print(found)
