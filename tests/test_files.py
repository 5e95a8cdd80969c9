import os

import pytest

from airl.files import atomic_folder, atomic_write, slug


def test_a_whole_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent and temporary.suffix == ".txt"
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file.txt"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_folders_files_are_replaced_and_others_stay(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    (folder / "changed").write_text("old")
    with pytest.raises(OSError), atomic_folder(folder) as temporary:
        (temporary / "changed").write_text("half")
        raise OSError
    assert (folder / "changed").read_text() == "old"
    with atomic_folder(folder) as temporary:
        (temporary / "changed").write_text("new")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept": "kept", "changed": "new"}
    assert os.listdir(tmp_path) == ["folder"]


def test_slugs():
    assert slug("A person, with_a tie!") == "a-person-with-a-tie" and slug("  ?! ") == ""
    assert slug("ein Käse") == "ein-käse" and slug("x" * 60) == "x" * 60
    a, b = slug("many words " * 30 + "a"), slug("many words " * 30 + "b")
    assert a != b and max(len(a), len(b)) <= 60 and a.startswith("many-words-many-words")
    assert len(slug("狗" * 300).encode()) <= 60 and slug("狗" * 300).startswith("狗狗")
