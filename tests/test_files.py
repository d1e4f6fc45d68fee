"""Whatever stands in the place of a file of ours: it is used as a file, or refused at once."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from eanet import files
from eanet.errors import UserError

ROOT = Path(__file__).parents[1]


def link(path, target):
    target.write_bytes(b"precious")
    path.symlink_to(target)


def dangling_link(path, target):
    path.symlink_to(target)


def pipe(path, target):
    os.mkfifo(path)


def pipe_behind_a_link(path, target):
    os.mkfifo(target)
    path.symlink_to(target)


def directory(path, target):
    path.mkdir()


def device(path, target):
    path.symlink_to("/dev/zero")


def unix_socket(path, target):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


def loop(path, target):
    path.symlink_to(path)


ODD = [link, dangling_link, pipe, pipe_behind_a_link, directory, device, unix_socket, loop]


@pytest.fixture(params=ODD, ids=lambda make: make.__name__)
def odd(request, tmp_path):
    """A path at which something stands that is no regular file, and where a link leads to."""
    path, target = tmp_path / "file", tmp_path / "target"
    request.param(path, target)
    yield path
    if request.param is link:
        assert target.read_bytes() == b"precious"
    elif request.param is dangling_link:
        assert not target.exists()


@pytest.mark.parametrize(
    "flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_TRUNC]
)
def test_only_a_regular_file_is_opened(odd, flags):
    before = os.lstat(odd)
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        files.open_regular(odd, flags)
    assert os.lstat(odd).st_ino == before.st_ino


def test_a_link_to_a_file_can_be_read_and_nothing_else(odd):
    if odd.is_file():
        assert files.read_bytes(odd) == b"precious"
        return
    with pytest.raises(OSError, match=r"not a regular file|No such file|symbolic links"):
        files.read_bytes(odd)


def test_a_replaced_file_is_never_written_through(odd):
    if odd.is_dir():
        with pytest.raises(UserError, match="cannot write"):
            files.write(odd, b"new")
        return
    files.write(odd, b"new")
    assert not odd.is_symlink() and odd.read_bytes() == b"new"


def test_a_temporary_file_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "target"
    link(tmp_path / f".file.{os.getpid()}.tmp", target)
    files.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and target.read_bytes() == b"precious"


def test_what_a_killed_process_left_is_removed(tmp_path):
    """Long ago, or by one that had this number; what another may be writing now is left alone."""
    path = tmp_path / "fi[l]e.json"
    old, own, fresh, other = (
        tmp_path / f".{name}.tmp"
        for name in ("fi[l]e.json.1", f"fi[l]e.json.{os.getpid()}", "fi[l]e.json.2", "file.json.1")
    )
    for each in (old, own, fresh, other):
        each.write_text("torn")
    for each in (old, other):
        os.utime(each, (0, 0))
    files.write(path, b"new")
    assert sorted(tmp_path.iterdir()) == sorted([path, fresh, other])


def test_a_record_tells_of_damage_and_older_ones_are_read(tmp_path):
    path = tmp_path / "record.json"
    files.write_record(path, {"step": 24, "accuracy": 0.5, "loss": math.nan, "name": "ü\ud800"})
    assert files.read_record(path) == {"step": 24, "accuracy": 0.5, "loss": None, "name": "ü\ud800"}
    path.write_text(path.read_text().replace("24", "42"))
    with pytest.raises(UserError, match=r"not what was written.*remove it"):
        files.read_record(path)
    path.write_text('{"step": 24}')
    assert files.read_record(path) == {"step": 24}


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [None, OSError(28, "No space left on device"), KeyboardInterrupt])
def test_a_directory_is_replaced_as_a_whole_or_not_at_all(error, tmp_path, monkeypatch):
    place = tmp_path / "place"
    files.write_directory(place, {"a": b"1", "old": b"1"})
    rename = Path.rename

    def fail(self, target):
        if error and target == place and self.name.endswith(".tmp"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    new = {"a": b"2", "folder/b": b"2"}
    if error is None:
        files.write_directory(place, new)
    else:
        with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
            files.write_directory(place, new)
    found = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert found == ({"a": b"1", "old": b"1"} if error else new)
    assert os.listdir(tmp_path) == ["place"]


KILLED = """
import os, pathlib, signal, sys
from eanet import files
rename = pathlib.Path.rename
def killed(path, target):
    rename(path, target) if path.suffix != ".tmp" else os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.rename = killed
files.write_directory(pathlib.Path(sys.argv[1]), {"a": b"2"})
"""


@pytest.fixture
def killed(tmp_path):
    """A directory whose replacement was killed when the old one had been moved away."""
    place = tmp_path / "pl[a]ce"
    files.write_directory(place, {"a": b"1"})
    subprocess.run([sys.executable, "-c", KILLED, place], cwd=ROOT, check=False)
    assert not place.exists() and len(list(tmp_path.iterdir())) == 2
    return place


def test_a_directory_that_a_killed_process_moved_away_is_put_back(killed):
    for _ in range(2):
        files.put_back(killed)
        assert (killed / "a").read_bytes() == b"1"


def test_what_a_killed_process_left_of_a_directory_is_removed(killed):
    (unfinished,) = killed.parent.glob(".*.tmp")
    os.utime(unfinished, (0, 0))
    files.write_directory(killed, {"a": b"3"})
    assert os.listdir(killed.parent) == [killed.name] and (killed / "a").read_bytes() == b"3"
    killed.with_name(f".{killed.name}.1.old").mkdir()
    mine = killed.with_name(f".{killed.name}.mine.old")
    mine.mkdir()
    files.put_back(killed)
    mine.rmdir()  # nobody else wrote that
    assert os.listdir(killed.parent) == [killed.name] and (killed / "a").read_bytes() == b"3"


def test_what_is_written_bit_by_bit_takes_the_place_of_the_old_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files.replacing(path) as file:
        file.write(b"n")
        file.write(b"ew")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as file:
        file.write(b"newer")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "place", ["gs://bucket/run", "GS://b", "s3://bucket", "hdfs://a/b", "file:///tmp/x"]
)
def test_a_place_in_a_cloud_is_refused(place):
    for path in (place, Path(place)):
        with pytest.raises(UserError, match="no directory of this machine"):
            files.local_path(path)


def test_all_other_names_are_directories(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.local_path("~/runs/x") == Path("/home/someone/runs/x")
    for name in ("runs", "/runs/gs:/x", "a:b", "C:/x", "./gs:", "[a]", "gs"):
        assert files.local_path(name) == Path(name)
