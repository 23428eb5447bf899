"""Products of axes, of which a part runs always and the rest with `-m long`."""

import itertools

import pytest


def diagonals(*axes, every):
    """Returns all combinations of the values of axes, as `parametrize` takes them; of `every` of them about one runs.

    It runs where the places of its values add up to a multiple of `every`. So each pair of values of two axes runs, if
    the places of the other axes add up to `every` different remainders; the other combinations are long.
    """
    found = []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        marks = [pytest.mark.long] if sum(places) % every else []
        found.append(pytest.param(*(axis[place] for axis, place in zip(axes, places)), marks=marks))
    return found
