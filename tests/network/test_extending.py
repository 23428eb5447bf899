"""Orderings, shortcuts and kinds of units of one's own stand beside the paper's, by name, everywhere."""

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.data import from_arrays
from keras_preact.laboratory.sweep import sweep
from keras_preact.network.environment import ConvSpec
from keras_preact.network.shapes import folded_bns, unit_operations
from keras_preact.network.shortcuts import SHORTCUTS
from keras_preact.network.unit_spec import ORDERINGS, UNIT_KINDS

RNG = np.random.default_rng(0)


def leaky(env, shortcut, branch, unit):
    """Adds a share of relu(x) to x."""
    share = env.affine(env.relu(shortcut, "own_relu"), "own_share", unit.shortcut.share, 0.0)
    return env.add(shortcut, share, "own_add"), branch


def doubled(env, shortcut, branch, unit):
    return shortcut, env.affine(branch, "doubled", 2.0, 0.0)


@pytest.fixture(autouse=True)
def registered(registries):
    """Registers one of each."""
    keras_preact.register_ordering("own_order", lead="RB")
    keras_preact.register_unit("own_unit", kernels=(3, 1), expansion=2)
    keras_preact.register_shortcut("own_shortcut", leaky, {"share": 0.1})


def own_spec(**fields):
    own = {"unit": "own_unit", "ordering": "own_order", "shortcut": "own_shortcut"}
    return keras_preact.NetworkSpec((1, 7), (4, 4), **{**own, **fields}, stem={"width": 8})


def images():
    return RNG.normal(size=(4, 8, 8, 3))


def test_both_layouts_and_files_know_them(tmp_path, float64):
    spec = own_spec(shortcut=keras_preact.ShortcutSpec("own_shortcut", share=0.3))
    assert spec.shortcut.share == 0.3
    model, x = keras_preact.build_network(spec, input_shape=(8, 8, 3), layout="stacked"), images()
    layered = keras_preact.relayout(model, "layers")
    np.testing.assert_allclose(layered(x, training=True), model(x, training=True), rtol=0, atol=1e-9)
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    assert again.spec == spec
    np.testing.assert_allclose(again(x), model(x), rtol=0, atol=1e-12)
    model.save_weights(tmp_path / "own.weights.h5")
    read = keras_preact.build_network(spec, input_shape=(8, 8, 3), weights=tmp_path / "own.weights.h5", layout="layers")
    np.testing.assert_allclose(read(x), model(x), rtol=0, atol=1e-10)


def test_a_file_of_a_shortcut_that_is_not_registered_says_so(tmp_path):
    spec = keras_preact.NetworkSpec((1,), (4,), "basic", shortcut="own_shortcut", stem={"width": 4})
    keras_preact.build_network(spec, input_shape=(8, 8, 3)).save(tmp_path / "own.keras")
    del SHORTCUTS["own_shortcut"]
    with pytest.raises(ValueError, match=r"shortcut.*own_shortcut.*once the file that registers it has been imported"):
        keras.models.load_model(tmp_path / "own.keras")


def test_a_bn_is_folded_into_the_convolution_that_it_reads():
    def apart(env, shortcut, branch, unit):
        conv = env.conv(branch, "apart_conv", ConvSpec(unit.out_width, 1))
        return env.batch_norm(shortcut, "apart_bn"), env.add(branch, conv, "apart_add")

    keras_preact.register_shortcut("apart", apart)
    unit = own_spec(shortcut="apart").stages[1][-1]
    assert "apart_bn" not in folded_bns(unit_operations(unit))


def test_what_they_compute_is_what_they_say(float64):
    share = 0.25
    spec = own_spec(shortcut=keras_preact.ShortcutSpec("own_shortcut", share=share))
    model = keras_preact.build_network(spec, input_shape=(8, 8, 3), layout="layers")
    names = [f"stage2_unit03_{name}" for name in ("relu1", "bn1", "conv1", "add", "own_add")]
    layers = [model.get_layer(name) for name in names]
    assert layers[1].input is layers[0].output  # ReLU, then BN, then the convolution
    assert layers[2].input is layers[1].output
    before = model.get_layer("stage2_unit02_add").output
    x, carried = keras.Model(model.input, [before, layers[4].output])(images())
    np.testing.assert_allclose(carried, x + share * np.maximum(x, 0), rtol=1e-12)


def test_networks_of_a_family_sweeps_and_analyze_take_them_by_name(tmp_path, eager):
    model = keras_preact.ResNet(11, input_shape=(16, 16, 3), shortcut="own_shortcut", ordering="own_order")
    assert model.spec.shortcut.share == 0.1
    result = keras_preact.analyze(model, RNG.normal(size=(4, 16, 16, 3)).astype("float32"), np.arange(4))
    assert result.shortcut == "own_shortcut"
    assert np.isfinite(result.gradient_norm).all()
    pictures, labels = RNG.integers(256, size=(45, 16, 16, 3)).astype("uint8"), np.arange(45) % 3
    data = from_arrays(pictures[:30], labels[:30], pictures[30:], labels[30:])
    recipe = keras_preact.Recipe(epochs=1, global_batch_size=8, learning_rate=0.001, source="a test's")
    over = {"shortcut": ["identity", "own_shortcut"]}
    sweep(over, model="ResNet8", data=data, recipe=recipe, output=tmp_path / "sweep", strategy="none")
    rows = next((tmp_path / "sweep").glob("*.csv")).read_text()
    assert "own_shortcut" in rows


def test_deepen_asks_whether_a_shortcut_keeps_the_identity(float64):
    keras_preact.register_shortcut("kept", doubled, identity=True)
    model, x = keras_preact.build_network(own_spec(shortcut="kept"), input_shape=(8, 8, 3)), images()
    np.testing.assert_allclose(keras_preact.deepen(model, units=(2, 9))(x), model(x), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match=r"shortcut.*registered without identity=True"):
        keras_preact.deepen(keras_preact.build_network(own_spec(), input_shape=(8, 8, 3)), units=(2, 9))


def test_the_same_may_be_registered_again_and_nothing_else_under_its_name():
    keras_preact.register_shortcut("own_shortcut", leaky, {"share": 0.1})
    keras_preact.register_ordering("own_order", lead="RB")
    with pytest.raises(ValueError, match=r"name.*no other shortcut has"):
        keras_preact.register_shortcut("own_shortcut", doubled)
    with pytest.raises(ValueError, match=r"name.*no other ordering has"):
        keras_preact.register_ordering("original", lead="RB")
    with pytest.raises(ValueError, match=r"name.*no other unit has"):
        keras_preact.register_unit("basic", kernels=(3,))


def narrowed(env, shortcut, branch, unit):
    from keras_preact.network.environment import ConvSpec

    return env.conv(shortcut, "narrow", ConvSpec(1, 1)), branch


def without_beta(env, shortcut, branch, unit):
    """Uses what is for networks, not for units: in stacked units there is no such operation."""
    return env.batch_norm(shortcut, "own_bn", center=False), branch


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: keras_preact.register_ordering("Mine", lead="BR"), r"name.*small letters"),
        (lambda: keras_preact.register_ordering("mine", lead="B"), "exactly one B and one R"),
        (lambda: keras_preact.register_unit("mine", kernels=(2,)), r"kernels.*odd.*Nearest to 2: 3"),
        (lambda: keras_preact.register_shortcut("mine", "leaky"), "function.*a function"),
        (lambda: keras_preact.register_shortcut("mine", leaky), r"function.*share"),
        (lambda: keras_preact.register_shortcut("mine", narrowed), "function"),
        (lambda: keras_preact.register_shortcut("mine", without_beta), "function.*unexpected keyword"),
        (lambda: keras_preact.register_shortcut("mine", leaky, {"lambda": 1.0}), "parameters.*name: default"),
        (lambda: keras_preact.register_shortcut("mine", leaky, {"name": 1.0}), "parameters.*name: default"),
    ],
)
def test_what_cannot_be_registered_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert "mine" not in {*ORDERINGS, *SHORTCUTS, *UNIT_KINDS}
