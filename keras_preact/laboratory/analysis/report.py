"""`explain`: one HTML file about a network, with all pictures inside."""

import base64
import dataclasses
import html
import io
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np

from keras_preact import bounds
from keras_preact.data import load
from keras_preact.data.dataset import DataLike
from keras_preact.errors import argument_error, check_integer, check_integers
from keras_preact.files import check_local, check_writable, write_text
from keras_preact.laboratory.analysis import plots
from keras_preact.laboratory.analysis.gradients import check_backend
from keras_preact.laboratory.analysis.measure import analyze
from keras_preact.laboratory.analysis.sections import SECTIONS
from keras_preact.laboratory.analysis.sources import batch_for, find_network
from keras_preact.laboratory.analysis.studies import progress, study_depths, study_shortcuts
from keras_preact.names import command_line
from keras_preact.network.families import cifar_spec
from keras_preact.network.shortcuts import SHORTCUTS
from keras_preact.training.source import Trained
from keras_preact.types import PathLike
from keras_preact.version import __version__


@dataclasses.dataclass(frozen=True)
class Effort:
    """Says how much `explain` computes.

    Attributes:
        depths: Weight layers of the networks that are compared, 9n + 2 each.
        steps: Training steps of each.
        shortcut_depth: Weight layers of the networks with the shortcuts of Table 1, 6n + 2.
        deletions: Units to delete, one at a time.
    """

    depths: tuple[int, ...]
    steps: int
    shortcut_depth: int
    deletions: int


EFFORTS = {False: Effort((11, 29, 56, 164, 1001), 60, 110, 24), True: Effort((11, 20), 8, 20, 6)}  # by `quick`


def explain(
    model: Trained,
    output: PathLike = "report.html",
    *,
    data: DataLike | None = None,
    data_dir: PathLike | None = None,
    image_size: int | None = None,
    quick: bool = False,
    depths: Sequence[int] | None = None,
    steps: int | None = None,
    images: int = 16,
    seed: int = 0,
    verbose: int = 1,
) -> pathlib.Path:
    """Measures why a network trains, or does not, and writes a report: one HTML file, with no other file needed.

    It shows the network itself, then, on the digits, networks of growing depth without shortcuts, with the original
    unit and with pre-activation, before and after a little training, and the shortcuts of Table 1.

    Args:
        model: A name of `keras_preact.list_models()` or `resnet<depth>`, built untrained; or a trained network: a name
            of `list_weights()`, the folder of a run or of kept weights, a file, or a `ResidualNetwork`.
        output: The report; the name must end in `.html`. An earlier report is replaced, no other file.
        data: The name of a data set to measure the network on, or a `DataSet`; if None, what it was trained on, or the
            digits if that is not known. Its images are resized to the network's.
        data_dir: The folder in which to look for the data set; a run's own if None.
        image_size: Pixels of a side, to read a folder of images in, for a network that is built untrained. A trained
            one has its own.
        quick: Whether to compare shallow networks for a few steps only: seconds, not minutes.
        depths: Weight layers of the networks that are compared, 9n + 2 each; those of `EFFORTS` if None.
        steps: Training steps of each of them; likewise.
        images: Images to measure with.
        seed: Decides weights, order and masks.
        verbose: 0 to print no lines of progress.

    Returns:
        The path of the report.

    Raises:
        ValueError: If an argument is not allowed; nothing is built or written then.
    """
    path = _checked_output(output)
    check_backend()
    effort = _effort(quick, depths, steps)
    images = check_integer("images", images, minimum=2)
    seed = check_integer("seed", seed, minimum=0, maximum=bounds.SEED)
    keras.utils.set_random_seed(seed)
    network, data = find_network(model, data, data_dir, image_size)
    batch, labels = batch_for(network, data, images)
    progress(verbose, f"{network.name}: {sum(network.spec.units)} units, {len(batch)} images of {data.name}")
    result = analyze(network, batch, labels, deletions=0 if labels is None else effort.deletions, seed=seed)
    figures = _own_figures(result)
    digits = load("digits")
    runs = study_depths(digits, effort.depths, effort.steps, images=images, seed=seed, verbose=verbose)
    figures["depths"] = plots.plot_depths(runs)
    figures["degradation"] = plots.plot_degradation(runs, len(digits.class_names))
    shortcuts = study_shortcuts(digits, effort.shortcut_depth, images=images, seed=seed, verbose=verbose)
    figures["shortcuts"] = plots.plot_shortcuts(shortcuts)
    facts = {"steps": effort.steps, "depth": effort.shortcut_depth}
    note = QUICK_NOTE if quick else ""
    write_text(path, _page(result, data.name, figures, facts, note, seed))
    return path


def _checked_output(output):
    path = check_local("output", output)
    if path.is_dir():
        raise argument_error("output", "a file's name, not a folder", str(path), f"Nearest: {path / 'report.html'}.")
    if path.suffix.lower() != ".html":
        raise argument_error("output", "a name that ends in .html", str(path), f"Nearest: {path.with_suffix('.html')}.")
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise argument_error("output", "a new file, or an earlier report", str(path))
    check_writable("output", path.parent)
    return path


def _effort(quick, depths, steps):
    effort = EFFORTS[bool(quick)]
    if depths is not None:
        effort = dataclasses.replace(effort, depths=check_integers("depths", depths))
    if steps is not None:
        effort = dataclasses.replace(effort, steps=check_integer("steps", steps))
    for depth in effort.depths:
        cifar_spec(depth, unit="bottleneck")
    return effort


def _own_figures(result):
    """Returns the pictures of the network itself that there is something to see in, by section."""
    figures = {"signals": plots.plot_signals(result)}
    if result.loss is not None:
        figures["gradients"] = plots.plot_gradients(result)
        if not SHORTCUTS[result.shortcut].is_plain:
            figures["factors"] = plots.plot_factors(result)
    if result.cut_share.any() or np.isfinite(result.gate_openness).any():
        figures["openness"] = plots.plot_openness(result)
    if result.loss_without is not None:
        figures["deletions"] = plots.plot_deletions(result)
    return figures


STYLE = """
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: #222; background: #f6f6f4; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 0 0 .4rem; }
section { background: #fff; border-radius: .6rem; padding: 1rem; margin: 1rem 0; display: grid; gap: 1rem; }
img { display: block; width: 100%; max-width: 32rem; height: auto; margin: 0 auto; }
.equation { font-family: "STIX Two Math", "Cambria Math", Georgia, serif; background: #f0f4f8; border-radius: .4rem;
  padding: .4rem .6rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .15rem .6rem .15rem 0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; white-space: normal; }
footer { font-size: .85rem; color: #555; overflow-wrap: anywhere; }
@media (min-width: 50rem) { section { grid-template-columns: 32rem 1fr; align-items: center; } }
section.wide { grid-template-columns: minmax(0, 1fr); }
"""

QUICK_NOTE = """<p><strong>Quick form.</strong> The networks that are compared here are too shallow, and trained too
briefly, to show what the text beside them says. Leave <code>--quick</code> out for that.</p>"""

MARK = "<footer>keras_preact"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>Measured after <em>Identity Mappings in Deep Residual Networks</em> (He, Zhang, Ren, Sun 2016), whose equations and
tables are quoted by their numbers.</p>
{body}
{mark} {version}, Keras {keras} on {backend}, seed {seed}; <code>{command}</code></footer>
</main>
</body>
</html>
"""


def _page(result, data, figures, facts, note, seed):
    sections = [_facts(result, data), note]
    sections += [_section(name, section, figures[name], facts) for name, section in SECTIONS.items() if name in figures]
    sections.append(_numbers(result))
    return PAGE.format(
        title=f"Why {html.escape(result.network)} trains, or does not",
        style=STYLE,
        body="\n".join(sections),
        mark=MARK,
        version=__version__,
        keras=keras.__version__,
        backend=keras.backend.backend(),
        seed=seed,
        command=html.escape(command_line(sys.argv)),
    )


def _facts(result, data):
    rows = {
        "network": f"{result.network}: {result.depth} layers, {len(result.units)} units",
        "unit": f"ordering {result.ordering}, shortcut {result.shortcut}",
        "measured": f"on {result.images} images of {data}, with the batch's statistics, as in a training step",
    }
    if result.loss is not None:
        relative = result.gradient_norm[0] / result.gradient_at_end
        rows["loss"] = f"{result.loss:.4g} nats"
        rows["gradient"] = f"at the first unit {relative:.3g} times that behind the last"
    if result.loss is not None and not SHORTCUTS[result.shortcut].is_plain:
        rows["shortcuts"] = f"product of the factors of all units that keep the shape: {result.network_product[0]:.4g}"
    lines = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in rows.items())
    return f'<section class="wide"><table class="facts">{lines}</table></section>'


def _section(name, section, figure, facts):
    text = f"<h2>{section.title}</h2><p class='equation'>{section.equation}</p><p>{section.text.format(**facts)}</p>"
    image = f'<img src="{_svg(figure)}" alt="{html.escape(section.title)}">'
    return f'<section id="{name}"><div>{image}</div><div>{text}</div></section>'


def _svg(figure):
    """Returns a figure as the URL of an SVG that lies in the URL itself; the same figure gives the same one."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "keras_preact", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _data_url("image/svg+xml", file.getvalue())


def _data_url(kind, text):
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _numbers(result):
    """Returns a dozen units as a table, and all of them as a CSV to download."""
    head, *lines = (line.split() for line in result.table(rows=12).splitlines())
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    link = f'<a download="{html.escape(result.network)}.csv" href="{_data_url("text/csv", result.csv())}">CSV</a>'
    return (
        f'<section class="wide" id="numbers"><h2>Numbers</h2><div class="scroll"><table><tr>{head}</tr>{body}</table>'
        f"</div><p>All {len(result.units)} units: {link}.</p></section>"
    )
