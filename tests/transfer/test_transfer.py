"""Fine-tuning: what is frozen stays, what BN's statistics become, learning rates by stage, runs that go on."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact.cli import main
from keras_preact.commands import transfer
from keras_preact.data import from_arrays
from keras_preact.data.augment import Augmentation
from keras_preact.data.batches import TrainingBatches
from keras_preact.network.named_weights import named_weights
from keras_preact.training import checkpoints
from keras_preact.training.recipe import Recipe
from keras_preact.training.source import find_source
from keras_preact.training.training_model import Crossentropy, TrainingModel
from keras_preact.transfer import finetuning
from keras_preact.transfer.finetuning import new_head, repeated
from keras_preact.transfer.optimizer import StagewiseSGD
from keras_preact.transfer.trunk import Tuning, freeze, parts_of_variables
from keras_preact.weights.cards import TRAINED

RNG = np.random.default_rng(0)
SPEC = keras_preact.NetworkSpec((3, 1), (4, 8), "basic", stem={"width": 4})
QUICK = dict(epochs=2, global_batch_size=8, learning_rate=0.05, schedule="constant", drops=(), warmup_steps=0)


def images(count):
    """Noise with a bright corner, whose place is the label."""
    labels = np.arange(count) % 3
    pixels = RNG.integers(0, 120, (count, 8, 8, 1))
    for image, label in zip(pixels, labels):
        image[4 * (label // 2) :, 4 * (label % 2) :] += 100
    return pixels.astype("uint8"), labels


DATA = from_arrays(*images(40), *images(12), class_names=("a", "b", "c"), name="corners")


def arrays(network):
    values = {}
    for name, (variable, index) in named_weights(network).items():
        value = keras.ops.convert_to_numpy(variable.value)
        values[name] = value if index is None else value[index]
    return values


def moved(before, after):
    """Returns the names of the weights that differ by a bit, without the head's."""
    names = {name for name in before if not name.startswith("predictions")}
    return {name for name in names if before[name].tobytes() != after[name].tobytes()}


def is_statistic(name):
    return "/moving_" in name


def of_parts(values, *parts):
    """Returns the names of weights of these stages; the last activation is stage 2's."""
    return {name for name in values if name.replace("final", "stage2").split("_")[0] in parts}


@pytest.fixture(scope="module")
def source():
    """A network with a head of four classes, whose weights and statistics are none that a new one has."""
    network = keras_preact.build_network(SPEC, input_shape=(16, 16, 1), num_classes=4, layout="stacked")
    for variable in network.variables:
        value = keras.ops.convert_to_numpy(variable.value)
        variable.assign(value * RNG.uniform(0.9, 1.1, value.shape) + RNG.uniform(0.0, 0.03, value.shape))
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data set as files."""
    path = tmp_path_factory.mktemp("corners")
    for split, part in (("train", DATA.train), ("test", DATA.test)):
        for number, (pixels, label) in enumerate(zip(part.images, part.labels)):
            where = path / split / DATA.class_names[label]
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(where / f"{number}.png")
    return path


@pytest.fixture(scope="module")
def run(source, folder, tmp_path_factory):
    """A run by the command, of a weights file on a folder of images; stem and stage 1 are frozen."""
    output = tmp_path_factory.mktemp("runs")
    source.save_weights(output / "source.weights.h5")
    flags = "--freeze stem stage1 --bn inference --layer-decay 0.5"
    flags += " --steps 10 --global-batch-size 8 --learning-rate 0.1 --seed 3"
    weights = ["--weights", str(output / "source.weights.h5"), "--data", str(folder)]
    main(["finetune", *weights, *flags.split(), "--output", str(output / "run")])
    return output / "run"


def test_what_is_frozen_stays_to_the_bit_and_the_rest_is_trained(run, source):
    before, after = arrays(source), arrays(keras.models.load_model(run / "model.keras"))
    trained = {name for name in of_parts(before, "stage2") if not is_statistic(name)}
    assert len(trained) == 9  # two BN and two convolutions of the unit, its projection, the last BN
    assert moved(before, after) == trained
    assert after["predictions/kernel"].shape == (8, 3)
    assert np.abs(after["predictions/kernel"]).max() > 0


def test_the_command_takes_every_field_of_a_recipe(monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(finetuning, "finetune", lambda *what, **fields: asked.update(fields) or {})
    flags = "--epochs 3 --schedule linear --area 0.5 1 --flip --no-nesterov --momentum 0 --ema 0.9 --freeze stem"
    flags += " --levels 20 8 1 29 16 2"
    main(["finetune", "--weights", "w", "--data", "d", *flags.split()])
    recipe = {field.name for field in dataclasses.fields(Recipe)}
    assert {name: value for name, value in asked.items() if name in recipe} == {
        "epochs": 3,
        "schedule": "linear",
        "area": (0.5, 1.0),
        "flip": True,
        "nesterov": False,
        "momentum": 0,
        "ema": 0.9,
        "levels": ((20, 8, 1), (29, 16, 2)),
    }
    assert recipe - set(vars(transfer.RecipeChanges())) == {"source"}
    with pytest.raises(SystemExit):
        main(["finetune", "--weights", "w", "--data", "d", "--flip", "--no-flip"])
    assert "`flip` must be given as one of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "Passes over the training images." in shown
    assert "Mirror half of the images." in shown


def test_the_run_folder_is_one_as_any(run, folder, source):
    card = json.loads((run / "card.json").read_text())
    told = card["finetuning"]
    assert (told["freeze"], told["bn"], told["layer_decay"]) == (["stem", "stage1"], "inference", 0.5)
    assert told["weights"] == str(run.parent / "source.weights.h5")
    assert card["chain"] == [{"weights": told["weights"], "digest": told["digest"]}]
    assert "start" not in card
    assert card["classes"] == ["a", "b", "c"]
    assert (card["recipe"]["steps"], card["recipe"]["drops"], card["recipe"]["warmup_steps"]) == (10, [4, 6, 8], 0)
    assert keras_preact.evaluate(run)["error_percent"] == card["error_percent"]
    prediction = keras_preact.predict(run, [next((folder / "test" / "a").iterdir())], top=1)[0]
    assert prediction.classes[0][0] in card["classes"]
    model = keras.models.load_model(run / "model.keras")
    assert len(model.trainable_variables) == len(source.trainable_variables)


def test_statistics_are_measured_anew_also_where_weights_are_frozen(source, tmp_path):
    recipe = Recipe(**{**QUICK, "weight_decay": 0.0, "crop_padding": 1, "seed": 5})
    keras_preact.finetune(
        source, DATA, recipe=recipe, freeze="trunk", bn="reestimate", output=tmp_path / "run", verbose=0
    )
    before, after = arrays(source), arrays(keras.models.load_model(tmp_path / "run" / "model.keras"))
    assert moved(before, after) == {name for name in before if is_statistic(name)}
    # Directly: the convolution by Keras, the moments by NumPy, their moving average over 44 batches (0.9^44 is 0.01).
    augmentation = recipe.augmentation()
    batches = TrainingBatches(DATA, 8, 5, augmentation)
    means, variances = before["stem_bn/moving_mean"], before["stem_bn/moving_variance"]
    for step in range(44):
        pixels, _ = batches.prepared()[step % 5]
        signal = np.asarray(keras.ops.conv(pixels, before["stem_conv/kernel"], padding="same"), "float64")
        means = 0.9 * means + 0.1 * signal.mean((0, 1, 2))
        variances = 0.9 * variances + 0.1 * signal.var((0, 1, 2))
        if step % 5 == 4:
            batches.on_epoch_end()
    np.testing.assert_allclose(after["stem_bn/moving_mean"], means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["stem_bn/moving_variance"], variances, rtol=1e-4)


class Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("stopped")


def test_stages_unfreeze_after_epochs_where_epochs_were_asked_for(source, tmp_path):
    settings = dict(global_batch_size=20, epochs=8, unfreeze_every=2, drops=(5, 7), output=tmp_path / "run", verbose=0)
    card = keras_preact.finetune(source, DATA, **settings)  # two steps in an epoch of 40 images
    assert (card["recipe"]["steps"], card["finetuning"]["unfreeze_every"]) == (16, 4)
    assert card["recipe"]["drops"] == [10, 14]
    assert card["recipe"]["source"].startswith("finetune with its own global_batch_size, drops; BiT-HyperRule")


def test_a_run_that_unfreezes_stage_by_stage_goes_on_as_if_it_had_not_stopped(run, tmp_path):
    """It starts from a run's folder, whose images' mean it keeps; BN is trained in what is not frozen."""
    settings = dict(recipe=Recipe(**QUICK, steps=20), freeze="stem", unfreeze_every=7, verbose=0)
    settings |= dict(strategy="none", checkpoint_steps=3)
    other = from_arrays(255 - DATA.train.images, DATA.train.labels, 255 - DATA.test.images, DATA.test.labels)
    card = keras_preact.finetune(run, other, output=tmp_path / "whole", **settings)
    theirs = json.loads((run / "card.json").read_text())["preprocessing"]
    assert [list(card["preprocessing"][name]) for name in ("mean", "std")] == [
        theirs["mean"],
        theirs["std"],
    ]
    assert keras_preact.evaluate(tmp_path / "whole", other)["error_percent"] == card["error_percent"]

    with pytest.raises(RuntimeError):
        keras_preact.finetune(run, other, output=tmp_path / "cut", callbacks=[Stop(13)], **settings)
    cut = checkpoints.newest(tmp_path / "cut" / "checkpoints")
    assert cut.step == 12
    keras_preact.finetune(run, other, output=tmp_path / "cut", **settings)
    whole, resumed = (checkpoints.newest(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert whole.step == resumed.step == 20
    for name in whole.arrays:
        np.testing.assert_array_equal(resumed.arrays[name], whole.arrays[name], err_msg=name)

    model = keras.models.load_model(tmp_path / "whole" / "model.keras")
    start, end = arrays(keras.models.load_model(run / "model.keras")), arrays(model)
    assert moved(start, end) == of_parts(start, "stage1", "stage2")
    for number, variable in enumerate(model.variables):
        variable.assign(cut.arrays[f"network/{number:05d}"])
    weights = {name for name in moved(start, arrays(model)) if not is_statistic(name)}
    assert weights == {name for name in of_parts(start, "stage2") if not is_statistic(name)}  # stage 1's turn is at 14
    with pytest.raises(ValueError, match=r"another run: finetuning.unfreeze_every is 7 there and 5 here"):
        keras_preact.finetune(run, other, output=tmp_path / "whole", **{**settings, "unfreeze_every": 5})


class Begun(keras.callbacks.Callback):
    """Keeps what the optimizer of a training was told."""

    def on_train_begin(self, logs=None):
        self.told = sorted({*self.model.optimizer.starts}), sorted({*self.model.optimizer.rates})


def test_stages_wait_for_epochs_of_the_recipe_and_have_rates_of_their_own(source, tmp_path):
    recipe, begun = Recipe(**{**QUICK, "epochs": 4}), Begun()  # of five steps
    stages = dict(unfreeze_every=1, layer_decay=0.5)
    keras_preact.finetune(
        source, DATA, recipe=recipe, **stages, callbacks=[begun], output=tmp_path / "run", verbose=0, strategy="none"
    )
    assert begun.told == ([0, 5, 10, 15], [0.125, 0.25, 0.5, 1.0])


def test_statistics_of_a_slow_network_follow_the_new_images_at_the_usual_speed(tmp_path):
    slow = keras_preact.build_network(SPEC.replace(bn_momentum=0.997), input_shape=(8, 8, 1), num_classes=3)
    card = keras_preact.finetune(slow, DATA, steps=1, global_batch_size=8, output=tmp_path / "run", verbose=0)
    assert card["network"]["spec"]["bn_momentum"] == 0.9


@pytest.mark.parametrize("rule", ["caffe", "torch"])
def test_a_step_is_the_one_computed_by_hand_for_each_rate_and_start(rule):
    """Momentum, l2; the second variable begins at the third step, while the first one's momentum goes on."""
    optimizer = StagewiseSGD(0.5, momentum=0.9, l2=0.1, momentum_rule=rule, rates=(1.0, 0.25), starts=(0, 2))
    values, gradients, starts, factors = [2.0, 1.0], [0.3, -0.2], [0, 2], [1.0, 0.25]
    variables = [keras.Variable(value, name="kernel") for value in values]
    velocity = [0.0, 0.0]
    for step in range(4):
        optimizer.apply([keras.ops.convert_to_tensor(gradient) for gradient in gradients], variables)
        for k in range(2):
            rate = 0.5 * factors[k] * (step >= starts[k])
            velocity[k] = 0.9 * velocity[k] - rate * (gradients[k] + 0.1 * values[k])
            values[k] += velocity[k]
        if step == 1:
            assert float(variables[1].value) == 1.0
            unit = -0.5 if rule == "torch" else 1.0
            assert unit * float(optimizer.momentums[0].value) == pytest.approx(velocity[0], rel=1e-6) != 0.0
            assert float(optimizer.momentums[1].value) == 0.0
        assert [float(variable.value) for variable in variables] == pytest.approx(values, rel=1e-6)


def test_rates_and_starts_run_back_from_the_head():
    tuning = Tuning(freeze="stage1", layer_decay=0.5, unfreeze_every=3)
    assert tuning.rates(3) == {"head": 1.0, "stage3": 0.5, "stage2": 0.25, "stage1": 0.125, "stem": 0.0625}
    assert tuning.starts(3) == {"head": 0, "stage3": 3, "stage2": 6, "stem": 9}
    assert Tuning(freeze="trunk").trained(3) == ["head"]
    assert type(Tuning(unfreeze_every=np.int64(2)).unfreeze_every) is int


@pytest.mark.parametrize("bn", ["inference", "train"])
def test_both_layouts_train_the_same(source, float64, bn):
    """The stacked run of stage 1, whose BN is folded in inference, against separate layers."""
    tuning, ends = Tuning(freeze="stem", layer_decay=0.7, bn=bn), []
    for layout in ("stacked", "layers"):
        network = new_head(keras_preact.relayout(source, layout), SPEC, DATA, "float64")
        assert network.layout == layout
        network.get_layer("predictions").kernel.assign(np.linspace(-1, 1, 24).reshape(8, 3))
        freeze(network, tuning)
        rates = [tuning.rates(2)[part] for part in parts_of_variables(network)]
        model = TrainingModel(network, keras_preact.data.preparation.Preparation(DATA), tuning.bn != "train")
        optimizer = StagewiseSGD(0.001, momentum=0.9, rates=rates, starts=[0] * len(rates))
        model.compile(optimizer, Crossentropy(3), run_eagerly=True)
        batches = TrainingBatches(DATA, 20, 0, Augmentation())
        for index in range(2):
            model.train_on_batch(*batches[index])
        ends.append(arrays(network))
    assert ends[0].keys() == ends[1].keys()
    for name in ends[0]:
        np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=0, atol=1e-6, err_msg=name)
    before = arrays(source)
    trained = of_parts(before, "stage1", "stage2")
    assert moved({name: before[name].astype("float64") for name in before}, ends[0]) == {
        name for name in trained if bn == "train" or not is_statistic(name)
    }


def test_a_network_of_layers_that_was_stacked_with_remat_gets_a_new_head(source):
    relaid = keras_preact.relayout(keras_preact.relayout(source, "stacked", remat=2), "layers")
    assert relaid.get_config()["remat"] == 2
    assert new_head(relaid, SPEC, DATA, "float32").layout == "layers"


def test_the_new_head_is_zero_and_all_else_the_weights(source):
    headless = keras_preact.build_network(SPEC, include_top=False, input_shape=(8, 8, 1))
    for trained in (source, headless):
        network = new_head(trained, SPEC, DATA, "float32")
        assert moved(arrays(trained), arrays(network)) == set()
        assert network.output_shape == (None, 3)
        assert not np.any(network.get_layer("predictions").get_weights()[0])


def test_the_recipe_follows_the_size_of_the_data():
    rows = {count: keras_preact.recipe_for(count) for count in (1, 25, 19_999, 20_000, 499_999, 500_000)}
    assert [recipe.steps for recipe in rows.values()] == [500, 500, 500, 10_000, 10_000, 20_000]
    assert [recipe.global_batch_size for recipe in rows.values()] == [1, 16, 64, 64, 64, 64]
    assert [recipe.mixup for recipe in rows.values()] == [0.0, 0.0, 0.0, 0.1, 0.1, 0.1]
    assert {(recipe.learning_rate, recipe.weight_decay) for recipe in rows.values()} == {(0.03, 0.0)}
    assert rows[25].drops == (200, 300, 400)
    assert rows[500_000].drops == (6_000, 12_000, 18_000)  # as bit_hyperrule.py has it
    short = keras_preact.recipe_for(25, steps=50)
    assert (short.steps, short.warmup_steps, short.drops) == (50, 2, (20, 30, 40))


def test_few_images_are_repeated_within_an_epoch(caplog):
    caplog.set_level("INFO", "keras_preact")
    recipe = Recipe(steps=100, global_batch_size=8)
    often = repeated(DATA, recipe)
    assert len(often.train) == 2 * len(DATA.train)  # ten epochs of ten steps, or eight images
    np.testing.assert_array_equal(np.bincount(often.train.labels), 2 * np.bincount(DATA.train.labels))
    assert "40 training images 2 times" in caplog.text
    assert repeated(DATA, Recipe(epochs=3)) is DATA
    assert repeated(DATA, Recipe(steps=100, global_batch_size=8, early_stopping=3, validation_images=1)) is DATA
    odd = repeated(DATA, Recipe(steps=505, global_batch_size=39))  # an epoch leaves out what fills no batch
    assert math.ceil(505 / (len(odd.train) // 39)) <= 10


def test_sources_say_what_they_are(run, source):
    by_folder, by_file, by_model = (find_source(what) for what in (run, run / "model.keras", source))
    assert by_folder.digest == by_file.digest != by_model.digest
    assert by_folder.preprocessing.mean == pytest.approx(DATA.mean)
    assert by_file.preprocessing == by_folder.preprocessing
    assert (by_file.classes, by_folder.is_run, by_file.is_run) == (by_folder.classes, True, False)
    assert by_model.digest == find_source(keras_preact.relayout(source, "layers")).digest
    by_card = find_source("resnet164.digits.digits")
    assert (by_card.channels, len(by_card.preprocessing.mean), by_card.spec.depth) == (1, 1, 164)
    by_kept_folder = find_source(TRAINED / "resnet164.digits.digits")
    assert (by_kept_folder.digest, by_kept_folder.preprocessing) == (by_card.digest, by_card.preprocessing)
    assert {one.spec.units for one in (by_folder, by_file, by_model)} == {(3, 1)}


def test_weights_that_are_none_are_refused(run, tmp_path):
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.save(tmp_path / "plain.keras")
    plain.save_weights(tmp_path / "plain.weights.h5")
    (tmp_path / "cut.keras").write_bytes((run / "model.keras").read_bytes()[:-1000])
    (tmp_path / "no.txt").write_text("no")
    (tmp_path / "empty").mkdir()
    for weights, message in {
        tmp_path / "none.keras": "weights.*none.keras.*no such file",
        "digits": "weights.*no such file. Nearest: resnet164.digits.digits",
        "ResNet164.digit": "weights.*Nearest: resnet164.digits.digits",
        tmp_path / "no.txt": r"weights.*\.keras file.*no.txt",
        tmp_path / "empty": "folder of a finished run.*empty",
        tmp_path / "plain.keras": "weights.*holds a model of class 'Sequential'",
        tmp_path / "plain.weights.h5": "weights.*whole .weights.h5 file.*plain",
        tmp_path / "cut.keras": "weights.*whole .keras file.*cut.keras",
        None: "weights.*NoneType",
    }.items():
        with pytest.raises(ValueError, match=message):
            keras_preact.finetune(weights, DATA, output=tmp_path / "run")
    with pytest.raises(ValueError, match=r"weights.*Sequential"):
        keras_preact.finetune(plain, DATA, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


ONE_CLASS = from_arrays(*(np.zeros_like(part) if part.ndim == 1 else part for part in images(9) + images(9)))
COLOURED = from_arrays(*(np.repeat(part, 3, -1) if part.ndim == 4 else part for part in images(9) + images(9)))
SMALL = from_arrays(*(part[:, :4, :4] if part.ndim == 4 else part for part in images(9) + images(9)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": "stage3"}, r'freeze.*"stem", "stage1", "stage2", "trunk".*Nearest: "stage'),
        ({"freeze": ("stem", "head")}, r'freeze.*"trunk".*head'),
        ({"freeze": 1}, "freeze.*of stem, stage1"),
        ({"bn": "frozen"}, r'bn.*"inference", "reestimate", "train"'),
        ({"layer_decay": 1.5}, r"layer_decay.*\[0, 1\]"),
        ({"unfreeze_every": -1}, "unfreeze_every.*at least 0"),
        ({"unfreeze_every": 200}, "unfreeze_every.*3 stages.*500 steps.*Nearest: 166"),
        ({"layer_decay": 0.5, "weight_decay_kind": "decoupled"}, "weight_decay_kind.*layer_decay"),
        ({"learning_rat": 0.1}, '`learning_rat` must be left out, as finetune.*Nearest: "learning_rate"'),
        ({"layer_decai": 0.1}, '`layer_decai`.*Nearest: "layer_decay"'),
        ({"verbos": 0}, '`verbos`.*Nearest: "verbose"'),
        ({"recipe": "paper_cifar", "epochs": 3}, "`epochs` must be left out.*64,000 steps.*Pass steps"),
        ({"recipe": "digit"}, 'recipe.*Nearest: "digits"'),
        ({"recipe": 3}, "recipe.*3"),
        ({"global_batch_size": 41, "recipe": "digits"}, "global_batch_size.*40 training images"),
        ({"global_batch_size": 41}, "global_batch_size.*40 training images.*Received: global_batch_size=41"),
        ({"global_batch_size": 41, "epochs": 2}, "global_batch_size.*40 training images"),
        ({"global_batch_size": 400, "steps": 1}, "global_batch_size.*40 training images"),
        ({"epochs": 0}, "epochs.*at least 1"),
        ({"epochs": 2, "steps": 2}, "`epochs` must be left out with 2 steps"),
        ({"epochs": 8, "unfreeze_every": 3}, "unfreeze_every.*3 stages.*within 8 epochs.*=3. Nearest: 2"),
        ({"validation_images": 40}, "`validation_images` must be below the 40 training images"),
        ({"recipe": "digits", "levels": ((8, 8, 1), (14, 0, 1)), "epochs": 2}, "`levels` must be of the trained"),
        (
            {"callbacks": [keras.callbacks.EarlyStopping()]},
            "`callbacks` must be .*none that decides by the test images",
        ),
        ({"data": "digits", "skip_corrupt": "no"}, "`skip_corrupt` must be True or False"),
        ({"data": ONE_CLASS}, "data.*two classes"),
        ({"data": SMALL}, "input_shape.*8x8"),
    ],
)
def test_wrong_input_writes_nothing(source, fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        keras_preact.finetune(source, **{"data": DATA, **fields}, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_other_channels_get_a_fitted_kernel_and_their_own_normalisation(run, source, monkeypatch, caplog):
    caplog.set_level("INFO", "keras_preact")
    monkeypatch.setattr(finetuning, "carry_out", lambda experiment, data, kind, options: data)
    assert keras_preact.finetune(run, COLOURED).mean == COLOURED.mean
    assert keras_preact.finetune(run, DATA).mean == find_source(run).preprocessing.mean
    network = new_head(source, source.spec, COLOURED, "float32")
    before, after = arrays(source), arrays(network)
    kernel = "stem_conv/kernel"
    np.testing.assert_allclose(after.pop(kernel), np.repeat(before.pop(kernel), 3, axis=2) / 3, rtol=1e-6)
    assert "stem_conv reads 3 channels instead of 1: repeated, and multiplied by 1/3." in caplog.text
    assert not moved(before, after)
    grey = dataclasses.replace(DATA, name="grey")
    back = arrays(new_head(network, source.spec, grey, "float32"))
    np.testing.assert_allclose(back[kernel], arrays(source)[kernel], rtol=1e-6)
    normed = source.spec.replace(stem={"width": 4, "input_norm": "center"})
    trained = keras_preact.build_network(normed, input_shape=(8, 8, 1), num_classes=3)
    with pytest.raises(ValueError, match=r"weights.*for images of as many channels, as stem_\w+ has arrays of shape"):
        new_head(trained, normed, COLOURED, "float32")


def test_an_empty_folder_is_refused(source, tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"data.*folder of folders"):
        keras_preact.finetune(source, tmp_path / "photos", output=tmp_path / "run")
    (tmp_path / "photos" / "cats").mkdir()
    with pytest.raises(ValueError, match=r"data.*a folder of folders.*with images in them"):
        keras_preact.finetune(source, tmp_path / "photos", output=tmp_path / "run")
