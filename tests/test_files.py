"""Files appear complete or not at all."""

import pytest

from cmg.errors import UserError
from cmg.files import read_text, replacing, write_atomically


def test_a_file_is_replaced_when_the_block_ends_and_not_before(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "first, ±")
    with replacing(path) as part:
        part.write_text("second")
        assert path.read_text(encoding="utf-8") == "first, ±"
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("half")
        part.write_text(str(1 / 0))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/a.txt", "folder"])
def test_what_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: cannot write \(.+\)$"):
        write_atomically(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_text_is_read_with_or_without_a_mark_and_errors_are_one_line(tmp_path):
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("é\n", encoding=encoding)
        assert read_text(path, "letters") == "é\n"
    path.write_bytes(b"\xff\xfe\x00")
    for where, message in ((path, "not a UTF-8 text file"), (tmp_path / "b", "no such file; expected letters"),
                           (tmp_path, "cannot be read (Is a directory)")):
        with pytest.raises(UserError) as told:
            read_text(where, "letters")
        assert str(told.value) == f"{where}: {message}"
