"""Fine-tunes a network of five classes on five others, against training from scratch in as many steps.

python examples/transfer_digits.py --output transfer

trains ResNet-29 on the handwritten digits 0 to 4, and then, with 5, 20 and 100 images a class of 5 to 9, a copy of it
and a new network: same images, recipe and steps, another start. It writes `transfer.md`, `transfer.png` and
`transfer.json` into the output folder, and resumes where it stopped. With --data-dir it takes CIFAR-10, whose files lie
there, and its last five classes.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys

import keras
import numpy as np

import keras_preact
from keras_preact import from_arrays, load

SIZES = (5, 20, 100)
METHODS = ("fine-tuned", "from scratch")
KNOWN, NEW = range(5), range(5, 10)


def five_classes(data, classes, per_class=None, seed=0, repeat=1):
    """Returns the `DataSet` of some classes, with `per_class` training images each, chosen by `seed`."""
    rng, parts = np.random.default_rng(seed), []
    for split in (data.train, data.test):
        of_class = [np.flatnonzero(split.labels == label) for label in classes]
        if per_class and split is data.train:
            of_class = [np.tile(rng.permutation(found)[:per_class], repeat) for found in of_class]
        chosen = np.concatenate(of_class)
        parts += [split.read(chosen), split.labels[chosen] - classes[0]]
    names = tuple(data.class_names[label] for label in classes)
    return from_arrays(*parts, class_names=names, name=f"{data.name}{classes[0]}-{classes[-1]}")


def one_run(method, data, backbone, per_class, seed, settings, folder):
    """Trains one network and returns its test error in % after the last step."""
    batch = keras_preact.recipe_for(5 * per_class).global_batch_size
    recipe = keras_preact.RECIPES["digits"].replace(
        steps=settings["steps"], global_batch_size=batch, seed=seed, **settings["augmentation"]
    )
    common = dict(recipe=recipe, output=folder / f"{method.replace(' ', '_')}-{per_class}-{seed}", verbose=0)
    if method == "fine-tuned":
        card = keras_preact.finetune(backbone, five_classes(data, NEW, per_class, seed), **common)
    else:
        repeat = max(1, recipe.steps * batch // (50 * per_class))  # epochs of more than a step or two
        card = keras_preact.train("ResNet29", data=five_classes(data, NEW, per_class, seed, repeat), **common)
    return card["error_percent"]


def write(results, settings, seeds, folder):
    """Writes the table, the plot and the numbers."""
    rows = ["| images a class | fine-tuned, % | from scratch, % |", "|---|---|---|"]
    for size in SIZES:
        cells = []
        for method in METHODS:
            errors = results[method][str(size)]
            cells.append(f"{statistics.median(errors):.1f} ({min(errors):.1f} to {max(errors):.1f})")
        rows.append(f"| {size} | {cells[0]} | {cells[1]} |")
    versions = {
        "keras_preact": keras_preact.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    about = {"command": " ".join(sys.argv), "seeds": list(range(seeds)), "versions": versions, **settings}
    rows += ["", f"Test error after step {settings['steps']}: median (lowest to highest) of {seeds} seeds. {about}"]
    text = "\n".join(rows) + "\n"
    (folder / "transfer.md").write_text(text)
    (folder / "transfer.json").write_text(json.dumps({**about, "errors_percent": results}, indent=2) + "\n")
    print(text)
    draw(results, folder / "transfer.png")


def draw(results, path):
    """Draws the median error of each method over images a class, and the range of its seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for method in METHODS:
        errors = [results[method][str(size)] for size in SIZES]
        axes.plot(SIZES, [statistics.median(few) for few in errors], marker="o", label=method)
        axes.fill_between(SIZES, [min(few) for few in errors], [max(few) for few in errors], alpha=0.2)
    axes.set(xscale="log", xlabel="training images a class", ylabel="test error, %", ylim=(0, None))
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("transfer"))
    parser.add_argument("--data-dir", type=pathlib.Path, help="where CIFAR-10 is, to take it instead of the digits")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.data_dir:
        data, augmentation, recipe = load("cifar10", chosen.data_dir), {"crop_padding": 4, "flip": True}, "fair_cifar"
        recipe = keras_preact.RECIPES[recipe].replace(epochs=60, drops=(30, 45))
    else:
        data, augmentation = load("digits"), {"crop_padding": 1}
        recipe = keras_preact.RECIPES["digits"].replace(epochs=10)
    backbone = chosen.output / "backbone"
    known = keras_preact.train("ResNet29", data=five_classes(data, KNOWN), recipe=recipe, output=backbone, verbose=0)
    print(f"the backbone's error on its own classes: {known['error_percent']:.2f} %")
    settings = {"data": data.name, "steps": chosen.steps, "augmentation": augmentation}
    results = {method: {str(size): [] for size in SIZES} for method in METHODS}
    for seed in range(chosen.seeds):
        for size in SIZES:
            for method in METHODS:
                error = one_run(method, data, backbone, size, seed, settings, chosen.output)
                results[method][str(size)].append(error)
                print(f"seed {seed}, {size} images a class, {method}: {error:.2f} %", flush=True)
                keras.backend.clear_session()
    write(results, settings, chosen.seeds, chosen.output)


if __name__ == "__main__":
    main()
