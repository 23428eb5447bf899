"""Verbs of trained weights: `weights list | show | fetch | keep`, and `verify`."""

import dataclasses
import pathlib
import sys
from typing import Literal

from tyro.conf import Positional

from keras_preact.errors import printable
from keras_preact.network.costs import table
from keras_preact.network.families import model_key
from keras_preact.weights.cards import TRAINED, card_spec, get_card, list_weights


def list_cards(*, model: str | None = None, data: str | None = None) -> None:
    """Lists trained weights: where they are from, their error as their author printed it, their size and licence.

    Args:
        model: Only those of this network.
        data: Only those of this data set.
    """
    rows = [("name", "error, %", "MB", "licence", "author")]
    model = model and model_key(model)
    for card in map(get_card, list_weights(model, data)):
        rows.append((card.name, f"{card.error_percent:.2f}", f"{card.megabytes:.1f}", card.licence, card.author))
    if len(rows) == 1:
        print("There are no trained weights of that network and data set.")
    else:
        print("\n".join(table(rows)))


def show(name: Positional[str], /) -> None:
    """Shows all that is known of a set of trained weights, and the options of their network.

    Args:
        name: A name of `keras-preact weights list`.
    """
    card = get_card(name)
    options = {f"spec.{option}": value for option, value in card_spec(card).to_dict().items()}
    for field, value in {**dataclasses.asdict(card), "spec": None, **options}.items():
        if isinstance(value, (tuple, dict)) and len(value) > 12:
            value = f"{len(value)}: {', '.join(map(str, value))[:60]}..."
        if value is not None:
            print(f"{field:25} {value}")


def fetch(
    name: Positional[str],
    /,
    *,
    place: str | None = None,
    digest: str | None = None,
    output: pathlib.Path | None = None,
) -> None:
    """Downloads and converts trained weights, or takes them from a folder or a mirror.

    Args:
        name: A name of `keras-preact weights list`.
        place: A folder or the URL of a mirror's folder that has the file; KERAS_PREACT_WEIGHTS if left out.
        digest: The hash of the file, sha256:..., for weights whose author published none.
        output: A folder to keep the converted file in, instead of the cache.
    """
    from keras_preact.zoo import fetch_weights

    print(fetch_weights(name, place, digest, output))


def keep(
    run: Positional[pathlib.Path],
    /,
    *,
    output: pathlib.Path = TRAINED,
    data_dir: pathlib.Path | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
    author: str = "",
    licence: str = "",
) -> None:
    """Writes weights, card and history of a finished run to a folder <model>.<data>.<recipe>.

    Args:
        run: The folder of a finished run, or one that this verb wrote, to be rounded by --dtype float16.
        output: Where to make the folder; among the weights of this package if left out.
        data_dir: Where the data set's files are, if not where the run found them; a run of mixed precision is measured
            again in float32.
        dtype: How convolution kernels are stored; float16 halves the file, whose error is measured again.
        overwrite: Replace weights of the same name.
        author: Whom the card names as the one who trained them; if left out, that of kept weights stays.
        licence: Of the weights, as the card states it; likewise.
    """
    from keras_preact.training import publish

    print(publish.keep_weights(run, output, data_dir, dtype, overwrite, author, licence))


def verify(
    what: Positional[tuple[str, ...]] = (), /, *, data_dir: pathlib.Path | None = None, skip_corrupt: bool = False
) -> None:
    """Measures the error of trained weights again, and compares it to what their card states.

    Args:
        what: Folders of runs or of kept weights, .keras files of runs, names of `keras-preact weights list`; if none,
            those that came with this package.
        data_dir: The folder in which to look for the data sets.
        skip_corrupt: Leave image files out that cannot be read, as it is done for weights that were trained so.
    """
    from keras_preact.training import publish

    status = 0
    for each in what or publish.own_weights():
        try:
            one = publish.verify(each, data_dir, skip_corrupt)
        except ValueError as error:
            print(f"keras-preact: {printable(error)}", file=sys.stderr)
            status = 2
            continue
        status = status if one.agrees else max(status, 1)
        verdict = "agrees" if one.agrees else "DIFFERS"
        print(
            f"{one.name}: error {one.error_percent:.2f} %, stated {one.published_percent:.2f} %: {verdict}", flush=True
        )
    if status:
        raise SystemExit(status)
