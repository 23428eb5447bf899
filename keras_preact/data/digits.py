"""The embedded data set: scikit-learn's scans of handwritten digits, which need no network."""

import numpy as np

from keras_preact.data.dataset import ArraySplit, DataSet, measure

SIDE = 16
TEST_IMAGES = 360


def load_digits(skip_corrupt: bool = False) -> DataSet:
    """Returns 1,437 training and 360 test scans of handwritten digits, 16x16, white on black.

    They are the 8x8 scans of `sklearn.datasets.load_digits` (Alpaydin and Kaynak, UCI, 1998), enlarged bilinearly. The
    split is fixed and keeps the classes' shares.

    Args:
        skip_corrupt: Changes nothing: there are no image files to leave out.
    """
    from PIL import Image
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    scans, labels = load(return_X_y=True)
    pixels = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    enlarged = [np.asarray(Image.fromarray(scan).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for scan in pixels]
    split = train_test_split(
        np.stack(enlarged)[..., None], labels.astype(np.int32), test_size=TEST_IMAGES, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = split
    mean, std = measure(train_images)
    return DataSet(
        name="digits",
        train=ArraySplit(train_images, train_labels),
        test=ArraySplit(test_images, test_labels),
        class_names=tuple("0123456789"),
        mean=mean,
        std=std,
        interpolation="bilinear",
    )
