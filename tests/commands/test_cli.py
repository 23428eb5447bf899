"""The command line, as a person types it."""

import contextlib
import importlib
import json
import logging
import os
import signal
import subprocess
import sys

import pytest

from keras_preact.cli import VERBS, function_of, help_text, main
from keras_preact.commands import networks
from keras_preact.errors import ParityError
from keras_preact.names import command_line
from keras_preact.training import trainer
from keras_preact.training.provenance import suited_precision
from keras_preact.training.signals import EndingSignals
from keras_preact.weights.cards import TRAINED


def test_list_names_every_network(capsys):
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:9]] == [
        "resnet110",
        "resnet164",
        "resnet1001",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnet200",
    ]
    assert "1,703,258" in lines[3]
    assert "Every depth of a family has a name: resnet56" in "\n".join(lines)
    assert "244,500,992" in lines[3]


def test_inspect_shows_stages_of_a_name(capsys):
    main(["inspect", "resnet29", "--batch-size", "2"])
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[3:8]] == ["stem", "stage1", "stage2", "stage3", "head"]
    assert "signals of 2, MB" in out
    assert ("bfloat16" in out) == (suited_precision() is not None)


@pytest.mark.parametrize(
    ("flags", "backend", "said"),
    [
        ("fpu avx2 avx512_bf16", "tensorflow", "mixed_bfloat16"),
        ("fp asimd bf16", "tensorflow", "mixed_bfloat16"),
        ("fpu avx2 avx512f", "tensorflow", "float32 trains faster"),
        ("fpu avx2 avx512_bf16", "jax", "JAX trains faster in float32"),
    ],
)
def test_the_precision_that_suits_a_processor_is_told_by_its_flags(flags, backend, said):
    assert said in suited_precision(flags, backend)


def test_train_evaluate_predict_and_inspect(tmp_path, capsys):
    run = str(tmp_path / "run")
    flags = ["--epochs", "1", "--global-batch-size", "128", "--ordering", "original", "--no-nesterov"]
    main(["train", "ResNet11", *flags, "--output", run])
    out = capsys.readouterr().out
    assert f"keras-preact predict {run}" in out
    assert "test error" in out
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["network"]["spec"]["ordering"] == "original"
    assert (card["recipe"]["epochs"], card["recipe"]["nesterov"]) == (1, False)
    main(["evaluate", run])
    assert json.loads(capsys.readouterr().out)["error_percent"] == card["error_percent"]
    main(["predict", run, f"{run}/samples/0.png", f"{run}/samples/1.png", "--top", "1"])
    assert capsys.readouterr().out.count("%") == 2
    main(["inspect", run])
    assert "11 layers, original" in capsys.readouterr().out


def test_train_takes_a_family_where_a_depth_is_in_both(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "train", lambda model, **keywords: asked.append(keywords["model_options"]) or {})
    main(["train", "ResNet50", "--family", "cifar"])
    main(["train", "ResNet50"])
    assert asked[0] == {**asked[1], "family": "cifar"}
    assert "family" not in asked[1]


def test_what_is_logged_is_shown_while_a_command_runs(capsys, monkeypatch):
    log = logging.getLogger("keras_preact.data.files")

    def lists():
        log.info("a note of \x1b[1m%s", "cat.png")
        log.warning("a warning")
        log.debug("a detail")

    monkeypatch.setattr(networks, "list_networks", lists)
    main(["list"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a note of \\x1b[1mcat.png\n", "keras-preact: a warning\n")
    lists()
    assert capsys.readouterr().out == ""
    assert logging.getLogger("keras_preact").propagate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "ResNet163"], "depth"),
        (["train", "--recipe", "digit"], 'Nearest: "digits"'),
        (["train", "--epochs", "0"], "epochs"),
        (["train", "--epochs", "99999999999"], "at most 2,147,483,647"),
        (["train", "--seed", "4294967296"], "at most 4,294,967,295"),
        (["train", "--image-size", "5000"], "at most 4,096"),
        (["launch", "--", "trian"], 'Nearest: "train"'),
        (["launch", "--", "launch", "--", "train"], "`command` must be a verb of keras-preact"),
        (["launch", "--workers", "2", "--"], "`command` must be a verb of keras-preact"),
        (["train", "--recipe", "paper_cifar", "--epochs", "10"], "`epochs` must be left out with 64,000 steps"),
        (["train", "ResNet11", "--output", "setup.cfg"], "output"),
        (["train", "--layout", "layers", "--remat", "--output", "run"], "`remat` must be left out with layout="),
        (["evaluate", "nowhere"], "a name of list_weights(), the folder of a run"),
        (["predict", "nowhere", "x.png"], "a name of list_weights(), the folder of a run"),
        (["predict", str(TRAINED / "resnet164.digits.digits"), "x.png"], "`images` must be an existing file"),
        (["inspect", "VGG16"], "Nearest"),
        (["inspect", "resnt164"], "There is no such file. Nearest: resnet164."),
    ],
)
def test_wrong_input_is_one_message_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.cfg").touch()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("keras-preact: `")
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["setup.cfg"]


@pytest.mark.parametrize("kind", [OSError, ConnectionError, ImportError, FloatingPointError, ParityError])
def test_what_fails_is_one_message_and_status_1(kind, monkeypatch, capsys):
    def fails():
        raise kind("why")

    monkeypatch.setattr(networks, "list_networks", fails)
    with pytest.raises(SystemExit) as stop:
        main(["list"])
    assert (stop.value.code, capsys.readouterr().err) == (1, "keras-preact: why\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_whose_summary_is_that_of_its_function(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    assert f"keras-preact {verb}" in capsys.readouterr().out
    assert VERBS[verb].summary == function_of(verb).__doc__.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "usage: keras-preact VERB"),
        (["help"], 0, "usage: keras-preact VERB"),
        (["weights", "-h"], 0, "usage: keras-preact weights VERB"),
        ([], 2, "usage: keras-preact VERB"),
        (["weights"], 2, "usage: keras-preact weights VERB"),
        (["trian"], 2, 'Nearest: "train"'),
        (["weights", "shwo", "x"], 2, 'Nearest: "show"'),
    ],
)
def test_without_a_verb_there_is_help_or_the_nearest(arguments, status, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    captured = capsys.readouterr()
    assert said in (captured.err if status else captured.out)


def test_the_help_lists_every_verb_in_the_width_of_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert [verb for verb in VERBS if not any(line.startswith(f"  {verb} ") for line in lines)] == []
    found = [line[2:].partition("  ")[0] for line in help_text("weights").splitlines() if line.startswith("  w")]
    assert found == [verb for verb in VERBS if verb.startswith("weights ")]


def test_a_home_folder_is_known_in_every_flag(monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "train", lambda model, **keywords: asked.append(keywords) or {})
    monkeypatch.setenv("HOME", "/home/anna")
    main(["train", "ResNet11", "--output=~/run", "--data=~", "--data-dir", "~/plain"])
    assert [str(asked[0][name]) for name in ("output", "data", "data_dir")] == [
        "/home/anna/run",
        "/home/anna",
        "~/plain",
    ]


def test_a_ctrl_c_waits_for_the_imports_in_which_it_would_be_lost(monkeypatch, capsys):
    imported = []

    def imports(name):
        with contextlib.suppress(KeyboardInterrupt):  # as callbacks of C++ do
            signal.raise_signal(signal.SIGINT)
        imported.append(name)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(networks, "inspect", lambda: imported.append("what must not run"))
    function = function_of("inspect")
    monkeypatch.setattr(importlib, "import_module", imports)
    try:
        with pytest.raises(KeyboardInterrupt):
            function()
    finally:
        signal.signal(signal.SIGINT, before)
    assert imported == ["keras", "tensorflow"]


def test_the_third_ctrl_c_ends_at_once(monkeypatch):
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = []
    try:
        with contextlib.suppress(KeyboardInterrupt), EndingSignals("Ended."):
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                for _ in range(2):
                    signal.raise_signal(signal.SIGINT)
                    seen.append(list(statuses))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [[], [130]]


def run_bare(*words, **how):
    """Runs a command that imports no Keras."""
    environment = {**os.environ, "KERAS_BACKEND": "numpy", **how.pop("variables", {})}
    return subprocess.run(
        [sys.executable, "-m", "keras_preact", *words], env=environment, stderr=subprocess.PIPE, **how
    )


def test_a_reader_that_goes_ends_a_command_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    for variables in ({}, {"PYTHONUNBUFFERED": "1"}):
        done = run_bare("list", stdout=writing, variables=variables)
        assert (done.returncode, done.stderr) == (141, b"")
    os.close(writing)


def test_a_letter_that_the_terminal_lacks_is_written_otherwise(tmp_path):
    (tmp_path / "own.py").write_text("print('caf\u00e9')\n", encoding="utf-8")
    done = run_bare(
        "--import", "own", "list", stdout=subprocess.PIPE, cwd=tmp_path, variables={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, rb"caf\xe9")


ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
HELD = """
import os, sys
from keras_preact.cli import stderr_held
with stderr_held():
    os.write(2, b"a note\\n")
    {}
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize(
    ("end", "said"),
    [("pass", "after"), ("raise ValueError", "a note\nTraceback"), ("os.abort()", "a note")],
)
def test_notes_are_held_back_and_shown_if_their_writer_fails_or_crashes(end, said):
    code = HELD.format(end)
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'keras-preact'\n" + code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr.startswith(said)


def test_a_command_that_computes_shows_no_notes_of_tensorflow(tmp_path):
    command = [sys.executable, "-m", "keras_preact", "train", "ResNet8"]
    flags = ["--epochs", "1", "--warmup-steps", "0", "--global-batch-size", "256", "--output", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([*command, *flags], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["command"] == f"keras-preact train ResNet8 {' '.join(flags)}"
    command[3:] = ["inspect", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 layers" in done.stdout


@pytest.mark.parametrize(("program", "set_to"), [("keras-preact", "1"), ("own.py", None)])
def test_a_command_computes_by_onednn_unless_it_is_told_otherwise(program, set_to):
    code = f"import os, sys; sys.argv[0] = {program!r}; import keras_preact; print(os.environ.get('{ONEDNN}'))"
    bare = {name: value for name, value in os.environ.items() if name != ONEDNN} | {"KERAS_BACKEND": "numpy"}
    for given, seen in (({}, set_to), ({ONEDNN: "0"}, "0")):
        assert subprocess.check_output([sys.executable, "-c", code], env=bare | given, text=True) == f"{seen}\n"


def test_a_command_is_named_as_a_person_types_it():
    assert command_line(["/usr/bin/keras-preact", "list"]) == "keras-preact list"
    assert command_line(["/lib/keras_preact/__main__.py", "list"]) == "keras-preact list"
    assert command_line(["examples/own.py", "-x", "Anna's photos"]) == "own.py -x 'Anna'\"'\"'s photos'"
    assert command_line([""]) == ""


def test_an_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--epoch", "3"])
    assert stop.value.code == 2
    assert "--epoch" in capsys.readouterr().err
