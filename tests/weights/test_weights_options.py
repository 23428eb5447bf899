"""Trained weights under another head, other channels and other options than their own."""

import numpy as np
import pytest
from weights_files import (
    CLASSES,
    SPEC,
    arrays_of,
    build,
    images,
    with_card,
)

import keras_preact
from keras_preact.weights.cards import find_weights
from keras_preact.weights.pretrained import adapt_channels, load_pretrained


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A card whose file is at hand, and its network."""
    return with_card(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("kind", ["card", "path"])
@pytest.mark.parametrize("arguments", [{"num_classes": 3}, {"include_top": False}], ids=str)
def test_another_head_is_new_and_the_trunk_is_that_of_the_weights(arguments, kind, source):
    card, model = source
    other = build(card if kind == "card" else card.path, **arguments)
    theirs, ours = arrays_of(model), arrays_of(other)
    assert all(
        np.array_equal(theirs[name], array) for name, array in ours.items() if not name.startswith("predictions")
    )
    assert other.loaded.unused == ("predictions/kernel", "predictions/bias")
    assert other.loaded.new == (("predictions/kernel", "predictions/bias") if "num_classes" in arguments else ())
    assert other.loaded.arrays == len(theirs) - 2
    assert "predictions/kernel not used" in str(other.loaded)
    assert other.loaded.source == (card.name if kind == "card" else card.path)


def test_what_is_left_out_is_as_the_weights_have_it(source):
    card, _ = source
    for weights in (card, card.path):
        model = build(weights, num_classes=None, shape=None)
        assert model.output_shape == (None, len(CLASSES))
    assert build(card, num_classes=None, shape=None).input_shape == (None, 8, 8, 3)


def test_one_channel_sums_the_first_kernel_and_more_repeat_it(source):
    card, model = source
    grey = images(1)
    expected = model.predict(np.repeat(grey, 3, axis=-1), verbose=0)
    one = build(card, shape=(8, 8, 1))
    np.testing.assert_allclose(one.predict(grey, verbose=0), expected, rtol=1e-4, atol=1e-4)
    assert one.loaded.adapted == ("stem_conv/kernel reads 1 channels instead of 3: summed over them.",)
    six = build(card, shape=(8, 8, 6))
    np.testing.assert_allclose(six.predict(np.repeat(grey, 6, axis=-1), verbose=0), expected, rtol=1e-4, atol=1e-4)
    assert "multiplied by 3/6" in str(six.loaded)
    assert six.loaded.arrays == len(arrays_of(model)) - 1
    kernel = model.get_layer("stem_conv").kernel.numpy()
    np.testing.assert_allclose(adapt_channels(kernel, 4), 0.75 * kernel[:, :, [0, 1, 2, 0]])


def test_a_normalised_input_of_other_channels_is_refused_before_anything_is_copied(tmp_path):
    spec = SPEC.replace(stem={**vars(SPEC.stem), "input_norm": "center"})
    build(spec=spec).save_weights(tmp_path / "model.weights.h5")
    model = build(spec=spec, shape=(8, 8, 4))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"weights.*stem_input_bn/beta of shape \(4,\).*Received.*\(3,\)"):
        load_pretrained(model, tmp_path / "model.weights.h5")
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride_on": "1x1"}, r"stride_on.*'3x3', as in the weights resnet164.cifar10.osmr.*Received.*'1x1'"),
        ({"ordering": "relu_only_preactivation"}, r"ordering.*'preactivation', as in the weights.*Received.*relu_only"),
        ({"stem": {"activates": True}}, r"stem.*activates=False.*as in the weights.*Received.*activates=True"),
        ({"bn_epsilon": 1e-3}, r"bn_epsilon.*1e-05, as in the weights.*Received.*0.001"),
        ({"weights": "resnet110.cifar10.osmr"}, r"weights.*those of resnet164.*Received.*resnet110.cifar10.osmr"),
        ({"weights": "imagenet"}, r"weights.*resnet164.*cifar10, cifar100, digits.*Received.*imagenet"),
        ({"weights": "cifar11"}, r'weights.*Nearest: "cifar1'),
        ({"weights": "a" * 5000}, r"weights.*a .weights.h5 or .keras file.*Received.*aaa"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_options_that_contradict_the_weights_are_refused_before_anything_is_built(arguments, message, monkeypatch):
    monkeypatch.setattr(keras_preact.zoo, "ResidualNetwork", None)
    monkeypatch.setattr(keras_preact.zoo, "load_pretrained", None)
    with pytest.raises(ValueError, match=message):
        keras_preact.ResNet164(**{"weights": "resnet164.cifar10.osmr", **arguments})


def test_a_card_decides_what_the_user_left_out_and_the_user_what_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(keras_preact.zoo, "load_pretrained", lambda model, weights: asked.append(weights))
    model = keras_preact.ResNet164(weights="cifar100", stride_on="3x3", bn_momentum=0.99)
    assert (model.spec.stem.activates, model.spec.stride_on, model.spec.bn_momentum) == (False, "3x3", 0.99)
    assert model.output_shape == (None, 100)
    assert asked == [keras_preact.get_card("resnet164.cifar100.osmr")]
    with pytest.raises(ValueError, match=r"weights.*units=\(8, 8, 8\).*Received.*resnet50.*units=\(3, 4, 6, 3\)"):
        keras_preact.ResNet(50, family="cifar", weights="imagenet")


def test_our_own_weights_are_taken_and_else_the_best_that_can_be_verified():
    assert find_weights("cifar10", "resnet164").name == "resnet164.cifar10.modern_cifar"
    best = {("resnet152", "imagenet"): "osmr_b", ("resnet50", "imagenet"): "osmr", ("resnet200", "imagenet"): "osmr_b"}
    for (network, data), recipe in best.items():
        assert find_weights(data, network).name == f"{network}.{data}.{recipe}"
