"""What a `.keras` or `.weights.h5` file keeps of a network beside its constructor's arguments."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Preprocessing, export
from keras_preact.weights import cards

IMAGES, LABELS = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype("float32"), np.arange(5)
LAYOUTS = ("stacked", "layers")
ignore_quantize = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


def build(layout="stacked", **options):
    keras.utils.set_random_seed(0)
    spec = keras_preact.NetworkSpec((2, 2), (4, 6), stem={"width": 4})
    return keras_preact.build_network(spec, input_shape=(8, 8, 3), layout=layout, **options)


def freeze(model, *parts):
    for layer in model.layers:
        if layer.name.startswith(parts):
            layer.trainable = False


def train(model, steps=2):
    for _ in range(steps):
        model.train_on_batch(IMAGES, LABELS)
    return model


def compiled(model, optimizer="adam"):
    model.compile(optimizer, "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_knows_what_was_frozen_and_the_optimizer_goes_on(layout, when, tmp_path):
    """Frozen before the optimizer was made, or after: then it holds state of what is frozen, too."""
    model = build(layout)
    if when == "after":
        train(compiled(model), 1)
    freeze(model, "stem", "stage1")
    if when == "before":
        compiled(model)
    train(model)
    other = reloaded(model, tmp_path)
    assert [v.path for v in other.trainable_variables] == [v.path for v in model.trainable_variables]
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations) > 1
    assert_same(model.optimizer.variables, other.optimizer.variables)
    train(model, 1)
    train(other, 1)
    for one, two in zip(model.weights, other.weights):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("layouts", [LAYOUTS, LAYOUTS[::-1]], ids=str)
def test_another_layout_takes_an_optimizer_made_before_what_is_frozen_or_thawed(layouts):
    first, second = layouts
    model = train(compiled(build(first)), 1)
    freeze(model, "stem")
    other = keras_preact.relayout(model, second)
    assert len(other.trainable_variables) == len(build(second).trainable_variables) - 3
    assert int(other.optimizer.iterations) == 1
    model = build(first)
    freeze(model, "stem")
    train(compiled(model), 1)
    model.trainable = True
    assert int(keras_preact.relayout(model, second).optimizer.iterations) == 1


def test_a_model_that_is_frozen_as_a_whole_stays_so(tmp_path):
    model = build()
    model.trainable = False
    assert reloaded(model, tmp_path).trainable_variables == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_regularizer_set_on_layers_counts_after_from_config_and_in_a_file(layout, tmp_path):
    """Keras' way to regularize a network that is there: set it, and build the network again."""
    model = build(layout)
    assert model.losses == []
    kernels = [v for layer in model.layers for v in layer.trainable_weights if v.path.endswith("kernel")]
    for layer in model.layers:
        if hasattr(layer, "kernel_regularizer"):
            layer.kernel_regularizer = keras.regularizers.L2(0.01)
    expected = 0.01 * sum(float(np.sum(np.square(kernel))) for kernel in kernels)
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    for other in (again, reloaded(model, tmp_path), keras.models.clone_model(again)):
        other.set_weights(model.get_weights())
        assert float(sum(other.losses)) == pytest.approx(expected, rel=1e-5)


def test_a_regularizer_within_units_is_not_lost_by_another_layout():
    model = build("layers")
    model.get_layer("stem_conv").kernel_regularizer = keras.regularizers.L2(0.01)
    assert len(keras_preact.relayout(model, "stacked").losses) == 1
    model.get_layer("stage1_unit01_conv1").kernel_regularizer = keras.regularizers.L2(0.01)
    with pytest.raises(ValueError, match=r"`layout`.*stage1_unit01_conv1 has its own kernel_regularizer"):
        keras_preact.relayout(model, "stacked")


@ignore_quantize
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantized_network_reads_back_and_is_not_exported(layout, tmp_path):
    model = build(layout)
    model.quantize("int8")
    expected = model.predict(IMAGES, verbose=0)
    other = reloaded(model, tmp_path)
    assert other.get_layer("predictions").quantization_mode == "int8"
    np.testing.assert_array_equal(other.predict(IMAGES, verbose=0), expected)
    how = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match=r"`model` must be without quantized layers.*predictions: int8"):
        export(model, tmp_path / "export", preprocessing=how, class_names="abcdefghij", sample_images=np.zeros(1))


def test_the_card_and_the_report_of_trained_weights_are_in_the_file(tmp_path):
    name = keras_preact.list_weights()[0]
    card = keras_preact.get_card(name)
    model = keras_preact.get_model(card.network, weights=name)
    other = reloaded(model, tmp_path)
    assert other.card == card
    assert other.loaded == model.loaded
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        config = file.read("config.json").decode()
    assert card.path not in config  # where this package lies is nobody's business
    assert keras_preact.relayout(other, "layers").card == card


def test_a_card_of_weights_from_elsewhere_reads_back(tmp_path):
    model = build()
    for name in keras_preact.list_weights():
        card = keras_preact.get_card(name)
        assert cards.Card.from_config(json.loads(json.dumps(card.get_config()))) == card
    model.card = keras_preact.get_card(keras_preact.list_weights()[-1])
    assert reloaded(model, tmp_path).card == model.card


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_notes_nothing_of_layers_that_are_as_they_were_made(layout, tmp_path):
    other = reloaded(compiled(build(layout)), tmp_path)
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert "changed_layers" not in json.loads(file.read("config.json"))["config"]
    config = other.get_config()
    assert config.pop("optimized_weights") == []  # compiled, and not trained
    assert config == build(layout).get_config()


def test_a_file_from_before_reads_as_it_did():
    config = build().get_config()
    assert not {"changed_layers", "card", "loaded"} & config.keys()
    model = keras_preact.network.model.ResidualNetwork.from_config(config)
    assert model.card is None
    assert len(model.trainable_variables) == len(build().trainable_variables)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", ["adam", "scaled"])
def test_a_weights_file_has_the_optimizer_of_either_layout(layout, optimizer, tmp_path):
    def make():
        if optimizer == "adam":
            return keras.optimizers.Adam(0.01)
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01, momentum=0.9))

    model = train(compiled(build(layout), make()), 3)
    model.save_weights(tmp_path / "a.weights.h5")
    for other_layout in LAYOUTS:
        other = compiled(build(other_layout), make())
        other.optimizer.build(other.trainable_variables)
        other.load_weights(tmp_path / "a.weights.h5")
        assert int(other.optimizer.iterations) == int(model.optimizer.iterations) == 3
        same = keras_preact.relayout(other, layout)
        assert_same(model.optimizer.variables, same.optimizer.variables)


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without `get_config`, as people write them."""

    def __call__(self, step):
        return 0.01


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("make", "word"),
    [(keras.optimizers.Adafactor, "Adafactor"), (lambda: keras.optimizers.SGD(Constant()), "Constant")],
)
def test_an_optimizer_that_has_no_other_layout_costs_a_weights_file_its_state_and_not_the_weights(
    make, word, layout, tmp_path, recwarn
):
    model = train(compiled(build(layout), make()), 1)
    model.save_weights(tmp_path / "a.weights.h5")
    said = [str(warning.message) for warning in recwarn if "leave out the state" in str(warning.message)]
    assert [word in message for message in said] == ([True] if layout == "layers" else [])
    other = build("stacked", weights=tmp_path / "a.weights.h5")
    np.testing.assert_allclose(other(IMAGES), model(IMAGES), atol=1e-6)
    with pytest.raises(ValueError, match=word):
        keras_preact.relayout(model, *set(LAYOUTS) - {layout})


def test_a_network_whose_loss_keras_cannot_copy_is_refused_another_layout():
    def loss(labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(labels, outputs)

    model = build()
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match="compiled with what Keras can serialize"):
        keras_preact.relayout(model, "layers")


def test_a_weights_file_of_a_network_frozen_in_part_has_its_optimizer(tmp_path):
    model = build("layers")
    freeze(model, "stage1_unit01_conv1", "stem")
    train(compiled(model), 2)
    model.save_weights(tmp_path / "a.weights.h5")
    other = build("layers")
    freeze(other, "stage1_unit01_conv1", "stem")
    compiled(other).load_weights(tmp_path / "a.weights.h5")
    assert_same(model.optimizer.variables, other.optimizer.variables)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backup_and_restore_resumes_exactly(layout, tmp_path):
    def fit(folder, stop=None):
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == stop:
                    raise KeyboardInterrupt

        schedule = keras.optimizers.schedules.CosineDecay(0.1, 8)
        model = compiled(build(layout), keras.optimizers.SGD(schedule, momentum=0.9))
        backup = keras.callbacks.BackupAndRestore(tmp_path / folder)
        model.fit(IMAGES[:4], LABELS[:4], batch_size=2, epochs=4, shuffle=False, verbose=0, callbacks=[backup, Stop()])
        return model

    whole = fit("whole")
    with pytest.raises(KeyboardInterrupt):
        fit("killed", stop=2)
    resumed = fit("killed")
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 8
    for one, two in zip(whole.weights, resumed.weights):
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("how", ["relayout", "load_weights"])
def test_an_average_of_what_was_frozen_begins_as_the_weight(how, tmp_path):
    average = keras.optimizers.SGD(0.01, use_ema=True).get_config()
    model = build("layers")
    layer = model.get_layer("stage1_unit02_conv1")
    layer.trainable = False
    train(compiled(model, keras.optimizers.SGD.from_config(average)))
    if how == "relayout":
        layer.trainable = True
        other = keras_preact.relayout(model, "stacked")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        other = compiled(build("layers"), keras.optimizers.SGD.from_config(average))
        other.load_weights(tmp_path / "model.weights.h5")
    before = other.get_weights()
    other.optimizer.finalize_variable_values(other.trainable_variables)
    for one, two in zip(other.get_weights(), before):
        np.testing.assert_allclose(one, two, atol=0.1)  # an average that began at 0 would be far off


@ignore_quantize
def test_int8_kernels_are_not_taken_for_floats(tmp_path):
    model = build("layers")
    model.quantize("int8")
    model.save(tmp_path / "int8.keras")
    with pytest.raises(ValueError, match="`weights` must be without quantized layers"):
        build("layers", weights=tmp_path / "int8.keras")
