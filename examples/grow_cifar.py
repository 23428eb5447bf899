"""Trains networks on CIFAR-10 within one budget of CPU time each: from scratch, grown, and with other settings.

TF_ENABLE_ONEDNN_OPTS=1 python examples/grow_cifar.py --data-dir DIR --output growth

ResNet-20 and ResNet-56 on 16x16 images. The error is of 5,000 training images held out: the test images take no part.
It writes `growth.md`, `growth.png` and `growth.json` into the output folder after every run, and resumes where it
stopped. `--rows` chooses some of `ROWS`.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import time

import keras

import keras_preact
from keras_preact import from_arrays, load
from keras_preact.data.dataset import held_out
from keras_preact.files import write_text
from keras_preact.training.provenance import provenance

HELD_OUT = 5_000
BASE = keras_preact.RECIPES["modern_cifar"].replace(
    source="ours: modern_cifar at 16x16 without cutout, one change a row",
    epochs=3,
    global_batch_size=128,
    learning_rate=0.1,
    warmup_steps=100,
    crop_padding=2,
    cutout=0,
)
SGD = {"optimizer": "sgd", "weight_decay": 5e-4, "weight_decay_kind": "l2_kernels"}


@dataclasses.dataclass(frozen=True)
class Row:
    """Describes a run: what the table calls it, its network, what differs from BASE, and if the picture shows it."""

    label: str
    model: str = "ResNet20"
    fields: dict = dataclasses.field(default_factory=dict)
    drawn: bool = False


def grown(*levels):
    """Returns the recipe's fields of a training in levels (depth, image size, epochs)."""
    return {"levels": levels, "epochs": sum(epochs for *_, epochs in levels)}


ROWS = {
    "scratch56": Row("ResNet-56 from scratch", "ResNet56", drawn=True),
    "grown56": Row("ResNet-20 grown to 56", "ResNet56", grown((20, 0, 4), (56, 0, 2)), drawn=True),
    "grown56small": Row(
        "ResNet-20 on 12x12, grown to 56 on 16x16", "ResNet56", grown((20, 12, 6), (56, 0, 2)), drawn=True
    ),
    "scratch20": Row("ResNet-20 from scratch, longer", fields={"epochs": 9}, drawn=True),
    "base": Row("batch 128, Muon, rate 0.1, decay 0.01"),
    "sgd": Row("SGD, decay 5e-4", fields=SGD),
    "small": Row("12x12 images first", fields=grown((20, 12, 3), (20, 0, 1))),
    "batch64": Row("batch 64", fields={"global_batch_size": 64}),
    "batch256": Row("batch 256", fields={"global_batch_size": 256, "warmup_steps": 50}),
    "rate0.05": Row("rate 0.05", fields={"learning_rate": 0.05}),
    "rate0.2": Row("rate 0.2", fields={"learning_rate": 0.2}),
    "ema": Row("average of the weights, 0.99", fields={"ema": 0.99}),
    "decay0.001": Row("decay 0.001", fields={"weight_decay": 0.001}),
}


class CpuTime(keras.callbacks.Callback):
    """Writes a line after each epoch: the CPU-seconds spent so far, without validation, and the held-out error.

    Args:
        path: The CSV file; a resumed run goes on with what its checkpoint holds of it.
    """

    def __init__(self, path):
        super().__init__()
        self.path, self.last, self.rows, self.spent = path, time.process_time(), [], 0.0

    def state_dict(self):
        return {"rows": self.rows, "spent": self.spent + time.process_time() - self.last}

    def load_state_dict(self, state):
        self.rows, self.spent, self.last = list(state["rows"]), state["spent"], time.process_time()

    def on_test_begin(self, logs=None):
        self.spent += time.process_time() - self.last

    def on_test_end(self, logs=None):
        self.last = time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "cpu_seconds": round(self.spent, 1), "error_percent": logs["val_error_percent"]}
        self.rows.append(row)
        lines = [",".join(row), *(",".join(str(value) for value in each.values()) for each in self.rows)]
        write_text(self.path, "\n".join(lines) + "\n")


def read(path):
    """Returns the rows of a CSV file of numbers."""
    with path.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def run(name, data, folder):
    """Trains the network of a row, if that is not done; returns the epochs, and the error after the last."""
    row, path = ROWS[name], folder / f"{name}.csv"
    recipe = BASE.replace(**row.fields)
    callbacks = [CpuTime(path)]
    card = keras_preact.train(row.model, data=data, recipe=recipe, output=folder / name, callbacks=callbacks, verbose=0)
    keras.backend.clear_session()
    epochs = read(path)
    return {
        "label": row.label,
        "model": row.model,
        "fields": row.fields,
        "cpu_minutes": round(epochs[-1]["cpu_seconds"] / 60, 1),
        "error_percent": card["error_percent"],  # of averaged weights, where the recipe keeps an average
        "epochs": epochs,
    }


def write(results, folder, count):
    """Writes the numbers, the table and the picture of the rows so far, whose errors are of `count` images."""
    about = {**provenance(), "images": "16x16", "held_out": count, "recipe": dataclasses.asdict(BASE)}
    write_text(folder / "growth.json", json.dumps({**about, "rows": results}, indent=2) + "\n")
    rows = ["| run | epochs | CPU-minutes | held-out error, % |", "|---|---|---|---|"]
    for found in results.values():
        cells = (found["label"], len(found["epochs"]), found["cpu_minutes"], f"{found['error_percent']:.2f}")
        rows.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    notes = [
        f"One run each, seed {BASE.seed}; {count:,} held-out training images, none of the test images.",
        "CPU-minutes are of training, without the measurements of the error.",
        f"{about['device']}; commit {about['commit']}, {about['date']}.",
        f"Command: `{about['command']}`. Versions: {about['versions']}.",
    ]
    write_text(folder / "growth.md", "\n".join([*rows, "", *notes]) + "\n")
    drawn = [found for name, found in results.items() if ROWS[name].drawn]
    if drawn:
        draw(drawn, folder / "growth.png")


def draw(rows, path):
    """Draws the held-out error of each row over the CPU-hours spent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for found in rows:
        hours = [epoch["cpu_seconds"] / 3600 for epoch in found["epochs"]]
        axes.plot(hours, [epoch["error_percent"] for epoch in found["epochs"]], marker="o", label=found["label"])
    axes.set(xlabel="CPU-hours of training", ylabel="error on held-out images, %", xlim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(path, dpi=150)


def main():
    """Carries out the rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=pathlib.Path, help="where CIFAR-10 is, if not in its usual place")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("growth"))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--images", type=int, help="of all training images, to try the program on few")
    chosen = parser.parse_args()
    whole = load("cifar10_16", chosen.data_dir).train
    images, labels = whole.images[: chosen.images], whole.labels[: chosen.images]
    order = from_arrays(images, labels, images[:1], labels[:1], name="cifar10_16")
    training, validation = held_out(order, min(HELD_OUT, len(labels) // 10), seed=0)
    data = dataclasses.replace(training, test=validation.test)
    chosen.output.mkdir(parents=True, exist_ok=True)
    before = chosen.output / "growth.json"
    results = json.loads(before.read_text(encoding="utf-8"))["rows"] if before.exists() else {}
    for name in chosen.rows:
        results[name] = run(name, data, chosen.output)
        print(f"{name}: {results[name]['error_percent']:.2f} %, {results[name]['cpu_minutes']} CPU-minutes", flush=True)
        write(results, chosen.output, len(validation.test))


if __name__ == "__main__":
    main()
