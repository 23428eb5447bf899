"""The report of `keras-preact explain`: what is in the file, what a browser makes of it, and what is refused."""

import base64
import collections
import csv
import dataclasses
import html.parser
import io
import json
import shutil
import subprocess
from types import SimpleNamespace
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from tiny_data import tiny
from weights_files import run_card

import keras_preact
from keras_preact.cli import main
from keras_preact.data import load
from keras_preact.laboratory.analysis import plots, report, sources, studies
from keras_preact.laboratory.analysis.sources import batch_for, find_network
from keras_preact.weights.cards import get_card

VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """Reads a page strictly: each tag is closed, in order, and each attribute stands once.

    Attributes:
        tags: (name, attributes as a dict) of every tag.
        text: The text between them, by the innermost tag.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], collections.defaultdict(str)
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def decoded(url, kind):
    """What lies in a data URL of a kind."""
    start = f"data:{kind};base64,"
    assert url.startswith(start)
    return base64.b64decode(url[len(start) :], validate=True).decode()


@pytest.fixture(scope="module")
def written(tmp_path_factory, eager):
    """A report in its quick form, of two shortcuts and one depth, and what the command printed."""
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out:
        patch.setattr(studies, "TABLE_1", studies.TABLE_1[:2])
        patch.setattr("sys.stdout", out)
        main(["explain", "ResNet11", "--quick", "--depths", "11", "--steps", "2", "--output", str(path)])
        return path, out.getvalue()


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0].read_text(encoding="utf-8"))


def test_the_report_is_one_file_and_the_command_names_it(written):
    path, out = written
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert f"{path}: open it in a browser" in out
    assert "preactivation    11 layers" in out


def test_the_page_is_well_formed_fits_a_phone_and_asks_for_nothing_else(page):
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert not page.all("script")
    assert not page.all("link")
    assert not any(word in page.text["style"] for word in ("url(", "@import"))
    for _, attributes in page.tags:
        assert all(attributes[name].startswith("data:") for name in ("src", "href") if name in attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "broken", ["<!DOCTYPE html><p><b></p></b>", "<!DOCTYPE html><p>", '<!DOCTYPE html><p id="a" id="b"></p>']
)
def test_the_reader_of_pages_is_strict(broken):
    with pytest.raises(AssertionError):
        Page(broken)


def test_every_picture_is_there_and_whole(page):
    images = page.all("img")
    titles = ["signals", "gradients", "factors", "deletions", "depths", "shortcuts", "degradation"]
    assert [attributes["id"] for attributes in page.all("section") if "id" in attributes] == [*titles, "numbers"]
    drawings = [ElementTree.fromstring(decoded(image["src"], "image/svg+xml")) for image in images]
    assert len(drawings) == len(titles) == len({image["alt"] for image in images})
    for drawing in drawings:
        links = [value for node in drawing.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert links
        assert all(link.startswith("#") for link in links)
        lines = [node for node in drawing.iter("{http://www.w3.org/2000/svg}g") if "line2d" in node.get("id", "")]
        assert len(lines) > 4


def test_the_numbers_can_be_taken_along(page):
    (link,) = page.all("a")
    assert link["download"] == "resnet11.csv"
    rows = list(csv.DictReader(io.StringIO(decoded(link["href"], "text/csv"))))
    assert [row["unit"] for row in rows] == ["stage1_unit01", "stage2_unit01", "stage3_unit01"]
    assert all(float(row["gradient_norm"]) > 0 for row in rows)


def test_the_same_figure_makes_the_same_picture(page):
    from matplotlib.figure import Figure

    def picture():
        figure = Figure()
        figure.subplots().plot([1, 2], clip_on=True)
        return report._svg(figure)

    assert picture() == picture()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_picture_within_the_width(written, width, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    assert browser, "install Chromium, e.g. by `apt-get install chromium`"
    asks = """<script>
      const drawn = image => image.complete && image.naturalWidth > 0 && image.clientWidth > 200
      const asked = entry => !entry.name.startsWith("data:")
      onload = () => parent.postMessage({
        pictures: [...document.images].filter(drawn).length,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        requests: performance.getEntriesByType("resource").filter(asked).length}, "*")</script>"""
    text = written[0].read_text(encoding="utf-8").replace("</body>", f"{asks}</body>")
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"<script>onmessage = e => document.body.dataset.answer = JSON.stringify(e.data)</script>"
        f'<body><iframe src="report.html" style="width: {width}px; height: 800px; border: 0"></iframe></body>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (answer,) = [body["data-answer"] for body in Page(f"<!DOCTYPE html>{done.stdout}").all("body")]
    assert json.loads(answer) == {"pictures": 7, "overflow": 0, "requests": 0}


def test_the_picture_of_depths_names_networks_that_have_no_gradient_left():
    """A plain network of 1001 layers overflows in its first steps; its line must not be missing without a word."""

    def run(depth, after):
        measured = [SimpleNamespace(gradient_norm=np.array(g), gradient_at_end=1.0) for g in ([9.0, 3.0], after)]
        return SimpleNamespace(kind="plain", depth=depth, start=measured[0], after=measured[1] if after else None)

    figure = plots.plot_depths([run(11, [2.0, 1.0]), run(164, [np.nan, 0.0]), run(1001, None)])
    start, after = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert start == []
    assert after == ["164, 1001 layers: no longer finite"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]


# Where the network and the images come from


def test_a_named_network_reads_images_in_their_size_or_its_smallest():
    network, data = find_network("ResNet29")
    images, labels = batch_for(network, data, 5)
    assert images.shape == (5, 16, 16, 1)
    spread = [0, 89, 179, 269, 359]  # files are sorted by class
    np.testing.assert_array_equal(images, data.normalized(data.test.read(spread)))
    np.testing.assert_array_equal(labels, data.test.labels[spread])
    network, _ = find_network("resnet50")
    assert batch_for(network, data, 5)[0].shape == (5, 32, 32, 1)


def test_a_file_is_measured_in_its_size_on_the_classes_it_has(tmp_path):
    keras_preact.ResNet(11, input_shape=(8, 12, 3), num_classes=4).save(tmp_path / "model.keras")
    network, data = find_network(tmp_path / "model.keras")
    images, labels = batch_for(network, data, 6)
    assert images.shape == (6, 8, 12, 3)
    assert labels.max() < 4
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    two = keras_preact.ResNet(11, input_shape=(8, 8, 1), include_top=False)
    assert batch_for(two, data, 3)[1] is None


def test_a_run_is_measured_on_its_own_data(tmp_path):
    model = keras_preact.ResNet(11, input_shape=(16, 16, 1))
    model.save(tmp_path / "model.keras")
    (tmp_path / "card.json").write_text(json.dumps(run_card(model)))
    network, data = find_network(tmp_path)
    assert (network.spec.depth, data.name) == (11, "digits")
    (tmp_path / "card.json").write_text(json.dumps(run_card(model, data="letters")))
    with pytest.raises(ValueError, match=r"letters.*\(--data digits\)"):
        find_network(tmp_path)
    assert find_network(tmp_path, "digits")[1].name == "digits"


def test_kept_weights_are_measured_on_what_they_were_trained_on(monkeypatch):
    """In the normalisation of their own images, and by name of the data set that is not at hand."""
    asked = []
    monkeypatch.setattr(sources, "data_of", lambda source, data_dir: asked.append(source.data) or load("digits"))
    find_network("resnet164.cifar10.modern_cifar")
    assert asked == ["cifar10"]
    _, data = find_network("resnet164.digits.digits")
    card = get_card("resnet164.digits.digits").preprocessing
    assert (asked[1], data.mean, data.std) == ("digits", card.mean, card.std)
    other = dataclasses.replace(load("digits"), mean=(1.0,), std=(2.0,))
    assert find_network("resnet164.digits.digits", other)[1].mean == card.mean


def test_one_sigmoid_output_is_measured_on_two_classes():
    model = keras_preact.ResNet(11, input_shape=(16, 16, 1), num_classes=1, classifier_activation="sigmoid")
    assert set(batch_for(model, load("digits"), 12)[1]) == {0, 1}


def test_outputs_whose_loss_is_not_known_are_measured_without_labels():
    model = keras_preact.ResNet(11, input_shape=(16, 16, 1), num_classes=3, classifier_activation="sigmoid")
    images, labels = batch_for(model, load("digits"), 12)
    assert (len(images), labels) == (12, None)
    assert keras_preact.analyze(model, images, labels).loss is None


def test_every_epoch_of_a_study_has_an_order_of_its_own():
    seen = []
    network = SimpleNamespace(
        compile=lambda *_: None,
        reset_metrics=lambda: None,
        train_on_batch=lambda images, labels: seen.append(labels.tolist()) or 1.0,
    )
    studies._train(network, tiny(), steps=4, seed=0)  # of 32 of 64 images: two epochs
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3])
    assert seen[:2] != seen[2:]


def test_images_of_other_channels_are_refused():
    two = keras_preact.ResNet(11, input_shape=(8, 8, 3))
    data = load("digits")
    colored = keras_preact.data.from_arrays(*(np.zeros((4, 8, 8, 2), "uint8"), np.arange(4)) * 2)
    assert batch_for(two, data, 2)[0].shape == (2, 8, 8, 3)
    with pytest.raises(ValueError, match="`data` must be a data set whose images have 3 channels"):
        batch_for(two, colored, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["VGG16"], "Nearest"),
        (["resnet12"], "depth"),
        (["nowhere.keras"], "There is no such file"),
        (["garbage.keras"], "must be a whole .keras file"),
        (["other.keras"], "a network that keras_preact built"),
        (["folder"], "finished run"),
        (["resnet11", "--output", "folder"], "a file's name, not a folder"),
        (["resnet11", "--output", "report.pdf"], "ends in .html"),
        (["resnet11", "--output", "garbage.keras/report.html"], "where files can be written"),
        (["resnet11", "--output", "homepage.html"], "a new file, or an earlier report"),
        (["resnet11", "--depths", "11", "12"], "depth"),
        (["resnet11", "--steps", "0"], "steps"),
        (["resnet11", "--images", "1"], "images"),
        (["resnet11", "--data", "digit"], 'Nearest: "digits"'),
    ],
)
def test_bad_input_is_one_message_and_nothing_is_written(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage.keras").write_text("no model")
    (tmp_path / "homepage.html").write_text("<html></html>")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save("other.keras")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main(["explain", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-preact: `")
    assert message in error
    assert sorted(tmp_path.rglob("*")) == before
