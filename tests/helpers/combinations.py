"""Run by `test_combinations.py`: runs that combine what works alone, all in one process per environment.

python combinations.py ENVIRONMENT FOLDER ROW [ROW ...]

Workers are started from here, each with the same command.
"""

import itertools
import json
import multiprocessing
import os
import pathlib
import sys

AXES = {
    "environment": ["none", "mirrored", "workers", "jax", "jax_data_parallel"],
    "recipe": ["digits", "paper_cifar", "fair_cifar", "modern_cifar", "paper_imagenet", "fair_imagenet"],
    "augmentation": [
        *("recipe", "crop", "reflect", "flip", "scale", "area", "colour", "lighting"),
        *("cutout", "mixup", "cutmix", "mixup and cutmix"),
    ],
    "precision": ["float32", "mixed_bfloat16", "mixed_float16", "float64"],
    "layout": ["stacked", "layers"],
    "ordering": [
        *("preactivation", "original", "bn_after_addition", "relu_before_addition", "relu_only_preactivation"),
    ],
    "shortcut": [
        *("identity", "constant_scaling", "exclusive_gating", "shortcut_only_gating", "conv1x1", "dropout", "none"),
    ],
    "optimizer": ["sgd", "muon"],
    "ema": [0.0, 0.9],
    "clip_norm": [0.0, 0.5],
    "validation_images": [0, 8],
    "bn_synchronized": [False, True],
    "verb": ["train", "finetune train", "finetune inference", "finetune reestimate"],
    "resumed": [False, True],
}

AUGMENTATIONS = {
    "recipe": {},
    "crop": {"crop_padding": 2},
    "reflect": {"crop_padding": 2, "pad_value": "reflect"},
    "flip": {"flip": True},
    "scale": {"scale": (8, 12)},
    "area": {"area": (0.3, 1.0)},
    "colour": {"colour": 0.4},
    "lighting": {"lighting": 0.1},
    "cutout": {"cutout": 4},
    "mixup": {"mixup": 0.5},
    "cutmix": {"cutmix": 1.0},
    "mixup and cutmix": {"mixup": 0.5, "cutmix": 1.0},
}

STEPS = 9  # one and a half epochs of 48 images
STOP = 7  # a resume within the second epoch


def is_possible(row):
    """Returns whether a row, perhaps of some axes only, asks for nothing that is refused."""
    on_jax = row.get("environment", "none").startswith("jax")
    return not (on_jax and row.get("precision") == "float64")  # without JAX_ENABLE_X64 it is refused


def pairs():
    """Returns every possible pair of values of two axes, as frozensets of two (axis, value)."""
    values = [(axis, value) for axis, options in AXES.items() for value in options]
    two = itertools.combinations(values, 2)
    return [frozenset(pair) for pair in two if len(dict(pair)) == 2 and is_possible(dict(pair))]


def rows():
    """Returns the rows, dicts of an axis each, that hold every possible pair of values: the same in every process.

    Each begins with a pair that none has yet, so that none is left out, and goes on with the values, first of the axes
    that have most, that add most pairs. (allpairspy ends early where pairs are refused.)
    """
    axes = sorted(AXES, key=lambda axis: -len(AXES[axis]))
    left, found = dict.fromkeys(pairs()), []  # a dict: unlike a set, it has an order
    while left:
        row = dict(sorted(next(iter(left)), key=lambda item: axes.index(item[0])))
        for axis in axes:
            if axis not in row:
                possible = [value for value in AXES[axis] if is_possible({**row, axis: value})]
                row[axis] = max(possible, key=lambda value: _gain(row, (axis, value), left, found))
        for pair in itertools.combinations(row.items(), 2):
            left.pop(frozenset(pair), None)
        found.append({axis: row[axis] for axis in AXES})
    return found


def _gain(row, item, left, found):
    """Returns how many of the pairs that are left an item adds to a row; between equals, the least used one is best."""
    axis, value = item
    return sum(frozenset((item, other)) in left for other in row.items()), -sum(row[axis] == value for row in found)


def recipe_of(row):
    from keras_preact.training.recipes import RECIPES

    recipe = RECIPES[row["recipe"]]
    scaled = {"scale": (8, 12)} if recipe.scale else {}
    if row["augmentation"] in ("scale", "area"):
        scaled = {"scale": (), "area": ()}
    drops = {"drops": (4, 8)} if recipe.schedule == "steps" else {}
    hole = {"cutout": 4} if recipe.cutout else {}  # in its size for CIFAR it leaves little or nothing of these images
    return recipe.replace(
        **{**scaled, **drops, **hole, **AUGMENTATIONS[row["augmentation"]]},
        **{
            name: row[name]
            for name in ("precision", "optimizer", "ema", "clip_norm", "validation_images", "bn_synchronized")
        },
        steps=STEPS,
        warmup_steps=2,
        global_batch_size=8,
        learning_rate=0.001,
        image_size=0,
    )


def data(row):
    import numpy as np

    from keras_preact.data import from_arrays

    rng = np.random.default_rng(0)
    count = 48 + row["validation_images"]
    images = rng.integers(256, size=(count + 21, 8, 8, 3)).astype("uint8")
    labels = np.arange(count + 21) % 3
    return from_arrays(images[:count], labels[:count], images[count:], labels[count:])


def model_options(row):
    return {"ordering": row["ordering"], "shortcut": row["shortcut"], "layout": row["layout"]}


def network(row):
    """Returns the network that a row fine-tunes."""
    import keras

    import keras_preact

    keras.utils.set_random_seed(0)
    return keras_preact.ResNet(8, input_shape=(8, 8, 3), **model_options(row))


def run(row, folder, callbacks=()):
    import keras_preact

    strategy = {"workers": "multi_worker", "jax": "none"}.get(row["environment"], row["environment"])
    common = dict(
        data=data(row),
        output=folder,
        strategy=strategy,
        verbose=0,
        recipe=recipe_of(row),
        checkpoint_steps=2,
        callbacks=callbacks,
    )
    if row["verb"] == "train":
        return keras_preact.train("ResNet8", model_options=model_options(row), **common)
    weights = folder.with_name(f"{folder.name.split('.')[0]}.keras")  # of a worker, which builds no network before
    return keras_preact.finetune(
        weights if row["environment"] == "workers" else network(row), bn=row["verb"].split()[1], **common
    )


class Stop(Exception):
    """Ends a run as a kill would, but not the process."""


def stop_at(step):
    import keras

    class StopAt(keras.callbacks.Callback):
        done = 0

        def on_train_batch_end(self, batch, logs=None):
            self.done += 1
            if self.done == step:
                raise Stop

    return StopAt()


def check(row, folder):
    """Trains as a row says: finite, with a card, whose error is measured again; resumed it ends as if it had not."""
    import numpy as np

    import keras_preact
    from keras_preact.training import checkpoints

    card = run(row, folder)
    if "error_percent" not in card:  # a worker that is not the first
        assert row["environment"] == "workers"
    else:
        assert 0 <= card["error_percent"] <= 100
        assert keras_preact.evaluate(folder, data(row))["error_percent"] == card["error_percent"]
    end = checkpoints.newest(folder / "checkpoints")
    assert end.step == STEPS
    assert all(np.isfinite(array).all() for array in end.arrays.values() if array.dtype.kind == "f")
    if not row["resumed"]:
        return
    other = folder.with_name(f"{folder.name}.resumed")
    try:
        run(row, other, [stop_at(STOP)])
    except Stop:
        run(row, other)
    again = checkpoints.newest(other / "checkpoints")
    for name, array in end.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)
    assert again.state["history"] == end.state["history"]


def save_networks(folder, numbers):
    """Writes the networks that rows fine-tune."""
    for number in map(int, numbers):
        if rows()[number]["verb"] != "train":
            network(rows()[number]).save(pathlib.Path(folder) / f"row{number}.keras")


def launch(folder, numbers):
    """Runs rows as two workers, whose networks to fine-tune are files; returns the exit status."""
    from keras_preact.training import launcher

    # In a process of its own: the workers may be forks of this one, which must not have computed.
    saving = multiprocessing.get_context("fork").Process(target=save_networks, args=(folder, numbers))
    saving.start()
    saving.join()
    return saving.exitcode or launcher.launch([sys.executable, __file__, "workers", folder, *numbers], 2, 0)


def main(environment, folder, *numbers):
    os.environ["KERAS_BACKEND"] = "jax" if environment.startswith("jax") else "tensorflow"
    if environment == "workers" and "TF_CONFIG" not in os.environ:
        raise SystemExit(launch(folder, numbers))
    if environment == "jax_data_parallel":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    if environment == "mirrored":
        import tensorflow as tf

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
    failed = 0
    for number in map(int, numbers):
        row = rows()[number]
        assert row["environment"] == environment
        try:
            check(row, pathlib.Path(folder) / f"row{number}")
        except Exception as error:
            failed += 1
            print(f"FAILED {number} {json.dumps(row)}: {type(error).__name__}: {error}", flush=True)
        else:
            print(f"passed {number}", flush=True)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
