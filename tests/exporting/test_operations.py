"""Every operation of the paper in ONNX, SavedModel and LiteRT, against Keras."""

import pytest
import tensorflow as tf
from small_exports import FIVE, RGB, assert_close, expected, network, photographs, run_onnx

from keras_preact.exporting import (
    reload,
)
from keras_preact.exporting.litert import write_litert
from keras_preact.exporting.onnx_graph import write_onnx
from keras_preact.exporting.savedmodel import write_savedmodel
from keras_preact.network.spec import StemSpec

VARIANTS = {
    "original, zero_pad": {"ordering": "original", "widening": "zero_pad"},
    "bn_after_addition": {"ordering": "bn_after_addition"},
    "relu_before_addition, exclusive gating": {"ordering": "relu_before_addition", "shortcut": "exclusive_gating"},
    "relu_only, scaling": {"ordering": "relu_only_preactivation", "shortcut": "constant_scaling"},
    "plain bottleneck": {"shortcut": "none", "unit": "bottleneck"},
    "conv1x1, biases": {
        "shortcut": "conv1x1",
        "conv_bias": ("stem", "branch", "last", "shortcut"),
        "stochastic_depth": 0.3,
    },
    "raw, dropout, input norm": {
        "widening_reads": "raw",
        "shortcut": "dropout",
        "stem": {"width": 4, "input_norm": "center"},
    },
    "imagenet stem": {"stem": StemSpec(8, 7, 2, pool="negative_infinity"), "unit": "bottleneck", "stride_on": "3x3"},
    "bare stem, same": {"stem": {"width": 4, "activates": False, "pool": "same"}},
    "bare stem, zero": {"stem": {"width": 4, "activates": False, "pool": "zero", "input_norm": "plain"}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_operation_of_the_paper_is_the_same_in_onnx_and_savedmodel(variant, tmp_path):
    model, images = network(**VARIANTS[variant]), photographs()
    wanted = expected(model, images)
    write_onnx(model, tmp_path / "model.onnx", RGB, FIVE)
    assert_close(run_onnx(tmp_path / "model.onnx", images), wanted)
    write_savedmodel(model, tmp_path / "saved", RGB, FIVE)
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert_close(loaded.serve(tf.constant(images)), wanted)


@pytest.mark.parametrize("variant", ["original, zero_pad", "imagenet stem"])
def test_litert_takes_every_network_and_the_batch_stays_free(variant, tmp_path):
    model = network("layers", **VARIANTS[variant])
    write_litert(model, tmp_path / "model.tflite", RGB)
    runner, _ = reload.load_litert(str(tmp_path / "model.tflite"))
    for count in (1, 6):
        assert_close(runner(photographs(count)), expected(model, photographs(count)))
