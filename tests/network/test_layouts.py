"""Stacked and looped units against the same units as Keras layers: outputs, one training step, statistics, files."""

import functools

import keras
import numpy as np
import pytest
from products import diagonals

import keras_preact
from keras_preact.network.layers import residual_units
from keras_preact.network.named_weights import named_weights
from keras_preact.network.spec import NetworkSpec

pytestmark = pytest.mark.usefixtures("float64")

SHORTCUTS = ("identity", "constant_scaling", "exclusive_gating", "shortcut_only_gating", "conv1x1", "none")
EXECUTIONS = [
    {"unroll": 1, "remat": 0},
    {"unroll": 2, "remat": 0},
    {"unroll": "all", "remat": 0},
    {"unroll": 1, "remat": 1},
    {"unroll": 1, "remat": 2},
]


def small_spec(**fields):
    """A network of a unit that stands alone, one that changes the shape, and two that are stacked, in each kind."""
    return NetworkSpec(**{"units": (3, 3), "widths": (4, 6), "stem": {"width": 4}, **fields})


def build(spec, **arguments):
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), num_classes=5, **arguments)


def batch(seed=0, count=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)), rng.uniform(size=(count, 5))


def values(model):
    out = {}
    for name, (variable, index) in named_weights(model).items():
        array = keras.ops.convert_to_numpy(variable.value)
        out[name] = array if index is None else array[index]
    return out


def randomized(model, seed=1):
    """Gives every weight a random value that no symmetry hides, and returns the model."""
    rng = np.random.default_rng(seed)
    for name, (variable, index) in named_weights(model).items():
        assert index is None
        noise = rng.normal(size=variable.shape) * (0.05 if len(variable.shape) == 1 else 0.3)
        variable.assign(np.abs(1 + noise) if name.endswith(("gamma", "variance")) else noise)
    return model


def step(model, **compiling):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mean_squared_error", **compiling)
    return float(model.train_on_batch(*batch()))


def assert_same(ours, theirs, bound=1e-10):
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize(
    ("ordering", "shortcut", "unit"),
    diagonals(tuple(keras_preact.ORDERINGS), SHORTCUTS, ("basic", "bottleneck"), every=2),
)
def test_one_step_is_the_same_for_every_variant(ordering, shortcut, unit):
    spec = small_spec(units=(3, 1), ordering=ordering, shortcut=shortcut, unit=unit)
    layered = randomized(build(spec, layout="layers"))
    stacked = keras_preact.relayout(layered, "stacked")
    images, _ = batch(3)
    np.testing.assert_allclose(layered(images), stacked(images), rtol=1e-10, atol=1e-12)
    assert abs(step(layered, run_eagerly=True) - step(stacked, run_eagerly=True)) < 1e-12
    assert_same(values(stacked), values(layered))


@pytest.mark.parametrize(
    ("unroll", "on_gpu", "turns"), [("auto", True, [6, 1]), ("auto", False, [1, 1]), (4, True, [4, 4])]
)
def test_unroll_auto_is_a_loop_except_for_short_runs_on_a_gpu_under_jax(unroll, on_gpu, turns, monkeypatch):
    seen = []

    def scan(step, carry, stacked, outputs, unroll, remat=0):
        seen.append(unroll)
        return carry, {}

    model = build(NetworkSpec(units=(7, 38), widths=(4, 4), stem={"width": 4}), unroll=unroll, layout="stacked")
    monkeypatch.setattr(residual_units, "is_jax_on_gpu", lambda: on_gpu)
    monkeypatch.setattr(residual_units, "scan", scan)
    for name in ("stage1_units02_07", "stage2_units02_38"):
        model.get_layer(name)(np.zeros((1, 8, 8, 4)))
    assert seen == turns


@pytest.mark.parametrize(("remat", "blocks"), [(False, [0, 0]), (True, [2, 1]), (3, [3, 3])])
def test_remat_reaches_the_loop(remat, blocks, monkeypatch):
    seen, scan = [], residual_units.scan

    def watched(*arguments):
        seen.append(arguments[5])
        return scan(*arguments)

    model = build(NetworkSpec((7, 7), (4, 4), "basic", stem={"width": 4}), layout="stacked", remat=remat)
    monkeypatch.setattr(residual_units, "scan", watched)
    for name in ("stage1_units02_07", "stage2_units02_07"):
        model.get_layer(name)(np.ones((1, 8, 8, 4)), training=True)
    assert seen == blocks


def nine_units():
    """Returns a network as layers: a run of 8 units is longer than those that stand in straight code."""
    return randomized(build(NetworkSpec(units=(9,), widths=(4,), stem={"width": 4}), layout="layers"))


@functools.cache
def expected_of_nine_units():
    """Returns the loss of one step, the values after it, and then the answers to a batch."""
    layered = nine_units()
    loss = step(layered, run_eagerly=True)
    return loss, values(layered), np.array(layered(batch(4)[0]))


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_the_compiled_loop_is_the_same_however_it_is_run(execution):
    stacked = keras_preact.relayout(nine_units(), "stacked", **execution)
    loss, expected, answers = expected_of_nine_units()
    assert abs(step(stacked) - loss) < 1e-12
    assert_same(values(stacked), expected)
    np.testing.assert_allclose(stacked.predict(batch(4)[0], verbose=0), answers, rtol=1e-10, atol=1e-12)
