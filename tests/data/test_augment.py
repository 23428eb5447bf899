"""Augmentations: on the device against plain loops over images in NumPy, and what is drawn for them."""

import itertools

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_preact.data import Augmentation, from_arrays, geometry, transforms
from keras_preact.data.batches import TrainingBatches
from keras_preact.data.dataset import held_out
from keras_preact.data.preparation import Preparation
from keras_preact.data.transforms import EIGENVALUES, EIGENVECTORS

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(24, 8, 10, 3), dtype=np.uint8)
LABELS = np.arange(24) % 4
DATA = from_arrays(IMAGES, LABELS, IMAGES[:5], LABELS[:5])
MEAN, STD = np.float32(DATA.mean), np.float32(DATA.std)


def batch(size=24, **fields):
    """Returns the first batch of an augmentation: what was drawn, and prepared images and labels."""
    augmentation = Augmentation(**fields)
    inputs, labels = TrainingBatches(DATA, size, seed=1, augmentation=augmentation)[0]
    images, prepared = Preparation(DATA, augmentation)(inputs, labels, training=True)
    return inputs, labels, images.numpy(), prepared.numpy()


@pytest.mark.parametrize("pad_value", ["mean", "black", "reflect"])
def test_crop_and_flip_are_a_loop_over_images_exactly(pad_value):
    inputs, _, images, _ = batch(crop_padding=3, flip=True, pad_value=pad_value)
    for image, (top, left), mirrored, original in zip(images, inputs["corner"], inputs["mirror"], inputs["images"]):
        around = ((3, 3), (3, 3), (0, 0))
        padded = (original.astype("float32") - MEAN) / STD
        if pad_value == "reflect":
            padded = np.pad(padded, around, mode="reflect")
        else:
            fill = np.zeros(3) if pad_value == "mean" else -MEAN / STD
            padded = np.stack([np.pad(padded[..., k], 3, constant_values=fill[k]) for k in range(3)], axis=-1)
        cropped = padded[top : top + 8, left : left + 10]
        np.testing.assert_array_equal(image, cropped[:, ::-1] if mirrored else cropped)
    assert 0 < inputs["mirror"].sum() < 24


def test_every_corner_and_side_is_drawn_alike():
    drawn = Augmentation(crop_padding=4, flip=True).draw(np.random.default_rng(0), 81_000, (32, 32, 3))
    counts = np.bincount(drawn["corner"] @ np.array([9, 1]), minlength=81)
    assert counts.size == 81
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5
    assert abs(drawn["mirror"].mean() - 0.5) < 0.01


def blend(image, other, factor):
    return factor * image + (1 - factor) * other


def grey(image):
    return np.repeat((image @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=-1)


def test_colour_is_the_torch_codes_three_blends_in_any_order():
    inputs, _, images, _ = batch(colour=0.4)
    assert np.abs(inputs["factors"] - 1).max() < 0.4
    assert len(np.unique(inputs["factors"])) == 72
    steps = (
        lambda image, factor: blend(image, np.zeros_like(image), factor),
        lambda image, factor: blend(image, np.full_like(image, grey(image).mean()), factor),
        lambda image, factor: blend(image, grey(image), factor),
    )
    for image, factors, original in zip(images, inputs["factors"], inputs["images"]):
        for order in itertools.permutations(range(3)):
            expected = original.astype("float64")
            for k in order:
                expected = steps[k](expected, factors[k])
            np.testing.assert_allclose(image, (expected - MEAN) / STD, atol=1e-5)


def test_saturation_is_pillows():
    inputs, _, images, _ = batch(colour=0.4)
    factors = np.float32([[1, 1, 0.7]] * 24)
    augmentation = Augmentation(colour=0.4)
    images, _ = Preparation(DATA, augmentation)({**inputs, "factors": factors}, LABELS, training=True)
    for image, original in zip(images.numpy(), inputs["images"]):
        pillow = Image.fromarray(original)
        expected = np.asarray(Image.blend(pillow.convert("L").convert("RGB"), pillow, 0.7), "float32")
        np.testing.assert_allclose(image * STD + MEAN, expected, atol=1.6)  # Pillow rounds twice


def test_lighting_shifts_along_the_principal_components():
    inputs, _, images, _ = batch(lighting=0.1)
    for image, amounts, original in zip(images, inputs["lighting"], inputs["images"]):
        shift = sum(amounts[k] * EIGENVALUES[k] * EIGENVECTORS[:, k] for k in range(3))
        expected = (original / 255 + shift - MEAN / 255) / (STD / 255)
        np.testing.assert_allclose(image, expected, atol=1e-5)
    drawn = Augmentation(lighting=0.1).draw(np.random.default_rng(0), 20_000, (8, 8, 3))["lighting"]
    assert drawn.std(axis=0) == pytest.approx(0.1, rel=0.03)
    np.testing.assert_allclose(EIGENVECTORS.T @ EIGENVECTORS, np.eye(3), atol=1e-3)


@pytest.mark.parametrize("side", [4, 5])
def test_cutout_leaves_the_mean_in_a_square_and_the_rest_alone(side):
    inputs, _, images, _ = batch(cutout=side)
    for image, (row, column), original in zip(images, inputs["hole"], inputs["images"]):
        expected = (original.astype("float32") - MEAN) / STD
        top, left = row - side // 2, column - side // 2
        expected[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        np.testing.assert_array_equal(image, expected)


def test_the_largest_cutout_leaves_something_of_some_images_and_one_more_nothing():
    for side, left in ((14, True), (15, False)):
        holes = np.mgrid[:8, :8].reshape(2, -1).T.astype("int32")
        images = transforms.cut_out(np.ones((64, 8, 8, 1), "float32"), holes, side)
        assert bool(np.asarray(images).any()) is left


def test_mixup_blends_neighbours_and_their_labels_alike():
    inputs, labels, images, mixed = batch(mixup=0.4)
    plain, one_hot = (inputs["images"].astype("float32") - MEAN) / STD, np.eye(4)[labels]
    for k, own in enumerate(inputs["own"]):
        other = k + 1 if k % 2 == 0 else k - 1
        np.testing.assert_allclose(images[k], own * plain[k] + (1 - own) * plain[other], atol=1e-6)
        np.testing.assert_allclose(mixed[k], own * one_hot[k] + (1 - own) * one_hot[other], atol=1e-6)
    drawn = Augmentation(mixup=0.4).draw(np.random.default_rng(0), 20_000, (8, 8, 3))["own"]
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)  # of a beta distribution


def test_cutmix_gives_the_label_the_share_of_pixels():
    inputs, labels, images, mixed = batch(cutmix=1.0)
    plain = (inputs["images"].astype("float32") - MEAN) / STD
    for k, (top, left, bottom, right) in enumerate(inputs["box"]):
        other = k + 1 if k % 2 == 0 else k - 1
        expected = plain[k].copy()
        expected[top:bottom, left:right] = plain[other][top:bottom, left:right]
        np.testing.assert_array_equal(images[k], expected)
        pasted = (bottom - top) * (right - left) / 80
        assert mixed[k] @ np.eye(4)[labels[other]] == pytest.approx(
            1.0 if labels[k] == labels[other] else pasted, abs=1e-6
        )
        assert mixed[k].sum() == pytest.approx(1.0)
    assert (inputs["box"][:, 2] > inputs["box"][:, 0]).any()


def test_cutmix_boxes_have_the_area_that_was_drawn():
    drawn = Augmentation(cutmix=1.0).draw(np.random.default_rng(0), 20_000, (512, 512, 3))
    top, left, bottom, right = drawn["box"].T / 512
    # A side r about a uniform centre keeps r - r^2 / 4 of itself inside on average, and r^2 is uniform.
    assert ((bottom - top) * (right - left)).mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.01)


def test_with_both_an_image_gets_mixup_or_cutmix():
    drawn = Augmentation(mixup=1.0, cutmix=1.0).draw(np.random.default_rng(0), 10_000, (32, 32, 3))
    top, left, bottom, right = drawn["box"].T
    pasted, blended = (bottom - top) * (right - left) > 0, drawn["own"] < 1
    assert not (pasted & blended).any()
    assert blended.mean() == pytest.approx(0.5, abs=0.02)
    assert pasted.mean() > 0.4


@pytest.mark.parametrize("fields", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}], ids=list)
def test_labels_have_the_shares_of_the_pixels(fields):
    """Of images in one colour each, all different, the mean colour says which share of the pixels is whose."""
    colours = np.arange(16, dtype=np.uint8) * 16
    images = np.broadcast_to(colours[:, None, None, None], (16, 8, 10, 3))
    data = from_arrays(images, np.arange(16), images, np.arange(16))
    augmentation = Augmentation(**fields)
    batches, preparation = TrainingBatches(data, 16, seed=3, augmentation=augmentation), Preparation(data, augmentation)
    mixed = 0
    for epoch in range(8):
        batches.set_position(epoch)
        found, labels = (value.numpy() for value in preparation(*batches[0], training=True))
        levels = found[..., 0].mean(axis=(1, 2)) * data.std[0] + data.mean[0]
        np.testing.assert_allclose(labels @ colours, levels, atol=1e-3)
        np.testing.assert_allclose(labels.sum(axis=1), 1.0, atol=1e-6)
        mixed += ((labels > 0.02) & (labels < 0.98)).any(axis=1).sum()
    assert mixed > 64


def torch_codes_area_box(width, height, rng):
    """fb.resnet.torch's RandomSizedCrop, line by line; returns (box width, box height) or None."""
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * width * height
        aspect = rng.uniform(3 / 4, 4 / 3)
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if rng.uniform() < 0.5:
            w, h = h, w
        if h <= height and w <= width:
            return w, h
    return None


def test_area_crops_are_distributed_as_the_torch_codes():
    count, size = 6000, (300, 120)
    rng = np.random.default_rng(7)
    theirs = [torch_codes_area_box(*size, rng) for _ in range(count)]
    drawn = Augmentation(area=(0.08, 1.0)).draw(np.random.default_rng(8), count, (8, 8, 3))
    boxes = [geometry.area_box(size, *values) for values in zip(drawn["attempts"], drawn["place"])]
    ours = [box and (box[2] - box[0], box[3] - box[1]) for box in boxes]
    for values in (lambda box: box[0], lambda box: box[1], lambda box: box[0] * box[1]):
        mine, other = (np.array([values(box) for box in found if box]) for found in (ours, theirs))
        both = np.sort(np.concatenate([mine, other]))
        gap = np.abs(
            np.searchsorted(np.sort(mine), both, "right") / len(mine)
            - np.searchsorted(np.sort(other), both, "right") / len(other)
        ).max()
        assert gap < 1.95 * (2 / count) ** 0.5  # Kolmogorov-Smirnov, one wrong alarm in a thousand
    assert all(
        0 <= left < right <= 300 and 0 <= top < bottom <= 120 for left, top, right, bottom in filter(None, boxes)
    )
    lefts = np.array([box[0] / (300 - box[2] + box[0]) for box in boxes if box])
    assert lefts.mean() == pytest.approx(0.5, abs=0.02)


def test_an_area_crop_reads_no_pixel_outside_it():
    image = np.full((40, 60, 3), 255, np.uint8)
    drawn = {"attempts": np.array([[0.1, 1.0, 0.9]]), "place": (0.4, 0.7)}
    left, top, right, bottom = geometry.area_box((60, 40), **drawn)
    image[top:bottom, left:right] = 7
    for size in ((8, 8), (32, 24)):
        np.testing.assert_array_equal(geometry.pixels(geometry.crop(Image.fromarray(image), size, drawn)), 7)


def test_area_falls_back_to_the_centre_when_no_attempt_fits():
    attempts = np.tile([0.9, 4 / 3, 0.9], (10, 1))
    assert geometry.area_box((300, 40), attempts, (0.5, 0.5)) is None
    stripes = np.repeat(np.arange(75, dtype=np.uint8), 4)[None, :].repeat(40, 0)
    crop = geometry.crop(Image.fromarray(stripes), (20, 20), {"attempts": attempts, "place": (0.0, 0.0)})
    assert crop.size == (20, 20)
    assert abs(np.asarray(crop).mean() - 37) < 1


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("fields", [{"area": (0.5, 1.0)}, {"scale": (10, 14)}], ids=str)
def test_a_crop_takes_no_channel_for_alpha(fields, channels):
    images = np.full((6, 8, 10, channels), np.arange(channels) * 60, "uint8")
    data = from_arrays(images, LABELS[:6], images[:5], LABELS[:5])
    (inputs, _) = TrainingBatches(data, 6, 0, Augmentation(**fields))[0]
    np.testing.assert_array_equal(inputs["images"], images)


def test_scale_takes_a_crop_of_the_resized_image():
    drawn = Augmentation(scale=(10, 16)).draw(np.random.default_rng(0), 24, (8, 10, 3))
    assert set(drawn["shorter_side"]) == set(range(10, 17))
    crops = DATA.train.read(np.arange(24), drawn)
    for crop, side, place, original in zip(crops, drawn["shorter_side"], drawn["place"], IMAGES):
        resized = np.asarray(Image.fromarray(original).resize((round(10 * side / 8), side), Image.Resampling.BICUBIC))
        top, left = (int(p * (size - part + 1)) for p, size, part in zip(place, resized.shape, (8, 10)))
        np.testing.assert_array_equal(crop, resized[top : top + 8, left : left + 10])


ALL = Augmentation(crop_padding=2, flip=True, colour=0.4, lighting=0.1, cutout=3, mixup=0.2, cutmix=1.0)


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_graphs_and_xla_compute_what_eager_does_and_xla_compiles_once(resident, jit):
    batches = TrainingBatches(DATA, 8, seed=0, augmentation=ALL, resident=resident)
    preparation, traces = Preparation(DATA, ALL, resident), []

    def prepare(inputs, labels):
        traces.append(inputs)
        return preparation(inputs, labels, training=True)

    spec, label_spec = batches.spec()
    free = [None] if not jit else []  # graphs take a batch of unknown size too
    signature = (
        {name: tf.TensorSpec(free + list(shape[len(free) :]), dtype) for name, (shape, dtype) in spec.items()},
        tf.TensorSpec(free + list(label_spec[0][len(free) :]), label_spec[1]),
    )
    compiled = tf.function(prepare, jit_compile=jit, input_signature=signature)
    for step in range(3):
        inputs, labels = batches[step]
        expected_images, expected_labels = preparation(inputs, labels, training=True)
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        images, mixed = compiled(tensors, tf.constant(labels))
        np.testing.assert_allclose(images, expected_images, atol=2e-5)
        np.testing.assert_allclose(mixed, expected_labels, atol=1e-6)
    assert len(traces) == 1


def test_images_of_which_some_are_held_out_lie_on_the_device_too():
    data, _ = held_out(DATA, 10, seed=0)
    inputs, labels = TrainingBatches(data, 8, seed=0, augmentation=ALL)[0]
    indices, _ = TrainingBatches(data, 8, seed=0, augmentation=ALL, resident=True)[0]
    expected = Preparation(data, ALL)(inputs, labels, training=True)
    for actual, value in zip(Preparation(data, ALL, resident=True)(indices, labels, training=True), expected):
        np.testing.assert_array_equal(actual, value)


def test_images_on_the_device_give_the_same_batches_and_are_written_nowhere(tmp_path):
    streamed, resident = Preparation(DATA, ALL), Preparation(DATA, ALL, resident=True)
    for step in range(3):
        inputs, labels = TrainingBatches(DATA, 8, seed=0, augmentation=ALL)[step]
        indices, _ = TrainingBatches(DATA, 8, seed=0, augmentation=ALL, resident=True)[step]
        assert "images" not in indices
        expected = streamed(inputs, labels, training=True)
        for actual, value in zip(resident(indices, labels, training=True), expected):
            np.testing.assert_array_equal(actual, value)
    network = keras.Sequential([keras.layers.Dense(2)])
    network.build((None, 3))
    assert [variable.dtype for variable in resident.non_trainable_variables] == ["uint8"]
    both = Both(network, resident)
    assert both.non_trainable_variables == resident.non_trainable_variables
    both.save_weights(tmp_path / "both.weights.h5")
    network.save_weights(tmp_path / "network.weights.h5")
    assert arrays(tmp_path / "both.weights.h5") == arrays(tmp_path / "network.weights.h5") == {(3, 2), (2,)}


class Both(keras.Model):
    """Holds a network and what prepares its batches, as a trainer does."""

    def __init__(self, network, preparation):
        super().__init__()
        self.network, self.preparation = network, preparation
        self.built = True

    def call(self, inputs):
        return self.network(inputs)


def arrays(path):
    """Returns the shapes of the arrays in a HDF5 file."""
    shapes = set()
    with h5py.File(path) as file:
        file.visititems(lambda _, item: shapes.add(getattr(item, "shape", None)))
    return shapes - {None}


def test_evaluation_normalises_and_nothing_else():
    images, labels = Preparation(DATA, Augmentation(crop_padding=2, flip=True))({"images": IMAGES}, LABELS)
    np.testing.assert_array_equal(images, DATA.normalized(IMAGES))
    np.testing.assert_array_equal(labels, LABELS)
    _, one_hot = Preparation(DATA, ALL)({"images": IMAGES}, LABELS)
    np.testing.assert_array_equal(one_hot, np.eye(4)[LABELS])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_padding": -1}, r"crop_padding.*at least 0.*-1"),
        ({"pad_value": "zero"}, r'pad_value.*Nearest: "mean"'),
        ({"flip": 1}, r"flip.*True or False.*1"),
        ({"scale": (480, 256)}, r"scale.*smallest, largest.*480"),
        ({"area": (0.0, 1.0)}, r"area.*above 0"),
        ({"area": (0.1, 1.5)}, r"area.*\[0, 1\]"),
        ({"area": 0.5}, r"area.*smallest, largest.*0.5"),
        ({"area": (0.1, 1.0), "scale": (8, 9)}, r"area.*left out with `scale`"),
        ({"colour": 1.5}, r"colour.*\[0, 1\]"),
        ({"mixup": float("nan")}, r"mixup.*finite"),
        ({"cutout": 2.5}, r"cutout.*whole number"),
    ],
)
def test_a_wrong_augmentation_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"colour": 0.1}, r"colour.*1 channel"),
        ({"lighting": 0.1}, r"lighting.*1 channel"),
        ({"crop_padding": 8, "pad_value": "reflect"}, r"crop_padding.*below 8"),
        ({"scale": (7, 20)}, r"scale.*at least 8"),
        ({"cutout": 15}, r"cutout.*at most 14.*nothing would be left"),
    ],
)
def test_an_augmentation_that_the_images_forbid_is_refused(fields, message):
    grey_images = IMAGES[:, :, :8, :1]
    data = from_arrays(grey_images, LABELS, grey_images, LABELS)
    for make in (
        lambda: TrainingBatches(data, 4, seed=0, augmentation=Augmentation(**fields)),
        lambda: Preparation(data, Augmentation(**fields)),
    ):
        with pytest.raises(ValueError, match=message):
            make()
