"""Fine-tunes on the vehicles of CIFAR-10 a network that has seen only its animals, against training from scratch.

python examples/transfer_cifar.py --data-dir DIR --output transfer

ResNet-20 learns the six animals on 16x16 images. A copy of it, a copy of one that learned handwritten digits, and a new
network then learn the four vehicles from 5, 20 and 100 images a class: same images, order, recipe and steps. It writes
`transfer.md`, `transfer.png` and `transfer.json` into the output folder after each seed, and resumes where it stopped.

`weights="cifar10"` would be no fair start: that network has seen 5,000 images of each vehicle.
"""

import argparse
import itertools
import json
import pathlib
import statistics

import keras
import numpy as np

import keras_preact
from keras_preact import from_arrays, load
from keras_preact.files import write_text
from keras_preact.training.provenance import provenance

NETWORK = "ResNet20"
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")
METHODS = ("animals", "digits", "scratch")
LABELS = {"animals": "from animals", "digits": "from digits", "scratch": "from scratch"}
SIZES = (5, 20, 100)
AUGMENTATION = {"crop_padding": 2, "flip": True}
BACKBONES = {
    "animals": dict(epochs=6, global_batch_size=128, learning_rate=0.1, weight_decay=5e-4, **AUGMENTATION),
    "digits": dict(epochs=10),
}


def some_classes(data, names, name, per_class=None, seed=0, steps=0):
    """Returns the `DataSet` of some classes of another.

    Args:
        data: A `DataSet` of arrays.
        names: Those of the classes.
        name: What to call it.
        per_class: Training images a class, drawn by `seed`; all if None.
        seed: Decides which.
        steps: Training images are repeated until one epoch has so many steps, so that a run measures only at its end.
    """
    rng, classes = np.random.default_rng(seed), [data.class_names.index(name) for name in names]
    places = [rng.permutation(np.flatnonzero(data.train.labels == label))[:per_class] for label in classes]
    train, test = np.concatenate(places), np.flatnonzero(np.isin(data.test.labels, classes))
    if steps:
        train = np.tile(train, -(-steps * batch_size(per_class) // len(train)))
    label_of = np.full(len(data.class_names), -1)
    label_of[classes] = range(len(classes))
    arrays = [
        array
        for split, chosen in ((data.train, train), (data.test, test))
        for array in (split.images[chosen], label_of[split.labels[chosen]])
    ]
    return from_arrays(*arrays, class_names=names, name=name)


def batch_size(per_class):
    """Returns the images of a step: at most 64, and not more than there are."""
    return keras_preact.recipe_for(len(VEHICLES) * per_class).global_batch_size


def coloured_digits():
    """Returns the digits, which are 16x16 too, with three equal channels."""
    digits = load("digits")
    arrays = [np.repeat(split.images, 3, axis=-1) for split in (digits.train, digits.test)]
    return from_arrays(arrays[0], digits.train.labels, arrays[1], digits.test.labels, name="coloured_digits")


def train_backbones(data, folder):
    """Trains the networks to start from; returns their cards."""
    sets = {"animals": some_classes(data, ANIMALS, "animals"), "digits": coloured_digits()}
    cards = {}
    for name, fields in BACKBONES.items():
        recipe = keras_preact.RECIPES["digits"].replace(**fields)
        cards[name] = keras_preact.train(NETWORK, data=sets[name], recipe=recipe, output=folder / name, verbose=0)
        print(f"backbone of {name}: {cards[name]['error_percent']:.2f} % on its own classes", flush=True)
        keras.backend.clear_session()
    return cards


def one_run(method, data, per_class, seed, steps, folder):
    """Trains one network on the vehicles; returns its card."""
    recipe = keras_preact.RECIPES["digits"].replace(
        steps=steps, global_batch_size=batch_size(per_class), weight_decay=5e-4, seed=seed, **AUGMENTATION
    )
    common = dict(recipe=recipe, output=folder / f"{method}-{per_class}-{seed}", verbose=0)
    if method == "scratch":
        card = keras_preact.train(NETWORK, data=data, **common)
    else:
        card = keras_preact.finetune(folder / method, data, **common)
    keras.backend.clear_session()
    return card


def write(cards, backbones, steps, folder):
    """Writes the numbers, the table and the plot of the runs so far.

    Args:
        cards: {(method, images a class): [card of each seed]}.
        backbones: {name: card}.
        steps: Of each run on the vehicles.
        folder: The output folder.
    """
    errors = {
        method: {size: [card["error_percent"] for card in cards[method, size]] for size in SIZES} for method in METHODS
    }
    seeds = len(errors["scratch"][SIZES[0]])
    runs = [*backbones.values(), *itertools.chain(*cards.values())]
    about = {
        **provenance(),
        "network": NETWORK,
        "images": "16x16",
        "steps": steps,
        "seeds": list(range(seeds)),
        "backbone_error_percent": {name: card["error_percent"] for name, card in backbones.items()},
        "cpu_minutes": round(sum(card["cpu_seconds"] for card in runs) / 60, 1),
    }
    write_text(folder / "transfer.json", json.dumps({**about, "errors_percent": errors}, indent=2) + "\n")
    write_text(folder / "transfer.md", "\n".join([*table(errors), "", *notes(about)]) + "\n")
    draw(errors, folder / "transfer.png")


def table(errors):
    """Yields the lines of the Markdown table: median and range of the seeds."""
    yield "| images a class | " + " | ".join(f"{LABELS[method]}, %" for method in METHODS) + " |"
    yield "|---" * (1 + len(METHODS)) + "|"
    for size in SIZES:
        found = [errors[method][size] for method in METHODS]
        cells = [f"{statistics.median(few):.1f} ({min(few):.1f} to {max(few):.1f})" for few in found]
        yield f"| {size} | {' | '.join(cells)} |"


def notes(about):
    """Yields lines that say what was measured, and on what."""
    yield f"{NETWORK} on 16x16 images; test error after the last of {about['steps']} steps:"
    yield f"median (lowest to highest) of seeds {about['seeds']}."
    yield f"Cost: {about['cpu_minutes']} CPU-minutes on {about['device']}."
    yield f"Commit {about['commit']}, {about['date']}. Versions: {about['versions']}."
    yield f"Command: `{about['command']}`."


def draw(errors, path):
    """Draws the median error of each method over images a class, and the range of its seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for method in METHODS:
        found = [errors[method][size] for size in SIZES]
        axes.plot(SIZES, [statistics.median(few) for few in found], marker="o", label=LABELS[method])
        axes.fill_between(SIZES, [min(few) for few in found], [max(few) for few in found], alpha=0.2)
    axes.set(xscale="log", xlabel="training images a class", ylabel="test error, %", ylim=(0, None))
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    """Trains the backbones, compares the methods, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, help="where CIFAR-10 is, if not in its usual place")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("transfer"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    data = load("cifar10_16", chosen.data_dir)
    backbones = train_backbones(data, chosen.output)
    cards = {(method, size): [] for method in METHODS for size in SIZES}
    for seed in range(chosen.seeds):
        for size in SIZES:
            few = some_classes(data, VEHICLES, "vehicles", size, seed, chosen.steps)
            for method in METHODS:
                card = one_run(method, few, size, seed, chosen.steps, chosen.output)
                cards[method, size].append(card)
                print(f"seed {seed}, {size} a class, {LABELS[method]}: {card['error_percent']:.2f} %", flush=True)
        write(cards, backbones, chosen.steps, chosen.output)


if __name__ == "__main__":
    main()
