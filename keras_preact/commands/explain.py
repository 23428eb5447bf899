"""The verb `explain`: a report about a network's signals and gradients."""

import pathlib
from typing import Any

from tyro.conf import Positional


def explain(
    model: Positional[str],
    /,
    *,
    output: pathlib.Path = pathlib.Path("report.html"),
    data: str | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    quick: bool = False,
    depths: tuple[int, ...] | None = None,
    steps: int | None = None,
    images: int = 16,
    seed: int = 0,
) -> None:
    """Measures why a network trains, or does not, and writes an HTML report with pictures.

    Args:
        model: The name of a network, which is built untrained; or a trained one: a name of `keras-preact weights list`,
            the folder of a run or of kept weights, a .keras or a .weights.h5 file.
        output: The report, one HTML file.
        data: A data set to measure the network on; if left out, what it was trained on, or the digits.
        data_dir: The folder in which the data set lies.
        image_size: Pixels of a side, to read a folder of images in, for a network that is built untrained.
        quick: Seconds instead of minutes: compares shallow networks only.
        depths: Depths to compare, 9n + 2 each, e.g. 11 56 164.
        steps: Training steps of each network that is compared.
        images: Images to measure with.
        seed: Decides weights, order and masks.
    """
    from keras_preact.laboratory.analysis.report import explain as write_report

    where: dict[str, Any] = dict(data=data, data_dir=data_dir, image_size=image_size)
    path = write_report(model, output, **where, quick=quick, depths=depths, steps=steps, images=images, seed=seed)
    print(f"\n{path}: open it in a browser")
