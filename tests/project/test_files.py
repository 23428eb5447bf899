"""A file or folder that is written again is the old one or the new one, whole, at every moment."""

import errno
import fcntl
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from keras_preact import files
from keras_preact.files import written_aside


def write_folder(path, text):
    with written_aside(path) as aside:
        aside.mkdir()
        (aside / "content").write_text(text)


@pytest.fixture(params=["one step", "two steps"])
def exchange(request, monkeypatch):
    """How folders change places: as Linux does it, and as other systems must."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "_exchange", files._exchange_in_two_steps)
    return request.param


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(exchange, tmp_path):
    path = tmp_path / "saved_model"
    write_folder(path, "old")
    write_folder(path, "new")
    assert (path / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut may leave the name alone."""
    events, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(number):
        events.append("sync")
        fsync(number)

    def watched_replace(*paths):
        events.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    files.write_text(tmp_path / "card.json", "new")
    assert events == ["sync", "rename"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_stays_if_the_new_one_cannot_be_renamed(failing, tmp_path, monkeypatch):
    path, calls, rename = tmp_path / "saved_model", [], os.rename
    write_folder(path, "old")

    def fail_once(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(files, "_exchange", files._exchange_in_two_steps)
    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="no space"):
        write_folder(path, "new")
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_exchanged_stays(tmp_path, monkeypatch):
    path = tmp_path / "saved_model"
    write_folder(path, "old")

    def refuse(path, new):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files, "_exchange", refuse)
    with pytest.raises(OSError, match="Permission denied"):
        write_folder(path, "new")
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def copies(folder):
    """Returns the texts of all folders in the making, or made."""
    return {content.read_text() for content in folder.rglob("content")}


def test_a_kill_at_any_moment_leaves_a_whole_folder_or_what_completes_it(exchange, tmp_path, monkeypatch):
    """What stands before and after each renaming and removal is what a kill there would leave."""
    path, seen, there = tmp_path / "saved_model", [], []
    write_folder(path, "old")

    def watched(name):
        function = getattr(os, name)

        def call(*arguments, **options):
            seen.append(copies(tmp_path))
            there.append(path.is_dir())
            result = function(*arguments, **options)
            there.append(path.is_dir())
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "unlink", "rmdir"):
        watched(name)
    write_folder(path, "new")
    assert len(seen) > 3
    assert all("new" in texts for texts in seen)
    assert exchange == "two steps" or all(there)


def test_the_next_writer_completes_what_a_kill_between_two_steps_left(tmp_path):
    """As a system without an exchange leaves it: the old folder moved away, the new one not yet in its place."""
    path, aside = tmp_path / "saved_model", tmp_path / ".saved_model.abcdefgh.aside"
    for place, text in ((aside / "saved_model", "new"), (aside / f"{files.REPLACED}x" / "saved_model", "old")):
        place.mkdir(parents=True)
        (place / "content").write_text(text)
    (aside / files.ALIVE).touch()
    files.remove_asides(tmp_path)
    assert (path / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_another_writes_while_a_replacement_is_completed_stays(tmp_path, monkeypatch):
    path, aside, rename = tmp_path / "saved_model", tmp_path / ".saved_model.abcdefgh.aside", os.rename
    for place in (aside / "saved_model", aside / f"{files.REPLACED}x" / "saved_model"):
        place.mkdir(parents=True)

    def late(source, target):
        monkeypatch.setattr(os, "rename", rename)
        write_folder(path, "other")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    files.remove_asides(tmp_path, is_ours=True)
    assert (path / "content").read_text() == "other"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", ["file", "folder"])
def test_nothing_written_or_an_error_leaves_the_old_one(old, exchange, tmp_path):
    path = tmp_path / "there"
    if old == "folder":
        write_folder(path, "old")
    else:
        path.write_text("old")
    with pytest.raises(FileNotFoundError), written_aside(path):
        pass
    with pytest.raises(UnicodeEncodeError), written_aside(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert (path / "content" if old == "folder" else path).read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_four_writers_at_once_leave_one_whole_folder_that_never_was_away(tmp_path):
    path, errors, absent, stop = tmp_path / "saved_model", [], [], threading.Event()
    write_folder(path, "start")

    def write(number):
        try:
            for turn in range(50):
                write_folder(path, f"{number} {turn}")
        except Exception as error:
            errors.append(error)

    def watch():
        while not stop.is_set():
            if not path.is_dir():
                absent.append(time.time())

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    watcher.join()
    assert (errors, absent) == ([], [])
    assert (path / "content").read_text().endswith(" 49")
    assert list(tmp_path.iterdir()) == [path]


def test_four_writers_at_once_where_a_folder_takes_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", files._exchange_in_two_steps)
    path, errors = tmp_path / "saved_model", []

    def write(number):
        try:
            for turn in range(20):
                write_folder(path, f"{number} {turn}")
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert errors == []
    assert (path / "content").read_text().endswith(" 19")
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def before_the_lock(monkeypatch):
    """Calls what is appended to it once, where a writer has made the file of its lock but does not hold that yet."""
    calls, flock = [], fcntl.flock

    def locked(file, how):
        if calls and os.fstat(file).st_nlink:  # filelock tries a file without a name first
            calls.pop()()
        return flock(file, how)

    monkeypatch.setattr(fcntl, "flock", locked)
    return calls


def test_a_folder_that_another_removes_before_its_writer_has_locked_it_is_made_again(before_the_lock, tmp_path):
    """Its lock is free, as a killed writer's is."""
    path, left = tmp_path / "saved_model", []

    def remove():
        left.extend(tmp_path.iterdir())
        files.remove_asides(tmp_path)

    before_the_lock.append(remove)
    with written_aside(path) as aside:
        assert list(tmp_path.iterdir()) == [aside.parent] != left
        files.remove_asides(tmp_path)
        aside.write_text("mine")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_another_is_about_to_remove_is_not_written_to(before_the_lock, tmp_path, monkeypatch):
    path, about, go_on, rmtree = tmp_path / "saved_model", threading.Event(), threading.Event(), files.shutil.rmtree
    remover = threading.Thread(target=files.remove_asides, args=(tmp_path,))

    def remove(*arguments, **options):
        if threading.current_thread() is remover:
            about.set()
            go_on.wait(60)
        rmtree(*arguments, **options)

    def start():
        remover.start()
        assert about.wait(60)

    monkeypatch.setattr(files.shutil, "rmtree", remove)
    before_the_lock.append(start)
    with written_aside(path) as aside:
        go_on.set()
        remover.join()
        aside.write_text("mine")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, pathlib, signal, sys
sys.argv[0] = "keras-preact"  # whose start imports no Keras
from keras_preact.files import written_aside
with written_aside(pathlib.Path(sys.argv[1])) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    path = tmp_path / "card.json"
    subprocess.run([sys.executable, "-c", KILLED, str(path)])
    (left,) = tmp_path.iterdir()
    assert files.is_aside(left)
    with written_aside(path) as aside:
        assert list(tmp_path.iterdir()) == [aside.parent]
        files.remove_asides(tmp_path)
        files.write_text(path, "other")
        aside.write_text("mine")
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_its_writer_removes_meanwhile_keeps_no_other_from_being_removed(tmp_path, monkeypatch):
    """A writer that is done ends its lock, and then removes its folder."""
    complete = files._complete
    for name in (".curves.png.x.aside", ".curves.png.y.aside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / files.ALIVE).touch()

    def late(aside):
        files.shutil.rmtree(aside)
        complete(aside)

    monkeypatch.setattr(files, "_complete", late)
    files.remove_asides(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "is_aside"),
    [
        ((), True),
        (("curves.png",), True),
        (("curves.png", files.ALIVE), True),
        (("notes.txt",), False),
        (("curves.png", "notes.txt"), False),
    ],
)
def test_only_what_this_package_left_is_taken_for_an_aside(names, is_aside, tmp_path):
    folder = tmp_path / ".curves.png.x.aside"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert files.is_aside(folder) is is_aside
    files.remove_asides(tmp_path, is_ours=True)
    assert folder.exists() is not is_aside


def test_an_aside_of_unknown_state_stays_until_it_is_old(tmp_path):
    folder = tmp_path / ".curves.png.x.aside"
    folder.mkdir()
    files.remove_asides(tmp_path)
    assert folder.exists()
    os.utime(folder, (0, 0))
    files.remove_asides(tmp_path)
    assert not folder.exists()
    assert files.remove_asides(pathlib.Path(tmp_path / "none")) is None


def test_a_backup_beside_a_file_is_not_taken_for_an_aside(tmp_path):
    backup = tmp_path / ".card.json.backup"
    backup.mkdir()
    (backup / "card.json").touch()
    os.utime(backup, (0, 0))
    files.write_text(tmp_path / "card.json", "new")
    assert (backup / "card.json").exists()


def test_a_file_takes_no_folders_place(tmp_path):
    path = tmp_path / "units.csv"
    write_folder(path, "mine")
    with pytest.raises(IsADirectoryError):
        files.write_text(path, "new")
    assert (path / "content").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]
