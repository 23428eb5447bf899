"""What the paper's eqs. (3) to (5) say of signals and gradients: properties 1 to 3.

Where a property holds for some orderings or shortcuts only, the others are tested to break it.
"""

import numpy as np
import pytest
import tensorflow as tf
from changed_weights import change_weights, last_convolution, randomized, without_branches
from cut_networks import (
    WITH_IDENTITY_F,
    WITHOUT_IDENTITY_F,
    Cut,
    array,
    build,
    direct_terms,
    normal,
    one_stage,
    random_cut,
)

pytestmark = pytest.mark.usefixtures("float64")

# 1. Eqs. (3) and (4): x_L = x_l + sum of F_i

SECOND_STAGE = slice(3, 6)  # without its first unit, which changes the shape


def deviation_from_sum(cut):
    """The largest |x_L - (x_l + sum of F_i)| within a stage, relative to the largest |x_L|."""
    x = cut.run(cut.stem(normal(4, 8, 8, 3)), slice(SECOND_STAGE.start)).xs[-1]
    trace = cut.run(x, SECOND_STAGE)
    return max(
        np.max(np.abs(trace.xs[end] - trace.xs[start] - sum(trace.branches[start:end]))) / np.max(np.abs(trace.xs[end]))
        for start in range(3)
        for end in range(start + 1, 4)
    )


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_a_signal_is_an_earlier_one_plus_the_branches_between(ordering, unit):
    assert deviation_from_sum(random_cut(ordering, unit)) < 4 * np.finfo(np.float64).eps


@pytest.mark.parametrize("unit", ["basic", "bottleneck"])
@pytest.mark.parametrize("ordering", WITHOUT_IDENTITY_F)
def test_an_activation_after_the_addition_breaks_the_sum(ordering, unit):
    assert deviation_from_sum(random_cut(ordering, unit)) > 0.1


@pytest.mark.parametrize("shortcut", ["constant_scaling", "exclusive_gating", "shortcut_only_gating", "conv1x1"])
def test_a_shortcut_that_is_no_identity_breaks_the_sum(shortcut):
    assert deviation_from_sum(Cut(randomized(build(shortcut=shortcut)))) > 0.1


@pytest.mark.parametrize(
    ("exceptions", "fields"),
    [
        (["stage2_unit01", "stage3_unit01"], dict(units=(2, 2, 2), widths=(4, 8, 16), widening="zero_pad")),
        (["stage2_unit01", "stage3_unit01"], dict(units=(2, 2, 2), widths=(4, 8, 16))),
        (
            ["stage1_unit01", "stage2_unit01", "stage3_unit01"],
            dict(units=(2, 2, 2), widths=(4, 8, 16), unit="bottleneck"),
        ),
        (["stage2_unit01", "stage3_unit01", "stage4_unit01"], dict(units=(2, 2, 2, 2), widths=(4, 8, 16, 32))),
    ],
    ids=["cifar_zero_pad", "cifar_projection", "cifar_bottleneck", "imagenet_basic"],
)
def test_shortcuts_are_identities_except_where_the_shape_changes(exceptions, fields):
    cut = Cut(build(**fields))
    assert [unit.name for unit in cut.units if not unit.has_identity] == exceptions


def test_a_projection_breaks_the_sum_even_if_the_shape_stays():
    cut = Cut(randomized(one_stage(3, width=4, project_first_units=True)))
    trace = cut.run(cut.stem(normal(4, 8, 8, 3)))
    changed = [np.max(np.abs(y - x - branch)) for x, y, branch in zip(trace.xs, trace.sums, trace.branches)]
    assert changed[0] > 0.1
    assert max(changed[1:]) < 1e-14


# 2. Eq. (5): dE/dx_l = dE/dx_L + dE/dx_L * d(sum of F)/dx_l


def stage_input(cut):
    """What the second unit of the second stage reads in training."""
    return cut.run(cut.stem(normal(4, 8, 8, 3)), slice(SECOND_STAGE.start)).xs[-1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_the_gradient_passes_a_stage_unchanged_beside_its_branches(ordering, training):
    cut = random_cut(ordering)
    x = stage_input(cut)
    direct, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=True)
    assert np.any(at_end)
    np.testing.assert_array_equal(direct, at_end)

    whole, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=False)
    with tf.GradientTape() as tape:
        tape.watch(x)
        branches = sum(cut.run(x, SECOND_STAGE, training).branches)
    through_branches = array(tape.gradient(branches, x, output_gradients=at_end))
    assert np.max(np.abs(through_branches)) > 0.01 * np.max(np.abs(at_end))
    np.testing.assert_allclose(whole, at_end + through_branches, rtol=0, atol=1e-13 * np.max(np.abs(whole)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITHOUT_IDENTITY_F)
def test_an_activation_after_the_addition_changes_the_gradient_on_the_shortcut(ordering, training):
    cut = random_cut(ordering)
    direct, at_end = cut.loss_gradients(stage_input(cut), SECOND_STAGE, training, stopped=True)
    assert np.max(np.abs(direct - at_end)) > 0.1 * np.max(np.abs(at_end))


# 3. The gradient does not vanish, however small the weights are


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ordering", WITH_IDENTITY_F)
def test_a_stage_with_zero_weights_is_the_identity_both_ways(ordering, training):
    cut = Cut(without_branches(build(ordering=ordering)))
    x = stage_input(cut)
    np.testing.assert_array_equal(cut.run(x, SECOND_STAGE, training).xs[-1], x)
    at_start, at_end = cut.loss_gradients(x, SECOND_STAGE, training, stopped=False)
    assert np.any(at_end)
    np.testing.assert_array_equal(at_start, at_end)


def test_a_plain_network_with_zero_weights_has_no_gradient():
    gradients, _ = direct_terms(without_branches(one_stage(4, width=4, shortcut="none")))
    assert not np.any(gradients[:-1])


@pytest.mark.parametrize(("shortcut", "exponent"), [("identity", 0), ("none", 6)])
def test_small_weights_cost_a_plain_network_one_factor_a_unit(shortcut, exponent):
    def size(factor):
        model = one_stage(6, width=4, shortcut=shortcut)
        change_weights(model, last_convolution(model), lambda kernel: factor * kernel)
        gradients, _ = direct_terms(change_weights(model, "beta", lambda beta: beta + 1.0))
        return np.linalg.norm(gradients[0])

    assert np.log10(size(1e-4) / size(1e-5)) == pytest.approx(exponent, abs=0.01)
