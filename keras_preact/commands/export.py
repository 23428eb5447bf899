"""The verb `export`: a trained network in formats that need no Keras."""

import pathlib

from tyro.conf import Positional

from keras_preact.exporting.format_table import FormatName


def export(
    model: Positional[str],
    /,
    *,
    output: pathlib.Path | None = None,
    formats: tuple[FormatName, ...] | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    image_size: int | None = None,
    class_names: tuple[str, ...] = (),
    images: pathlib.Path | None = None,
    data_dir: pathlib.Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a trained model as SavedModel, ONNX and LiteRT, and compares each file with it in a fresh process.

    Args:
        model: The folder of a run or of kept weights, a name of `keras-preact weights list`, a .keras or a .weights.h5
            file.
        output: The folder to write; <run>/export, <file>.export or <name>.export if left out.
        formats: What to write; savedmodel, onnx and litert if left out, or those of them that can be written here. int8
            is calibrated on 200 training images; all are compared on at most 1000 test images.
        mean: For a file that does not say it: subtracted from pixels of 0 to 255, a number per channel.
        std: Likewise: what they are divided by, a number per channel.
        image_size: Likewise: side of the square images that the files take, of a .weights.h5 file.
        class_names: A name for each output, if not those of the card; numbers where there is none.
        images: A folder of image files to compare on, where no data set is known or at hand; half of them calibrate
            int8. Those that cannot be read are left out.
        data_dir: Where the data set's files are, if not where the run found them.
        overwrite: Replace an earlier export.
    """
    from keras_preact.training.export import export as export_model

    export_model(
        model,
        output,
        formats,
        mean=mean,
        std=std,
        image_size=image_size,
        class_names=class_names,
        images=images,
        data_dir=data_dir,
        overwrite=overwrite,
    )
