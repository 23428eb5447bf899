"""The checks of arguments: what is refused is a `ValueError`, whatever its size."""

import pytest

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
