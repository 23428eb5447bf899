"""Weights files of tf2cv, keras.applications and timm, converted, give these packages' signals and logits.

The peers run in processes of their own, on random weights (see `tf_keras_peers.py` and `timm_peers.py`), in float64: a
graph that differs anywhere is off by percents, the same graph by rounding. The whole list needs the extra `parity` and
minutes: `pytest -m parity`.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.network.named_weights import assign, named_weights
from keras_preact.weights.cards import card_spec
from keras_preact.weights.converters import convert

PROGRAMS = pathlib.Path(__file__).parents[1] / "programs"
CASES = {  # the peer's name: the card of its published weights
    "preresnet20_cifar10": "resnet110.cifar10.osmr",
    "ResNet50V2": "resnet50.imagenet.keras_applications",
    "preresnet50": "resnet50.imagenet.osmr",
}
UNITS = {"preresnet20_cifar10": (3, 3, 3)}  # where the card's network is deeper
LONG = {
    "preresnet110_cifar10": "resnet110.cifar10.osmr",
    "preresnet164bn_cifar100": "resnet164.cifar100.osmr",
    "preresnet1001_cifar10": "resnet1001.cifar10.osmr",
    "preresnet101": "resnet101.imagenet.osmr",
    "preresnet152": "resnet152.imagenet.osmr",
    "preresnet152b": "resnet152.imagenet.osmr_b",
    "preresnet200b": "resnet200.imagenet.osmr_b",
    "ResNet101V2": "resnet101.imagenet.keras_applications",
    "ResNet152V2": "resnet152.imagenet.keras_applications",
}
TIMM = {"resnetv2_50": "resnet50.imagenet.timm_a1h", "resnetv2_101": "resnet101.imagenet.timm_a1h"}


def written(script, folder, peers):
    """Has a script write the files of peers to `folder`; a peer that is not installed fails here."""
    command = [sys.executable, str(PROGRAMS / script), str(folder), *peers]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return written("tf_keras_peers.py", tmp_path_factory.mktemp("short"), CASES)


def converted(path, card):
    """Our network of a card, in float64, with the weights of a peer's file."""
    spec = card_spec(card)
    spec = spec.replace(units=UNITS.get(path.stem, spec.units))
    with np.load(path.with_suffix(".npz")) as file:
        expected = dict(file)
    shape = expected["images"].shape[1:]
    arguments = {
        "num_classes": len(card.classes),
        "classifier_activation": None,
        "dtype": "float64",
        "layout": "stacked",
    }
    model = keras_preact.build_network(spec, input_shape=shape, **arguments)
    places = named_weights(model)
    shapes = {name: variable.shape[index is not None :] for name, (variable, index) in places.items()}
    assign(places, convert(card.converter, path, spec, shapes).__getitem__)
    return model, expected


def check(path, card_name):
    model, expected = converted(path, keras_preact.get_card(card_name))
    stages = {layer.name.split("_")[0]: layer.output for layer in model.layers if layer.name.startswith("stage")}
    signals = keras.Model(model.input, [*stages.values(), model.output]).predict(expected["images"], verbose=0)
    assert len(stages) == len(model.spec.units)
    for name, ours in zip([*stages, "logits"], signals):
        theirs = expected[name]
        if name != "logits" and ours.shape != theirs.shape:  # Keras strides in a stage's last unit
            ours = ours[:, ::2, ::2]
        assert ours.shape == theirs.shape
        spread = np.linalg.norm(theirs - theirs.mean(axis=0)) / np.linalg.norm(theirs)
        assert 0.05 < spread < 1.0  # images do count
        assert np.linalg.norm(ours - theirs) < 1e-6 * np.linalg.norm(theirs), name


@pytest.mark.parametrize("peer", CASES)
def test_a_peers_file_gives_the_peers_signals(peer, short, float64):
    check(short / f"{peer}.h5", CASES[peer])


def test_another_variants_file_is_refused_or_gives_other_signals(short, float64):
    model, expected = converted(short / "preresnet50.h5", keras_preact.get_card("resnet50.imagenet.osmr"))
    arguments = {"num_classes": 1000, "classifier_activation": None, "layout": "stacked"}
    other = keras_preact.build_network(model.spec.replace(stride_on="3x3"), input_shape=(224, 224, 3), **arguments)
    other.set_weights(model.get_weights())
    images = expected["images"]
    theirs = model.predict(images, verbose=0)
    logits = other.predict(images, verbose=0)
    assert np.linalg.norm(logits - theirs) > 0.01 * np.linalg.norm(theirs)
    for wrong in ("resnet50.imagenet.keras_applications", "resnet110.cifar10.osmr", "resnet101.imagenet.osmr"):
        with pytest.raises(ValueError, match="whole file of"):
            converted(short / "preresnet50.h5", keras_preact.get_card(wrong))


@pytest.mark.parity
@pytest.mark.parametrize("peer", LONG)
def test_every_peers_file_gives_the_peers_signals(peer, tmp_path, float64):
    check(written("tf_keras_peers.py", tmp_path, [peer]) / f"{peer}.h5", LONG[peer])


@pytest.mark.parity
@pytest.mark.parametrize("peer", TIMM)
def test_timms_files_give_timms_signals(peer, tmp_path, float64):
    check(written("timm_peers.py", tmp_path, [peer]) / f"{peer}.safetensors", TIMM[peer])
