"""Batches: order and augmentation as a function of (seed, epoch, step), shares of workers, evaluation, arrays."""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import Augmentation, from_arrays, load
from keras_preact.data.batches import EvaluationBatches, TrainingBatches

COUNT = 50
IMAGES = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
LABELS = np.arange(COUNT) % 5
DATA = from_arrays(IMAGES, LABELS, IMAGES[:7], LABELS[:7], class_names=list("abcde"))
ALL = Augmentation(crop_padding=1, flip=True, scale=(4, 8), colour=0.4, lighting=0.1, cutout=2, mixup=0.2, cutmix=1.0)


def epoch(batches):
    return [batches[step] for step in range(len(batches))]


def assert_equal(first, second):
    assert len(first) == len(second)
    for (inputs, labels), (others, other_labels) in zip(first, second):
        assert inputs.keys() == others.keys()
        for name in inputs:
            np.testing.assert_array_equal(inputs[name], others[name], err_msg=name)
        np.testing.assert_array_equal(labels, other_labels)


def order(batches):
    return np.concatenate([inputs["images"][:, 0, 0, 0] for inputs, _ in epoch(batches)])


def test_an_epochs_order_is_a_function_of_seed_and_number():
    orders = {}
    for seed in (0, 1):
        batches = TrainingBatches(DATA, 8, seed)
        for number in range(3):
            orders[seed, number] = tuple(order(batches))
            assert len(set(orders[seed, number])) == 48
            batches.on_epoch_end()
    assert len(set(orders.values())) == 6
    for (seed, number), expected in orders.items():
        batches = TrainingBatches(DATA, 8, seed)
        batches.set_position(number)
        assert tuple(order(batches)) == expected


def test_every_draw_differs_between_epochs_steps_and_seeds():
    batches = TrainingBatches(DATA, 8, seed=0, augmentation=ALL)
    drawn = epoch(batches)
    batches.on_epoch_end()
    drawn += epoch(batches) + epoch(TrainingBatches(DATA, 8, seed=1, augmentation=ALL))
    for name in ("corner", "mirror", "factors", "lighting", "hole", "own", "box"):
        kinds = {inputs[name].tobytes() for inputs, _ in drawn}
        assert len(kinds) == len(drawn) if name != "mirror" else len(kinds) > 12, name


def test_training_goes_on_anywhere_as_if_it_had_not_stopped():
    batches = TrainingBatches(DATA, 8, seed=3, augmentation=ALL)
    stream = []
    for _ in range(3):
        stream += epoch(batches)
        batches.on_epoch_end()
    for done in (0, 1, 5, 6, 7, 12, 17):
        resumed = TrainingBatches(DATA, 8, seed=3, augmentation=ALL)
        resumed.set_position(done // 6, done % 6)
        assert len(resumed) == 6 - done % 6
        rest = []
        while len(rest) < 18 - done:
            rest += epoch(resumed)
            resumed.on_epoch_end()
        assert_equal(rest, stream[done:])
    resumed.set_position(0, 6)
    assert (resumed.epoch, len(resumed)) == (1, 6)
    with pytest.raises(ValueError, match=r"step.*at most the 6"):
        resumed.set_position(0, 7)


@pytest.mark.parametrize("count", [2, 4])
def test_the_workers_shares_are_the_global_batch(count):
    whole = epoch(TrainingBatches(DATA, 16, seed=0, augmentation=ALL))
    parts = [epoch(TrainingBatches(DATA, 16, seed=0, augmentation=ALL, share=(k, count))) for k in range(count)]
    joined = []
    for pieces in zip(*parts):
        inputs = {name: np.concatenate([piece[0][name] for piece in pieces]) for name in pieces[0][0]}
        joined.append((inputs, np.concatenate([piece[1] for piece in pieces])))
    assert_equal(joined, whole)


@pytest.mark.parametrize("resident", [False, True])
def test_the_spec_is_what_batches_are(resident):
    augmentation = Augmentation(crop_padding=1, flip=True, mixup=0.1)
    batches = TrainingBatches(DATA, 16, seed=0, augmentation=augmentation, share=(1, 2), resident=resident)
    inputs, labels = batches[0]
    made = {name: (values.shape, values.dtype.name) for name, values in inputs.items()}
    assert batches.spec() == (made, (labels.shape, labels.dtype.name))
    assert ("index" in made) == resident


def test_keras_fits_epochs_of_one_batch_and_of_two():
    """TensorFlow reads two batches, and ends an epoch, before the first."""
    read = []

    class Batches(TrainingBatches):
        def __getitem__(self, index):
            read.append((self.epoch, self.step + index))
            return super().__getitem__(index)

    batches = Batches(DATA, len(DATA.train) // 2, seed=0)
    batches.set_position(4, 1)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    for expected in ([(4, 1)], [(5, 0), (5, 1)], [(6, 0), (6, 1)]):
        read.clear()
        model.fit(batches.prepared(), shuffle=False, verbose=0)
        assert read[-len(expected) :] == expected


def test_keras_fits_prepared_batches():
    batches = TrainingBatches(DATA, 8, seed=0, augmentation=Augmentation(flip=True))
    prepared = batches.prepared()
    inputs, labels = batches[2]
    images, same = prepared[2]
    np.testing.assert_array_equal(images, DATA.normalized(inputs["images"]))
    np.testing.assert_array_equal(same, labels)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    seen, step = [], model.train_step
    model.train_step = lambda batch: (seen.append(batch[1].numpy()), step(batch))[1]
    batches.set_position(0, 2)
    model.fit(prepared, shuffle=False, verbose=0)  # the rest of an epoch
    model.fit(prepared, epochs=2, shuffle=False, verbose=0)
    assert batches.epoch == 3
    expected, wanted = TrainingBatches(DATA, 8, seed=0), []
    for position in ((0, 2), (1, 0), (2, 0)):
        expected.set_position(*position)
        wanted += [labels for _, labels in epoch(expected)]
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluation_sees_every_image_once_in_order(workers):
    seen = []
    for worker in range(workers):
        batches = EvaluationBatches(DATA, "train", 16, share=(worker, workers))
        assert len(batches) == 4
        for inputs, labels, weights in epoch(batches):
            assert len(labels) == len(weights) == 16 // workers
            kept = weights == 1
            seen += list(zip(inputs["images"][kept][:, 0, 0, 0].tolist(), labels[kept].tolist()))
    assert sorted(seen) == [(k, k % 5) for k in range(COUNT)]
    if workers == 1:
        assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": (0, 2)}, r"^`batch_size` must be divisible by 2 workers.*=3\."),
        ({"batch_size": 0}, r"^`batch_size` must be .*at least 1"),
        ({"share": (1, 1)}, r"^`share` must be"),
        ({"split": "val"}, r'^`split` must be one of "train", "test"'),
    ],
)
def test_wrong_batches_to_evaluate_are_refused_by_the_names_of_their_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluationBatches(**{"data": DATA, "split": "test", "batch_size": 3, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"global_batch_size": 51}, r"global_batch_size.*at most the 50 training images of arrays.*51"),
        ({"share": (0, 3)}, r"global_batch_size.*divisible by 3 workers.*8"),
        ({"share": (2, 2)}, r"share.*\(2, 2\)"),
        ({"seed": -1}, r"seed.*at least 0"),
        ({"share": (0, 8), "augmentation": Augmentation(mixup=0.1)}, r"global_batch_size.*even on each worker"),
        ({"resident": True, "augmentation": ALL}, r"resident.*`scale` or `area`"),
    ],
)
def test_wrong_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainingBatches(**{"data": DATA, "global_batch_size": 8, "seed": 0, **arguments})


def arrays(**changed):
    images = np.array([[[0, 100], [200, 255]]] * 4, np.uint8)
    values = dict(train_images=images, train_labels=[0, 1, 2, 1], test_images=images[:2], test_labels=[0, 1])
    return from_arrays(**{**values, **changed})


def test_arrays_of_any_honest_kind_become_the_same_uint8():
    expected = arrays().train.images
    assert expected.shape == (4, 2, 2, 1)
    as_floats = expected[..., 0] / 255
    for images in (expected, expected.astype("int64"), as_floats, as_floats.astype("float32")):
        made = arrays(train_images=images)
        np.testing.assert_array_equal(made.train.images, expected)
        assert made.train.images.dtype == np.uint8
    assert made.class_names == ("0", "1", "2")
    assert made.mean == pytest.approx((expected.mean(),))
    assert made.std == pytest.approx((expected.std(),))
    normalized = made.normalized(expected)
    assert abs(normalized.mean()) < 1e-6
    assert normalized.std() == pytest.approx(1)


NAN = np.full((4, 2, 2, 1), 0.5)
NAN[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": [0, 1, 2, -1]}, r"train labels.*0 to 2.*-1 to 2"),
        ({"train_labels": [0, 1, 2, 3], "class_names": ("a", "b", "c")}, r"train labels.*0 to 2.*0 to 3"),
        ({"test_labels": [0, 7], "class_names": ("a", "b", "c")}, r"test labels.*0 to 2.*0 to 7"),
        ({"train_labels": [0, 1, 2]}, r"labels.*one per image \(4\).*3"),
        ({"train_labels": [0.0, 1, 2, 1]}, r"train_labels.*whole numbers.*float64"),
        ({"train_labels": np.eye(4)}, r"train_labels.*not one-hot.*\(4, 4\)"),
        ({"train_labels": [2**32, 1, 2, 1]}, r"`train_labels` must be from 0 to 2,147,483,647.*1 to 4294967296"),
        (
            {"test_labels": np.array([0, 2**63], "uint64")},
            r"`test_labels` must be from 0 to .*0 to 9223372036854775808",
        ),
        ({"train_labels": [-(2**40), 1, 2, 1]}, r"`train_labels` must be from 0 to .*-1099511627776 to 2"),
        (
            {"train_labels": [0, 1, 2, 10**9]},
            r"`train_labels` must be below 1,000,000 without.*=1000000000.*numpy.unique",
        ),
        ({"test_labels": [0, 10**6]}, r"`test_labels` must be below 1,000,000 without class_names.*=1000000\."),
        ({"train_images": np.full((4, 2, 2, 1), 255.0)}, r'train_images.*0 to 1.*255.*astype\("uint8"\)'),
        ({"train_images": np.eye(2, dtype=np.uint8)[None].repeat(4, 0)}, r"train_images.*0 to 1\? Multiply by 255"),
        ({"train_images": np.full((4, 2, 2, 1), -3)}, r"train_images.*0 to 255.*-3"),
        ({"test_images": np.full((2, 2, 2, 1), 256)}, r"test_images.*0 to 255.*256"),
        ({"train_images": NAN}, r"train_images.*finite.*image 2"),
        ({"test_images": np.array([-np.inf, np.inf] * 4).reshape(2, 2, 2, 1)}, r"test_images.*finite.*image 0"),
        ({"train_images": NAN.astype(str)}, r"train_images.*uint8 of 0 to 255.*str"),
        ({"train_images": np.zeros((4, 2), np.uint8)}, r"train_images.*\(images, height, width.*\(4, 2\)"),
        ({"train_images": np.zeros((0, 2, 2, 1), np.uint8)}, r"train_images.*one image at least"),
        ({"test_images": np.full((2, 2, 2, 3), 9)}, r"test images.*\(2, 2, 1\).*\(2, 2, 3\)"),
    ],
)
def test_wrong_arrays_are_refused_in_a_sentence(changed, message):
    with pytest.raises(ValueError, match=message):
        arrays(**changed)


def test_the_digits_take_no_options():
    with pytest.raises(ValueError, match=r"`data_dir` must be left out for digits"):
        load("digits", data_dir="x")


def test_a_network_takes_no_batches_that_are_not_prepared(eager):
    """Keras would take the images, raw, and drop what is to be done to them."""
    digits = load("digits")
    model = keras_preact.ResNet(8, input_shape=digits.image_shape)
    model.compile("sgd", "sparse_categorical_crossentropy")
    batches = TrainingBatches(digits, 32, 0, Augmentation(crop_padding=1))
    with pytest.raises(
        ValueError, match=r"`inputs` must be images alone.*'corner', 'images'.*Pass batches\.prepared\(\)"
    ):
        model.fit(batches, steps_per_epoch=1, verbose=0)


def test_batches_are_of_a_data_set_and_there_are_so_many():
    digits = load("digits")
    with pytest.raises(ValueError, match=r"`data` must be of the class DataSet\. Received: data='str'"):
        TrainingBatches("digits", 32, 0)
    with pytest.raises(ValueError, match="`augmentation` must be of the class Augmentation"):
        TrainingBatches(digits, 32, 0, {"flip": True})
    batches = TrainingBatches(digits, 500, 0)
    for index in (-1, 2, 10**6):
        with pytest.raises(IndexError, match="batches 0 to 1"):
            batches.prepared()[index]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((2, 16, 16, 1)) / 2, r"numbers from 0 to 255.*Multiply by 255"),
        (np.zeros((2, 16, 16, 3), "uint8"), r"of 1 channel\(s\), which come last.*\(2, 16, 16, 3\)"),
        (keras.Input((16, 16, 1)), r"an array.*In a graph: \(images - data\.mean\) / data\.std"),
    ],
)
def test_only_images_of_the_data_sets_kind_are_normalised(images, message):
    with pytest.raises(ValueError, match=f"`images` must be {message}"):
        load("digits").normalized(images)
