"""The run folder: a model, its card, its history and its curves."""

import csv
import io
import json
import math
import pathlib

import keras

from keras_preact.errors import argument_error
from keras_preact.files import write_text, written_aside

CARD = "card.json"
MODEL = "model.keras"
SAVED_MODEL = "saved_model"


def check_folder(path, overwrite=False):
    """Returns the path of a run's folder to be; raises a `ValueError` if what is there may not be overwritten.

    Something else than a run's folder is never overwritten, and a run's only with `overwrite`.
    """
    path = pathlib.Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        if not overwrite:
            raise argument_error("output", "a new or empty folder", str(path), "Pass --overwrite (overwrite=True).")
        if not (path / CARD).is_file() and not (path / "history.csv").is_file():
            raise argument_error("output", "a run's folder if it is to be overwritten", str(path))
    return path


def make_folder(path):
    """Makes the folder of a run, with those above it, and takes the card of an old run out of it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / CARD).unlink(missing_ok=True)  # the card is written last: a folder with one holds a finished run


def read_card(path):
    """Returns the card of a finished run as a dict; a `ValueError` says if `path` holds none."""
    card = pathlib.Path(path) / CARD
    if not card.is_file():
        raise argument_error("run", f"the folder of a finished run, with a {CARD} in it", str(path))
    try:
        return json.loads(card.read_text(encoding="utf-8"))
    except ValueError as error:
        raise argument_error("run", f"a folder whose {CARD} is whole", str(path), str(error)) from error


def load_model(path):
    """Returns the trained `keras.Model` of a run folder."""
    read_card(path)
    return keras.models.load_model(pathlib.Path(path) / MODEL, compile=False)


def write_card(path, card):
    """Writes `card.json`, and `card.md` for people."""
    folder = pathlib.Path(path)
    write_text(folder / "card.md", _readable(card))
    write_text(folder / CARD, json.dumps(card, indent=2) + "\n")


def _readable(card):
    rows = []
    for name, value in card.items():
        if isinstance(value, dict):
            rows.append(f"\n## {name}\n")
            rows += [f"- {key}: {entry}" for key, entry in value.items()]
        else:
            rows.append(f"- {name}: {value}")
    return f"# {card['model']} on {card['data']}\n\n" + "\n".join(rows) + "\n"


class RunFiles(keras.callbacks.Callback):
    """Writes `history.csv` and `curves.png` after each epoch."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.rows = pathlib.Path(folder), []

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        text = io.StringIO()
        writer = csv.DictWriter(text, self.rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / "history.csv", text.getvalue())
        self._draw()

    def _draw(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.2), layout="constrained")
        epochs = [row["epoch"] for row in self.rows]
        panels = (("loss", ("loss", "val_loss")), ("error, %", ("error_percent", "val_error_percent")))
        for axes, (title, names) in zip(figure.subplots(1, 2), panels):
            for name in names:
                if name in self.rows[0]:
                    label = "test" if name.startswith("val_") else "training"
                    axes.plot(epochs, [row[name] for row in self.rows], marker=".", label=label)
            axes.set(xlabel="epoch", ylabel=title, yscale="log" if title == "loss" else "linear")
            axes.legend()
        with written_aside(self.folder / "curves.png") as aside:
            figure.savefig(aside, dpi=120)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training with a `FloatingPointError` as soon as the loss is not finite, before anything of it is written.

    Args:
        schedule: The learning rate: a number, or a function of the step.
    """

    def __init__(self, schedule):
        super().__init__()
        self.schedule, self.step = schedule, 0

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            rate = float(self.schedule(self.step) if callable(self.schedule) else self.schedule)
            raise FloatingPointError(
                f"The loss is {loss} at step {self.step}, learning rate {rate:g}. Try a lower one."
            )
        self.step += 1
