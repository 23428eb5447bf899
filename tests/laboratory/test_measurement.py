"""A measurement of units: what is chosen, what it is written as, JAX's, and bad input."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from changed_weights import randomized
from measured_networks import batch, build, one_stage

import keras_preact
from keras_preact.laboratory.analysis.measure import analyze

float64 = pytest.mark.usefixtures("float64")


@float64
def test_deleted_units_are_spread_evenly_and_keep_the_shape():
    result = analyze(build(units=(4, 5)), *batch(), deletions=3)
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(result.loss_without)), [0, 5, 8])
    everything = analyze(build(units=(4, 5)), *batch(), deletions=99)
    np.testing.assert_array_equal(np.isfinite(everything.loss_without), everything.keeps_shape)


def test_half_precision_and_frozen_units_are_measured_as_the_network_computes():
    images, labels = batch()
    wide, half = (
        keras_preact.ResNet(11, input_shape=(8, 8, 3), num_classes=5, dtype=d) for d in ("float32", "mixed_bfloat16")
    )
    keras_preact.network.named_weights.copy_weights(wide, half)
    np.testing.assert_allclose(
        analyze(half, images, labels).gradient_norm, analyze(wide, images, labels).gradient_norm, rtol=1e-5
    )
    for layer in wide.layers:
        layer.trainable = False
    frozen, inference = analyze(wide, images, labels), analyze(wide, images, labels, training=False)
    np.testing.assert_allclose(frozen.gradient_norm, inference.gradient_norm, rtol=1e-6)


@pytest.fixture(scope="module")
def small():
    """A measurement of a small network, with gates and deletions."""
    return analyze(build(shortcut="shortcut_only_gating"), *batch(), deletions=2)


def test_a_measurement_is_frozen_and_readable(small, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        small.gradient_norm[0] = 0.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.loss = 0.0
    lines = small.table(rows=3).splitlines()
    assert [line.split()[0] for line in lines] == ["unit", "stage1_unit01", "stage2_unit01", "stage2_unit03"]
    assert len({len(line) for line in lines}) == 1
    small.to_csv(tmp_path / "units.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "units.csv").read_text())))
    assert [float(row["gradient_norm"]) for row in rows] == list(small.gradient_norm)
    assert [row["loss_without"] == "" for row in rows] == list(np.isnan(small.loss_without))
    small.to_json(tmp_path / "units.json")
    values = json.loads((tmp_path / "units.json").read_text())
    assert values["direct_norm"] == list(small.direct_norm)
    assert values["units"] == list(small.units)
    assert values["loss"] == small.loss
    dataclasses.replace(small, loss=float("nan")).to_json(tmp_path / "nan.json")
    assert json.loads((tmp_path / "nan.json").read_text(), parse_constant=pytest.fail)["loss"] is None


@float64
def test_jax_measures_the_same(tmp_path):
    images, labels = batch()
    model = randomized(one_stage(3, width=4, unit="bottleneck", ordering="original", shortcut="exclusive_gating"))
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "batch.npz", images=images, labels=labels)
    analyze(model, images, labels, deletions=2).to_json(tmp_path / "expected.json")
    program = pathlib.Path(__file__).parents[1] / "programs" / "jax_without_tensorflow.py"
    done = subprocess.run(
        [sys.executable, str(program), "analysis", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "analysis: done"


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model=keras.Sequential()), "`model` must be a network of keras_preact, a name"),
        (dict(images=np.zeros((4, 9, 8, 3))), r"`images` must be numbers of shape \(batch, 8, 8, 3\)"),
        (dict(images=np.zeros((0, 8, 8, 3))), "`images`"),
        (dict(images=np.full((4, 8, 8, 3), np.nan)), "`images` must be finite"),
        (dict(images=np.full((4, 8, 8, 3), "a")), "`images`"),
        (dict(labels=[0, 1, 2, 5]), "`labels` must be from 0 to 4"),
        (dict(labels=[0, -1, 2, 3]), "`labels` must be from 0 to 4"),
        (dict(labels=[0, 1, 2]), r"`labels` must be whole numbers, one per image: shape \(4,\)"),
        (dict(labels=[0.0, 1.0, 2.0, 3.0]), "`labels` must be whole numbers"),
        (dict(labels=None, deletions=1), "`deletions` must be 0 without labels"),
        (dict(deletions=-1), "`deletions`"),
        (dict(seed=-1), "`seed`"),
    ],
)
def test_bad_input_is_refused(change, message):
    images, labels = batch()
    arguments = {
        "model": keras_preact.ResNet(11, input_shape=(8, 8, 3), num_classes=5),
        "images": images,
        "labels": labels,
    }
    with pytest.raises(ValueError, match=message):
        analyze(**{**arguments, **change})


def test_labels_need_a_classifier():
    model = keras_preact.ResNet(11, input_shape=(8, 8, 3), include_top=False)
    assert analyze(model, batch()[0]).loss is None
    with pytest.raises(ValueError, match="the network has no classifier"):
        analyze(model, *batch())


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="`backend` must be one of tensorflow, jax"):
        analyze(None, None)
