"""Files and copies of models: what is written reads back exactly, and what does not fit changes nothing."""

import os
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_preact
from keras_preact.network.model import ResidualNetwork
from keras_preact.training.evaluation import evaluation_metrics
from keras_preact.training.sgd import RecipeSGD
from keras_preact.training.training_model import Crossentropy

SPEC = keras_preact.NetworkSpec((1, 5), (4, 6), stem={"width": 4})
RELOAD = """
import sys
import numpy as np
import keras_preact
import keras
print(keras.models.load_model(sys.argv[1] + "/run.keras").optimizer.l2)
for layout in ("stacked", "layers"):
    folder = sys.argv[1] + "/" + layout
    images = np.load(folder + "/images.npy")
    model = keras.models.load_model(folder + "/model.keras")
    np.save(folder + "/reloaded.npy", model(images))
    other = keras_preact.build_network(model.spec, input_shape=(8, 8, 3), layout=layout)
    other.load_weights(folder + "/model.weights.h5")
    np.save(folder + "/weights.npy", other(images))
    np.savez(folder + "/arrays.npz", *model.get_weights())
    assert all(np.array_equal(one, two) for one, two in zip(model.get_weights(), other.get_weights(), strict=True))
"""


def images(count=5):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 3)).astype("float32")


def build(layout="stacked", spec=SPEC, **arguments):
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), layout=layout, **arguments)


def trained(layout="stacked", **arguments):
    keras.utils.set_random_seed(0)
    model = build(layout, **arguments)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images(), np.arange(5))
    return model


def test_files_reload_exactly_in_a_process_that_imports_only_keras_preact(tmp_path):
    """So do those of what a run compiles with."""
    compiled, models = build(), {}
    compiled.compile(RecipeSGD(0.05, momentum=0.9, l2=1e-4), Crossentropy(10), weighted_metrics=evaluation_metrics())
    compiled.save(tmp_path / "run.keras")
    for layout in ("stacked", "layers"):
        model, folder = trained(layout), tmp_path / layout
        folder.mkdir()
        np.save(folder / "images.npy", images())
        model.save(folder / "model.keras")
        model.save_weights(folder / "model.weights.h5")
        models[folder] = model
    command = [sys.executable, "-c", RELOAD, str(tmp_path)]
    done = subprocess.run(command, check=True, env=os.environ, capture_output=True, text=True)
    assert done.stdout.split() == ["0.0001"]
    for folder, model in models.items():
        expected = model(images())
        # Weights to the bit; outputs to float32 rounding, since threads share the work differently from run to run.
        with np.load(folder / "arrays.npz") as arrays:
            assert all(np.array_equal(one, arrays[f"arr_{number}"]) for number, one in enumerate(model.get_weights()))
        np.testing.assert_allclose(np.load(folder / "reloaded.npy"), expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.load(folder / "weights.npy"), expected, rtol=0, atol=1e-6)
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_one_weights_file_serves_both_layouts_and_every_unroll(tmp_path):
    model = trained("layers")
    model.save_weights(tmp_path / "a.weights.h5")
    expected = model(images())
    for arguments in ({"layout": "layers"}, {"unroll": 3}, {"unroll": "all"}, {"remat": True}):
        other = build(**arguments)
        other.load_weights(tmp_path / "a.weights.h5")
        np.testing.assert_allclose(other(images()), expected, atol=1e-5)
        other.save_weights(tmp_path / "c.weights.h5")
        assert arrays(tmp_path / "c.weights.h5") == arrays(tmp_path / "a.weights.h5")
    assert len(arrays(tmp_path / "a.weights.h5")) < 80


def arrays(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()].tobytes()} if hasattr(item, "shape") else {}))
    return {name: value for name, value in found.items() if not name.startswith("optimizer")}


def test_builders_take_a_weights_file(tmp_path):
    model = trained()
    model.save_weights(tmp_path / "model.weights.h5")
    other = build(weights=str(tmp_path / "model.weights.h5"))
    np.testing.assert_allclose(other(images()), model(images()), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"units": (1, 6)}, r"units: file \[1, 5\], model \[1, 6\]"),
        ({"widths": (4, 8)}, r"widths: file \[4, 6\], model \[4, 8\]"),
        ({"ordering": "relu_only_preactivation"}, "ordering: file 'preactivation', model 'relu_only_preactivation'"),
        ({"shortcut": "exclusive_gating"}, "shortcut: file .*identity.*model .*exclusive_gating"),
    ],
)
@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_a_file_of_another_network_is_refused_and_names_both_sides(layout, fields, message, tmp_path):
    trained().save_weights(tmp_path / "model.weights.h5")
    other = build(layout, SPEC.replace(**fields))
    before = other.get_weights()
    with pytest.raises(ValueError, match=message):
        other.load_weights(tmp_path / "model.weights.h5")
    assert all(np.array_equal(one, two) for one, two in zip(before, other.get_weights()))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97, 0.999])
def test_a_file_half_written_changes_nothing(share, tmp_path):
    path = tmp_path / "model.weights.h5"
    trained().save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match="filepath"):
        model.load_weights(path)
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights()))


def test_a_file_without_our_mark_is_refused_by_its_shapes_and_changes_nothing(tmp_path):
    path = tmp_path / "model.weights.h5"
    trained().save_weights(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["keras_preact_network"]
    model = build(spec=SPEC.replace(units=(2, 11)))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"filepath.*whole weights file of this network"):
        model.load_weights(path)
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights()))


@pytest.mark.parametrize("layout", ["stacked", "layers"])
@pytest.mark.parametrize("marks", [True, False], ids=["marked", "plain"])
@pytest.mark.parametrize(
    ("array", "change", "message"),
    [
        ("residual_units/vars/0", None, r"stage1_unit01/conv1_kernel \(layers/residual_units/vars/0\) is missing"),
        (
            "dense/vars/1",
            (3,),
            r"predictions/bias \(layers/dense/vars/1\) has shape \(3,\), where the network has \(10,\)",
        ),
    ],
    ids=["missing", "misshapen"],
)
def test_an_array_that_is_missing_or_of_another_shape_is_named_in_a_sentence(
    array, change, message, marks, layout, tmp_path
):
    path = tmp_path / "model.weights.h5"
    trained().save_weights(path)
    with h5py.File(path, "r+") as file:
        del file[f"layers/{array}"]
        if change is not None:
            file[f"layers/{array}"] = np.zeros(change, "float32")
        for mark in () if marks else list(file.attrs):
            del file.attrs[mark]
    model = build(layout)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message) as caught:
        model.load_weights(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))  # Keras prints the array's values
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize("mark", ["{", "5", "[]", '{"channels": 3}', 7])
def test_a_mark_that_is_none_is_refused(mark, tmp_path):
    path = tmp_path / "model.weights.h5"
    trained().save_weights(path)
    with h5py.File(path, "r+") as file:
        file.attrs["keras_preact_network"] = mark
    with pytest.raises(ValueError, match=r"filepath.*whole .weights.h5 file"):
        build(weights=path)


def test_wrong_paths_are_refused(tmp_path):
    model = build()
    with pytest.raises(ValueError, match=r"ends in .weights.h5"):
        model.save_weights(tmp_path / "model.h5")
    with pytest.raises(ValueError, match=r"existing .weights.h5 file"):
        model.load_weights(tmp_path / "none.weights.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="overwrite"):
        model.save_weights(tmp_path / "model.weights.h5", overwrite=False)


@pytest.mark.parametrize(
    "optimizer",
    [keras.optimizers.SGD(0.05, momentum=0.9), keras.optimizers.AdamW(0.01), keras.optimizers.SGD(0.05, use_ema=True)],
    ids=["momentum", "adamw", "ema"],
)
@pytest.mark.parametrize("layouts", [("layers", "stacked"), ("stacked", "layers")], ids=str)
def test_training_goes_on_in_the_other_layout(layouts, optimizer):
    first, second = layouts
    keras.utils.set_random_seed(0)
    model = build(first, dtype="float64")
    model.compile(optimizer.from_config(optimizer.get_config()), "sparse_categorical_crossentropy", run_eagerly=True)
    labels = np.arange(5)
    for _ in range(2):
        model.train_on_batch(images(), labels)
    other = keras_preact.relayout(model, second)
    model.train_on_batch(images(), labels), other.train_on_batch(images(), labels)
    np.testing.assert_allclose(other(images()), model(images()), rtol=0, atol=1e-6)
    assert int(other.optimizer.iterations) == 3


def test_a_cpu_has_no_xla_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda *kind: [])
    model = build()
    model.compile("sgd", "mean_squared_error")
    assert model.jit_compile is False
    assert model.get_compile_config()["jit_compile"] == "auto"  # a file may be read where there is one
    model.compile("sgd", "mean_squared_error", jit_compile=True)
    assert model.jit_compile is True


@pytest.mark.parametrize(("layout", "train"), [("stacked", "fit"), ("layers", "train_on_batch")])
def test_a_step_is_traced_once(layout, train):
    """Keras makes the variables of optimizer and metrics within it, for which TensorFlow traces a function again."""

    class Counting(ResidualNetwork):
        calls = 0

        def call(self, *args, **kwargs):
            type(self).calls += 1
            return super().call(*args, **kwargs)

    model = build(layout, keras_preact.NetworkSpec((1,), (4,), stem={"width": 4}), num_classes=5)
    model.__class__ = Counting
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    getattr(model, train)(images(), np.arange(5))
    assert Counting.calls == 1
    model.compile(None, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    found = model.evaluate(images(), np.arange(5), return_dict=True, verbose=0)
    assert Counting.calls == 2
    answers = model(images()).numpy().argmax(-1)
    assert found["accuracy"] == pytest.approx(np.mean(answers == np.arange(5)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_without_weights_in_float32_is_refused(dtype):
    with pytest.raises(ValueError, match=f'dtype.*"mixed_{dtype}", whose weights and probabilities are float32'):
        build(dtype=dtype)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("layout", ["stacked", "layers"])
def test_mixed_precision_keeps_logits_and_weights_in_float32(dtype, layout):
    model = trained(layout, dtype=dtype)
    assert model.get_layer("predictions").compute_dtype == "float32"
    assert model.get_layer("stem_conv").compute_dtype == dtype.removeprefix("mixed_")
    assert {variable.dtype for variable in model.weights} == {"float32"}
    predicted = model(images())
    assert predicted.dtype == "float32"
    exact = build(layout)
    exact.set_weights(model.get_weights())
    np.testing.assert_allclose(predicted, exact(images()), atol=0.05)


@pytest.mark.filterwarnings("ignore:.*The structure of `inputs` doesn't match")  # Keras 3.10, of a part
def test_a_clone_and_a_part_are_models_too(tmp_path):
    model = trained()
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_allclose(clone(images()), model(images()), atol=1e-6)
    new = build()
    new.compile("sgd", "mean_squared_error")
    model.layers[2].trainable = False
    for compiled in (model, new):  # whose optimizers have state of other weights than the trainable ones
        assert keras.models.clone_model(compiled).compiled
    part = keras.Model(model.input, model.get_layer("stage2_units02_05").output)
    part.save(tmp_path / "part.keras")
    again = keras.models.load_model(tmp_path / "part.keras")
    np.testing.assert_allclose(part(images()), again(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "looped"}, "layout.*stacked.*looped"),
        ({"layout": "stacked", "unroll": 0}, "unroll.*at least 1.*0"),
        ({"layout": "stacked", "remat": 1.5}, "remat.*whole number.*1.5"),
        ({"layout": "layers", "remat": True}, 'remat.*left out with layout="layers".*True'),
    ],
)
def test_a_wrong_relayout_is_refused(arguments, message):
    model = build()
    with pytest.raises(ValueError, match=message):
        keras_preact.relayout(model, **arguments)
    with pytest.raises(ValueError, match=r"model.*keras_preact built.*Sequential"):
        keras_preact.relayout(keras.Sequential([]), "layers")


def test_a_frozen_run_of_units_stays_as_it_is():
    model = build()
    layer = model.get_layer("stage2_units02_05")
    layer.trainable = False
    before = [keras.ops.convert_to_numpy(variable.value) for variable in layer.variables]
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(images(), np.arange(5))
    assert all(np.array_equal(one, two.value) for one, two in zip(before, layer.variables))
    assert keras_preact.relayout(model, "layers").get_layer("stage2_unit05_conv1").trainable is False
    layered = build("layers")
    layered.get_layer("stage2_unit05_conv1").trainable = False
    with pytest.raises(ValueError, match="stage2_units02_05 are frozen in part"):
        keras_preact.relayout(layered, "stacked")
