"""Recipes: what they refuse, and the optimizers, schedules and losses that they ask for."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from keras_preact.laboratory.reproduce.experiments import SCALES
from keras_preact.training import recipes
from keras_preact.training.fitting import _stoppers
from keras_preact.training.levels import segments
from keras_preact.training.optimizers import make_optimizer, make_schedule
from keras_preact.training.recipe import Recipe
from keras_preact.training.recipes import RECIPES
from keras_preact.training.sgd import RecipeSGD
from keras_preact.training.training_model import Crossentropy, ErrorPercent


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, r"epochs.*at least 1.*0"),
        ({"learning_rate": float("nan")}, r"learning_rate.*finite.*nan"),
        ({"momentum": 1.0}, r"momentum.*\[0, 1\)"),
        ({"schedule": "cosin"}, r'schedule.*Nearest: "cosine"'),
        ({"weight_decay_kind": "L2"}, r'weight_decay_kind.*Nearest: "l2"'),
        ({"momentum_rule": "pytorch"}, r'momentum_rule.*Nearest: "torch"'),
        ({"precision": "float8"}, r'precision.*Nearest: "float'),
        ({"drops": (2,)}, r"drops.*schedule"),
        ({"schedule": "steps", "drops": 5}, r"drops.*sequence of whole numbers.*5"),
        ({"levels": 3}, r"levels.*depth, image size, epochs.*3"),
        ({"schedule": "steps", "drops": (4, 2)}, r"drops.*growing"),
        ({"schedule": "plateau"}, r"patience.*plateau"),
        ({"early_stopping": 2}, r"validation_images.*test images"),
        (
            {"schedule": "steps", "steps": 9, "drops": (3, 6), "warmup_steps": 3},
            r"warmup_steps.*below 3, the step of.*=3",
        ),
        ({"ema": 1.0}, r"ema.*\[0, 1\)"),
        ({"nesterov": "no"}, r"nesterov.*True or False"),
        ({"bn_synchronized": 1}, r"bn_synchronized.*True or False"),
        ({"batch_size": 3}, r'Recipe field.*"global_batch_size".*Nearest: "global_batch_size"'),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe().replace(**fields)


def test_numbers_of_numpy_are_kept_as_pythons_which_json_can_hold():
    recipe = Recipe(global_batch_size=np.int64(32), learning_rate=np.float32(0.5), crop_padding=np.int8(2), mixup=1)
    assert json.loads(json.dumps(dataclasses.asdict(recipe)))["learning_rate"] == 0.5
    assert [type(value) for value in (recipe.global_batch_size, recipe.crop_padding, recipe.mixup)] == [int, int, float]


@pytest.mark.parametrize("rule", ["caffe", "torch"])
@pytest.mark.parametrize("kind", ["l2", "l2_kernels", "decoupled"])
def test_weight_decay_is_the_step_computed_by_hand(kind, rule):
    """At one learning rate both rules of momentum make the same steps."""
    recipe = Recipe(learning_rate=0.5, schedule="constant", momentum=0.9, weight_decay=0.1, weight_decay_kind=kind)
    optimizer = make_optimizer(recipe.replace(momentum_rule=rule), steps_per_epoch=1)
    variables = {"conv_kernel": (2.0, 0.3), "gamma": (1.0, -0.2)}
    kept = {name: keras.Variable(value, name=name) for name, (value, _) in variables.items()}
    velocity = dict.fromkeys(variables, 0.0)
    expected = {name: value for name, (value, _) in variables.items()}
    for _ in range(2):
        grads = [keras.ops.convert_to_tensor(gradient) for _, gradient in variables.values()]
        optimizer.apply(grads, list(kept.values()))
        for name, (_, gradient) in variables.items():
            decays = kind == "l2" or (kind == "l2_kernels" and name.endswith("kernel"))
            if kind == "decoupled":
                expected[name] -= 0.5 * 0.1 * expected[name]
            total = gradient + 0.1 * expected[name] * decays
            velocity[name] = 0.9 * velocity[name] - 0.5 * total
            expected[name] += velocity[name]
    for name, variable in kept.items():
        assert float(variable.value) == pytest.approx(expected[name], rel=1e-6)


def torchs_step(value, velocity, gradient, rate, nesterov):
    """`torch.optim.SGD`: the velocity is a sum of gradients, and is multiplied by the present rate."""
    velocity = 0.9 * velocity + gradient
    return value - rate * (gradient + 0.9 * velocity if nesterov else velocity), velocity


def caffes_step(value, velocity, gradient, rate, nesterov):
    """Caffe's and Keras' SGD: what the velocity took up keeps the rate that it had then."""
    velocity = 0.9 * velocity - rate * gradient
    return value + (0.9 * velocity - rate * gradient if nesterov else velocity), velocity


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("rule", "step"), [("torch", torchs_step), ("caffe", caffes_step)])
def test_momentum_follows_the_recipes_rule_across_a_warm_up_and_a_drop(rule, step, nesterov):
    recipe = Recipe(steps=9, schedule="steps", warmup_steps=2, drops=(5,), weight_decay=0.1, nesterov=nesterov, ema=0.8)
    optimizer = make_optimizer(recipe.replace(momentum_rule=rule), steps_per_epoch=3)
    variable, average = keras.Variable(2.0, name="kernel", dtype="float64"), None
    value, velocity = 2.0, 0.0
    for number, rate in enumerate([0.01] * 2 + [0.1] * 3 + [0.01] * 4):
        gradient = 0.3 * (-1) ** (number // 2) + value
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float64")], [variable])
        value, velocity = step(value, velocity, gradient + 0.1 * value, rate, nesterov)
        average = value if average is None else 0.8 * average + 0.2 * value
        assert float(variable.value) == pytest.approx(value, abs=1e-6)
    optimizer.use_average([variable])
    assert float(variable.value) == pytest.approx(average, abs=1e-6)


@pytest.mark.parametrize(("rule", "length"), [("torch", 0.1), ("caffe", 0.91)])
def test_after_a_drop_torchs_step_is_a_tenth_and_caffes_runs_on(rule, length):
    """Under one gradient, long after the start, where velocities are 10 times it."""
    optimizer = RecipeSGD(0.1, momentum=0.9, momentum_rule=rule)
    variable, gradient = keras.Variable(0.0), keras.ops.convert_to_tensor(1.0)
    positions = []
    for step in range(202):
        optimizer.learning_rate = 0.1 if step < 201 else 0.01
        optimizer.apply([gradient], [variable])
        positions.append(float(variable.value))
    before, after = np.diff(positions)[-2:]
    assert before == pytest.approx(-1.0, rel=1e-3)
    assert after == pytest.approx(-length, rel=1e-3)


def test_recipes_follow_their_sources_rule():
    rules = {name: recipe.momentum_rule for name, recipe in RECIPES.items()}
    assert {name for name, rule in rules.items() if rule == "torch"} == {"fair_cifar", "fair_imagenet"}
    copy = RecipeSGD.from_config(make_optimizer(RECIPES["fair_cifar"], 10).get_config())
    assert copy.momentum_rule == "torch"


def test_steps_drop_after_their_epochs_and_warm_up_first():
    recipe = Recipe(epochs=6, learning_rate=1.0, schedule="steps", warmup_steps=2, drops=(2, 4))
    schedule = make_schedule(recipe, steps_per_epoch=3)
    rates = [float(schedule(step)) for step in range(18)]
    assert rates == pytest.approx([0.1] * 2 + [1.0] * 4 + [0.1] * 6 + [0.01] * 6)


def test_a_warm_up_that_reaches_the_first_drop_is_refused_and_every_recipe_of_this_package_passes():
    recipe = Recipe(epochs=6, schedule="steps", warmup_steps=6, drops=(2, 4))
    with pytest.raises(ValueError, match="`warmup_steps` must be below 6, the step of the first of `drops`"):
        make_schedule(recipe, steps_per_epoch=3)
    make_schedule(recipe, steps_per_epoch=4)
    known = [*RECIPES.values(), *(recipe for scale in SCALES.values() for recipe in scale.recipes.values())]
    for recipe in known:
        make_schedule(recipe, steps_per_epoch=100)


def test_cosine_grows_from_zero_and_ends_at_zero():
    schedule = make_schedule(Recipe(epochs=4, learning_rate=0.4, warmup_steps=4), steps_per_epoch=5)
    rates = [float(schedule(step)) for step in range(21)]
    assert rates[:5] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert rates[12] == pytest.approx(0.2)
    assert rates[20] == pytest.approx(0.0, abs=1e-9)


def test_error_percent_counts_wrong_images():
    metric = ErrorPercent()
    metric.update_state(np.array([0, 1, 2, 2]), np.eye(3)[[0, 1, 2, 0]])
    assert float(metric.result()) == 25.0


def test_label_smoothing_is_keras_own_on_whole_numbers():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], "float32")
    ours = Crossentropy(3, 0.1)(np.array([0, 2]), probabilities)
    theirs = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(np.eye(3)[[0, 2]], probabilities)
    assert float(ours) == pytest.approx(float(theirs))
    plain = Crossentropy(3)(np.array([0, 2]), probabilities)
    assert float(plain) == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2)
    shares = Crossentropy(3)(np.eye(3, dtype="float32")[[0, 2]], probabilities)
    assert float(shares) == pytest.approx(float(plain))


@pytest.mark.parametrize(
    ("step", "total", "expected"),
    [
        (0, 30, [(0, 3, 10)]),
        (10, 30, [(1, 3, 10)]),
        (13, 30, [(1, 2, 7), (2, 3, 10)]),
        (0, 25, [(0, 2, 10), (2, 3, 5)]),
        (23, 25, [(2, 3, 2)]),
        (30, 30, []),
    ],
)
def test_a_run_goes_on_within_an_epoch_and_may_end_in_one(step, total, expected):
    assert list(segments(step, total, 10)) == expected


def test_a_linear_schedule_rises_and_falls():
    schedule = make_schedule(Recipe(schedule="linear", steps=10, learning_rate=1.0, warmup_steps=2), 5)
    assert [round(float(schedule(step)), 6) for step in (0, 1, 2, 6, 10)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert float(make_schedule(Recipe(schedule="linear", steps=10, learning_rate=1.0), 5)(0)) == 1.0


def test_gradients_are_clipped_by_their_norm_together():
    optimizer = make_optimizer(Recipe(learning_rate=1.0, schedule="constant", weight_decay=0.0, clip_norm=1.0), 1)
    variables = [keras.Variable(0.0, name="a"), keras.Variable(0.0, name="b")]
    optimizer.apply([keras.ops.convert_to_tensor(3.0), keras.ops.convert_to_tensor(4.0)], variables)
    assert [float(variable.value) for variable in variables] == pytest.approx([-0.6, -0.8])


def test_the_paper_recipe_is_the_papers():
    recipe = RECIPES["paper_cifar"]
    schedule = make_schedule(recipe, 390)
    rates = {step: round(float(schedule(step)), 5) for step in (0, 399, 400, 31_999, 32_000, 47_999, 48_000)}
    assert rates == {0: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001}
    assert recipe.total_steps(390) == 64_000
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 1e-4)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("paper_imagenet", dict(epochs=90, global_batch_size=256, drops=(30, 60), scale=(256, 480), lighting=0.1)),
        ("paper_imagenet", dict(momentum_rule="caffe", nesterov=False, area=(), colour=0.0, weight_decay=1e-4)),
        ("fair_imagenet", dict(epochs=90, global_batch_size=256, drops=(30, 60), area=(0.08, 1.0), colour=0.4)),
        ("fair_imagenet", dict(momentum_rule="torch", nesterov=True, lighting=0.1, flip=True, weight_decay=1e-4)),
        ("fair_cifar", dict(epochs=200, global_batch_size=64, drops=(80, 121), crop_padding=4, weight_decay=1e-4)),
        ("modern_cifar", dict(optimizer="muon", epochs=75, global_batch_size=512, learning_rate=0.1, cutout=12)),
        ("modern_cifar", dict(schedule="cosine", warmup_steps=200, weight_decay=0.01, label_smoothing=0.1)),
        ("continued_cifar", dict(epochs=18, global_batch_size=128, learning_rate=0.03, schedule="linear")),
        ("continued_cifar", dict(optimizer="muon", validation_images=500, weight_decay=0.01, cutout=12)),
        ("grown_cifar", dict(epochs=8, global_batch_size=256, learning_rate=0.02, schedule="constant", ema=0.998)),
        ("grown_cifar", dict(optimizer="sgd", weight_decay=3e-4, weight_decay_kind="l2_kernels")),
    ],
)
def test_published_recipes_are_those_that_results_were_made_with(name, fields):
    assert {field: getattr(RECIPES[name], field) for field in fields} == fields


def test_a_plateau_of_the_held_out_error_lowers_the_rate_to_a_tenth():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1))
    (callback,) = _stoppers(Recipe(schedule="plateau", patience=2, validation_images=8))
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, error in enumerate([50.0, 40.0, 40.0, 45.0, 30.0]):
        callback.on_epoch_end(epoch, {"error_percent": 50.0 - epoch, "val_error_percent": error})
        rates.append(round(float(model.optimizer.learning_rate), 4))
    assert rates == [0.1, 0.1, 0.1, 0.01, 0.01]


def test_a_recipe_keeps_its_name_with_another_seed_and_says_what_else_was_changed():
    paper = RECIPES["paper_cifar"]
    assert len({recipe.source for recipe in RECIPES.values()}) == len(RECIPES)
    another = paper.replace(seed=3, precision="mixed_bfloat16")
    assert recipes.named(another) == ("paper_cifar", another)
    name, changed = recipes.named(paper.replace(seed=3, momentum=0.8))
    assert (name, changed.source) == ("custom", f"paper_cifar with its own momentum; {paper.source}")
    assert recipes.named(changed) == (name, changed)
    mine = Recipe(source="mine")
    assert recipes.named(mine) == ("custom", mine)
