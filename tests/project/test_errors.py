"""The checks of arguments: what is refused is a `ValueError`, whatever its size."""

import keras
import pytest

import keras_preact
from keras_preact.errors import check_integer, check_number, nearest

HUGE = 10**400  # a whole number that no float can hold


@pytest.mark.parametrize("value", [HUGE, -HUGE])
def test_a_number_beyond_floats_is_refused_as_any_other(value):
    with pytest.raises(ValueError, match="`rate` must be a finite number in \\[0, 1\\]"):
        check_number("rate", value, 0.0, 1.0)


def test_a_whole_number_far_below_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"Nearest: 1\."):
        check_integer("depth", -HUGE)


def test_a_whole_number_beyond_32_bits_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"at least 1 and at most 2,147,483,647\..* Nearest: 2147483647\."):
        check_integer("steps", 1 << 31)
    with pytest.raises(ValueError, match=r"at least 0 and at most 9\..* Nearest: 9\."):
        check_integer("steps", HUGE, minimum=0, maximum=9)


def test_a_number_comes_back_as_a_float():
    assert isinstance(check_number("rate", 1, 0.0, 1.0), float)
    assert check_integer("depth", 3) == 3


@pytest.mark.parametrize(("word", "found"), [("bfloat16", "mixed_bfloat16"), ("flaot32", "float32"), ("64", "float64")])
def test_the_nearest_word_is_one_that_holds_what_was_given(word, found):
    assert nearest(word, ["float32", "float64", "mixed_bfloat16"]) == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_preact.ResNet(11, data_format="channels_first"), "Channels come last"),
        (lambda: keras_preact.ResNet(11, dropout=0.5), "keras.layers.Dropout"),
        (lambda: keras_preact.train("ResNet8", layuot="layers"), 'Nearest: "layout"'),
        (lambda: keras_preact.train("ResNet8", lr=0.1), "Here it is learning_rate"),
        (lambda: keras_preact.train("ResNet8", dtype="float64"), "Here it is precision"),
        (lambda: keras_preact.train("ResNet8", weights="cifar10"), "`train` calls it start"),
        (lambda: keras_preact.finetune("w", "d", num_classes=3), "The data set decides"),
        (lambda: keras_preact.ResNet(11, input_shape=(3, 32, 48)), r"Channels come last: \(32, 48, 3\)"),
        (lambda: keras_preact.ResNet(11, weights="no.keras"), "There is no such file"),
        (lambda: keras_preact.sweep("shortcut=identity,conv1x1"), "Values of one axis have colons between them"),
        (lambda: keras_preact.sweep(None), "`over` must be axes"),
        (lambda: keras_preact.predict("resnet164.digits.digits", None), "`images` must be paths"),
        (lambda: keras_preact.deepen(keras.Sequential(), 29), r"clone_model returns is none"),
    ],
)
def test_what_a_person_tries_first_is_answered(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_keyword_unlike_all_others_has_no_nearest():
    with pytest.raises(ValueError, match=r"no such argument\. Received: xyz=1\.$"):
        keras_preact.ResNet(11, xyz=1)
    with pytest.raises(AttributeError, match=r"'ResNet56'\. Write keras_preact\.ResNet\(56\)"):
        getattr(keras_preact, "ResNet56")  # noqa: B009
