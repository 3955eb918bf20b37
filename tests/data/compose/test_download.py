"""Downloads against a server on the loopback interface: continued, begun anew, checked, refused in one line."""

import hashlib
import os
import socket

import pytest

from cmg.data.compose.download import fetch
from cmg.errors import UserError
from support_clips import serving

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
INSTEAD = "a copy: --x FOLDER"


def test_a_connection_that_breaks_is_taken_up_where_it_ended(tmp_path):
    with serving({"f": CONTENT}, cut=100_000) as (address, asked):
        path = fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD)
        assert path.read_bytes() == CONTENT and asked == [("f", None), ("f", "bytes=100000-")]
        fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD)  # is there
        assert len(asked) == 2 and [one.name for one in tmp_path.iterdir()] == ["f"]


def test_what_a_killed_call_left_is_continued(tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:7])
    with serving({"f": CONTENT}) as (address, asked):
        assert fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD).read_bytes() == CONTENT
        assert asked == [("f", "bytes=7-")]


def test_a_server_that_knows_no_ranges_sends_all_again(tmp_path):
    (tmp_path / "f.part").write_bytes(b"other")
    with serving({"f": CONTENT}, ranges=False) as (address, _):
        assert fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_dropped(tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT + b"more")
    with serving({"f": CONTENT}) as (address, asked):
        assert fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD).read_bytes() == CONTENT
        assert len(asked) == 2 and asked[1] == ("f", None)


def test_another_sha256_is_refused_and_nothing_is_kept(tmp_path):
    with serving({"f": CONTENT + b"!"}) as (address, _):
        with pytest.raises(UserError, match=f"/f: sha256 [0-9a-f]{{64}}; expected {SHA256}$"):
            fetch(f"{address}/f", tmp_path / "f", SHA256, INSTEAD)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_there(tmp_path):
    with serving({}) as (address, _):
        with pytest.raises(UserError, match="404 Not Found; expected the file, or a copy: --x FOLDER$"):
            fetch(f"{address}/f", tmp_path / "f", "", INSTEAD)


def test_no_network(tmp_path):
    with socket.socket() as nobody:  # a port at which nobody listens
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"no connection \(.*refused\); expected a network, or a copy: --x FOLDER$"):
            fetch(f"http://127.0.0.1:{nobody.getsockname()[1]}/f", tmp_path / "f", "", INSTEAD)


def test_a_full_disk_is_no_fault_of_the_network(tmp_path):
    (tmp_path / "f.part").symlink_to("/dev/full")
    with serving({"f": CONTENT}) as (address, _):
        with pytest.raises(OSError, match="No space left"):
            fetch(f"{address}/f", tmp_path / "f", "", INSTEAD)
