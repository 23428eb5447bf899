"""A file or folder that is written again is the old one or the new one, whole, at every moment."""

import os

import pytest

from keras_preact.files import written_aside


def write_folder(path, text):
    with written_aside(path) as aside:
        aside.mkdir()
        (aside / "content").write_text(text)


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "saved_model"
    write_folder(path, "old")
    write_folder(path, "new")
    assert (path / "content").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_stays_if_the_new_one_cannot_be_renamed(failing, tmp_path, monkeypatch):
    path, calls, rename = tmp_path / "saved_model", [], os.rename
    write_folder(path, "old")

    def fail_once(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="no space"):
        write_folder(path, "new")
    assert (path / "content").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, monkeypatch):
    """What stands before each renaming and removal is what a kill there would leave."""
    path, seen = tmp_path / "saved_model", []
    write_folder(path, "old")

    def watched(name):
        function = getattr(os, name)

        def call(*arguments, **options):
            seen.append({content.read_text() for content in tmp_path.rglob("content")})
            return function(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("rename", "unlink", "rmdir"):
        watched(name)
    write_folder(path, "new")
    assert len(seen) > 3
    assert all("new" in texts for texts in seen)
    assert all("old" in texts for texts in seen[:2])


@pytest.mark.parametrize("old", ["file", "folder"])
def test_nothing_written_or_an_error_leaves_the_old_one(old, tmp_path):
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
