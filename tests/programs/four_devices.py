"""Run by `test_jax.py`: a run on four simulated devices of JAX equals one on one device."""

import os
import pathlib
import sys

os.environ.update(KERAS_BACKEND="jax", JAX_ENABLE_X64="1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"

import jax
import numpy as np
import pytest
from jax import export

import keras_preact
from keras_preact.data import Augmentation, load
from keras_preact.data.batches import TrainingBatches
from keras_preact.data.preparation import Preparation
from keras_preact.training import checkpoints
from keras_preact.training.evaluation import evaluation_metrics
from keras_preact.training.optimizers import make_optimizer
from keras_preact.training.training_model import Crossentropy, TrainingModel

folder = pathlib.Path(sys.argv[1])
recipe = keras_preact.RECIPES["digits"].replace(
    steps=3, warmup_steps=0, global_batch_size=40, clip_norm=0.3, precision="float64"
)
for strategy, replicas in (("none", 1), ("auto", 4)):
    card = keras_preact.train("ResNet8", recipe=recipe, output=folder / strategy, strategy=strategy, verbose=0)
    assert card["devices"]["replicas"] == replicas
alone, together = (checkpoints.newest(folder / name / "checkpoints").arrays for name in ("none", "auto"))
for name, array in alone.items():
    np.testing.assert_allclose(together[name], array, rtol=1e-6, atol=1e-12, err_msg=name)
with pytest.raises(ValueError, match="multiple of the 4 replicas"):
    keras_preact.train("ResNet11", recipe=recipe.replace(global_batch_size=90), output=folder / "other")
jax.config.update("jax_enable_x64", False)
with pytest.raises(ValueError, match=r"precision.*float64.*JAX_ENABLE_X64=1"):
    keras_preact.train("ResNet11", recipe=recipe, output=folder / "other")
assert not (folder / "other").exists()


def lowered_for_tpu():
    """Lowers a whole training step, loop, augmentation and optimizer included, for a TPU that is not here."""
    data = load("digits")
    augmentation = Augmentation(crop_padding=2, flip=True)
    network = keras_preact.build_network(
        keras_preact.NetworkSpec((8, 8), (4, 4), "basic", stem={"width": 4}),
        input_shape=data.image_shape,
        layout="stacked",
    )
    model = TrainingModel(network, Preparation(data, augmentation))
    model.compile(make_optimizer(recipe, 3), Crossentropy(10), weighted_metrics=evaluation_metrics())
    batch = TrainingBatches(data, 32, 0, augmentation)[0]
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batch)
    if hasattr(model, "_record_training_state_sharding_spec"):  # as `fit` does in Keras 3.10
        model._record_training_state_sharding_spec()
    parts = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state = tuple([part.value for part in variables] for variables in (*parts, model.metrics_variables))
    exported = export.export(jax.jit(model.train_step), platforms=["tpu"])(state, batch)
    assert exported.platforms == ("tpu",)
    assert "stablehlo.while" in exported.mlir_module()


lowered_for_tpu()
print("four devices: done")
