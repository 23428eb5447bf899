"""Recipes, data sets, converters and weights of one's own stand beside the package's, by name, everywhere."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact import cli
from keras_preact.data import DATA_SETS, from_arrays, load
from keras_preact.network.named_weights import named_weights
from keras_preact.training.recipes import RECIPES
from keras_preact.weights.converters import CONVERTERS

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(256, size=(45, 8, 8, 3), dtype=np.uint8), np.arange(45) % 3
RECIPE = keras_preact.Recipe(source="a test's", epochs=1, global_batch_size=10, learning_rate=0.01)
SPEC = keras_preact.NetworkSpec((1, 1), (4, 6), "basic", stem={"width": 4})

pytestmark = [
    pytest.mark.usefixtures("registries"),
    pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly"),
]


@pytest.fixture
def quick():
    """Runs compile nothing, which takes longer than all the rest of them."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def images():
    return from_arrays(IMAGES[:30], LABELS[:30], IMAGES[30:], LABELS[30:])


def test_a_recipe_and_a_data_set_have_names_in_train_evaluate_and_sweeps(tmp_path, quick):
    keras_preact.register_recipe("mine", RECIPE)
    keras_preact.register_data("my_images", images)
    how = {"strategy": "none", "verbose": 0}
    card = keras_preact.train("ResNet8", recipe="mine", data="my_images", seed=1, output=tmp_path / "run", **how)
    assert (card["recipe"]["name"], card["data"]) == ("mine", "my_images")
    assert keras_preact.evaluate(tmp_path / "run")["error_percent"] == card["error_percent"]
    rows = keras_preact.sweep(
        {"nesterov": [True]},
        model="ResNet8",
        data="my_images",
        recipe="mine",
        seeds=1,
        output=tmp_path / "sweep",
        strategy="none",
    )
    assert [row["nesterov"] for row in rows] == [True]
    (trial,) = (tmp_path / "sweep").glob("nesterov=*.json")
    assert json.loads(trial.read_text())["data"] == "my_images"


def test_a_data_set_is_given_what_its_function_takes(tmp_path):
    asked = []

    def sized(data_dir=None, image_size=None):
        asked.append((data_dir, image_size))
        return images()

    keras_preact.register_data("sized", sized)
    keras_preact.register_data("plain", images)
    assert (load("sized", tmp_path, image_size=8).name, asked) == ("sized", [(tmp_path, 8)])
    assert load("plain").name == "plain"
    run, recipe = tmp_path / "run", RECIPE.replace(steps=1)
    corrupt = dict(strategy="none", skip_corrupt=True, verbose=0, checkpoint_steps=0)
    keras_preact.train("ResNet8", data="digits", recipe=recipe, output=run, **corrupt)  # whose loader takes the flag
    with pytest.raises(ValueError, match=r"`data` must be of 10 classes"):  # and not that the flag must be left out
        keras_preact.evaluate(run, "plain")
    for arguments in ({"data_dir": tmp_path}, {"image_size": 8}, {"skip_corrupt": True}):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be left out for plain, whose function"):
            load("plain", **arguments)


def test_weights_of_another_author_are_read_by_a_converter_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    expected = keras_preact.build_network(SPEC, input_shape=(8, 8, 3), num_classes=3, layout="layers")
    theirs = {}
    for name, (variable, _) in named_weights(expected).items():
        array = np.asarray(variable)
        theirs[f"net.{name.replace('/', '.')}"] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    np.savez(tmp_path / "theirs.npz", step=np.float32(7), **theirs)

    def our_name(name, spec):
        return "/".join(name.split(".")[1:]) if name.startswith("net.") else None

    def our_array(array, rank):
        return array.transpose(2, 3, 1, 0) if rank == 4 else array

    keras_preact.register_converter("torch_like", np.load, our_name, our_array)
    known = dict(
        spec=SPEC,
        preprocessing=keras_preact.Preprocessing((8, 8), (127.5,) * 3, (60.0,) * 3),
        classes=("ant", "bee", "cat"),
        error_percent=12.5,
        converter="torch_like",
    )
    name = f"resnet{SPEC.depth}.insects.theirs"
    card = keras_preact.register_weights(name, path=tmp_path / "theirs.npz", **known)
    assert keras_preact.list_weights(f"resnet{SPEC.depth}") == [name]
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    for layout in ("stacked", "layers"):
        network = keras_preact.build_network(SPEC, weights=name, layout=layout)
        assert network.card == card
        np.testing.assert_allclose(network(x), expected(x), atol=1e-6)
    assert keras_preact.register_weights(name, path=tmp_path / "theirs.npz", **known) == card
    numbers = {**known, "classes": np.arange(3), "error_percent": np.float32(12.5)}
    numbered = keras_preact.register_weights(f"{name}_numbered", path=tmp_path / "theirs.npz", **numbers)
    assert (numbered.classes, type(numbered.error_percent)) == (("0", "1", "2"), float)
    keras_preact.build_network(SPEC, weights=numbered.name).save(tmp_path / "numbered.keras")
    assert keras.models.load_model(tmp_path / "numbered.keras").card.classes == numbered.classes
    with pytest.raises(ValueError, match="`name` must be one that no other weights have"):
        keras_preact.register_weights(name, path=tmp_path / "theirs.npz", **{**known, "error_percent": 1.0})
    with pytest.raises(ValueError, match=rf"`name` must be resnet{SPEC.depth}\.<data set>\.<recipe>"):
        keras_preact.register_weights("resnet9.insects.theirs", path=tmp_path / "theirs.npz", **known)
    with pytest.raises(ValueError, match="`digest, megabytes` must be given with url"):
        keras_preact.register_weights(name, url="https://a.test/theirs.npz", megabytes=1.0, **known)
    np.savez(tmp_path / "short.npz", **{name: array for name, array in theirs.items() if "predictions" not in name})
    short = keras_preact.register_weights(f"{name}_short", path=tmp_path / "short.npz", **known)
    with pytest.raises(ValueError, match=r"weights.*whole file of torch_like's.*lacks predictions/"):
        keras_preact.build_network(SPEC, weights=short.name)


def weights(**changes):
    """Registers weights, which are not read yet."""
    how = keras_preact.Preprocessing((8, 8), (127.5,) * 3, (60.0,) * 3)
    known = dict(spec=SPEC, preprocessing=how, classes=("ant", "bee"), error_percent=1.0, path=__file__)
    return keras_preact.register_weights(f"resnet{SPEC.depth}.insects.mine", **{**known, **changes})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_preact.register_recipe("Mine", RECIPE), "name.*small letters"),
        (lambda: keras_preact.register_recipe("digits", RECIPE), "name.*no other recipe has"),
        (lambda: keras_preact.register_recipe("mine", {"epochs": 1}), "recipe.*a Recipe"),
        (lambda: keras_preact.register_recipe("mine", keras_preact.Recipe()), "source.*where the recipe is"),
        (
            lambda: keras_preact.register_recipe("mine", RECIPES["digits"].replace(epochs=9)),
            "source.*no other recipe says it",
        ),
        (lambda: keras_preact.register_data("digits", images), "name.*no other data set has"),
        (lambda: keras_preact.register_data("mine", images()), "function.*returns a DataSet"),
        (lambda: keras_preact.register_data("mine", lambda path: images()), "function.*no other arguments.*path"),
        (lambda: keras_preact.register_converter("timm", np.load, str.lower), "name.*no other converter has"),
        (lambda: keras_preact.register_converter("mine", "npz", str.lower), "read.*a function"),
        (lambda: weights(converter="nope"), "`converter` must be one of"),
        (lambda: weights(preprocessing=None), "`preprocessing` must be a Preprocessing"),
        (lambda: weights(path=__file__), r"`path, url` must be a \.weights\.h5 file, without a converter"),
    ],
)
def test_what_cannot_be_registered_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert "mine" not in {*RECIPES, *DATA_SETS, *CONVERTERS}
    assert not [name for name in keras_preact.list_weights() if name.endswith(".mine")]


def test_what_is_registered_again_by_the_same_lines_is_replaced():
    for count in (3, 6):

        def again(count=count):
            return from_arrays(IMAGES[:count], LABELS[:count], IMAGES[:count], LABELS[:count])

        keras_preact.register_data("again", again)
        assert len(load("again").train) == count
    keras_preact.register_data("no_data", lambda: [])
    with pytest.raises(ValueError, match=r"`data` must be the name of a function that returns a DataSet.*list"):
        load("no_data")


MODULE = """
import keras_preact

keras_preact.register_recipe("mine", keras_preact.Recipe(source="a test's", epochs=3))
keras_preact.register_data("my_digits", lambda: keras_preact.load("digits"))
keras_preact.register_ordering("mine_first", lead="RB")
"""


def test_the_command_line_imports_a_module_of_ones_own(tmp_path):
    (tmp_path / "own_rows.py").write_text(MODULE)
    command = [sys.executable, "-m", "keras_preact", "--import", "own_rows"]
    done = subprocess.run([*command, "list"], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{[*RECIPES][-1]}, mine\n" in done.stdout
    assert "mine_first" in done.stdout


def test_workers_import_what_their_launcher_did(tmp_path):
    (tmp_path / "own_rows.py").write_text(MODULE)
    command = [sys.executable, "-m", "keras_preact", "--import", "own_rows", "launch", "--workers", "1"]
    command += ["--", "train", "ResNet8", "--recipe", "mine", "--epochs", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert "`epochs` must be" in done.stderr  # the recipe is known: it takes this field to refuse the command
    assert done.returncode == 2
    assert "starting the job again" not in done.stderr  # it would be refused again


def test_what_cannot_be_imported_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "wrong.py").write_text("import keras_preact\nkeras_preact.register_recipe('digits', 7)\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    for arguments, message in (
        (["--import", "nothing_of_this_name", "list"], "`import` must be a module that can be imported"),
        (["--import"], "`import` must be the name of a module"),
        ([f"--import={tmp_path / 'wrong.py'}", "list"], "`recipe` must be a Recipe"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
