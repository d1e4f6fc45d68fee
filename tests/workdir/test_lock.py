import os

import pytest

from eanet.errors import UserError
from eanet.workdir import lock as lock_lib


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / ".lock"


@pytest.fixture
def held(path):
    lock = lock_lib.acquire(path)
    yield lock
    lock.close()


def test_what_a_linked_lock_leads_to_stays_as_it_is(path, tmp_path):
    path.parent.mkdir()
    (tmp_path / "thesis.txt").write_text("precious")
    path.symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(UserError, match=r"cannot lock .*\.lock: not a regular file"):
        lock_lib.acquire(path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_pipe_in_its_place_is_refused_at_once(path):
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        lock_lib.acquire(path)


def test_a_lock_whose_file_was_removed_is_taken_again(path, held):
    held.confirm()
    os.write(held.descriptor, b"whose")
    path.unlink()
    assert not held.is_intact()
    descriptor = held.descriptor
    held.confirm()
    assert held.is_intact() and held.descriptor == descriptor
    assert not os.get_inheritable(descriptor)
    assert lock_lib.acquire(path) is None
    held.close()
    assert lock_lib.is_free(path)


@pytest.mark.parametrize("still_there", [True, False])
def test_another_that_came_in_after_a_removal_is_noticed(path, held, still_there):
    path.unlink()
    other = lock_lib.acquire(path)
    assert other is not None, "a lock without a name keeps nobody out"
    if not still_there:  # it may have trained meanwhile
        other.close()
    with pytest.raises(UserError, match="has been replaced"):
        held.confirm()
    other.close()


def test_a_directory_that_was_moved_away_is_not_made_again(path, held):
    path.parent.rename(path.parent.with_name("moved"))
    with pytest.raises(UserError, match="cannot lock"):
        held.confirm()
    assert not path.parent.exists()


def test_a_file_removed_while_the_lock_is_taken_is_locked_anew(path, monkeypatch):
    flock, removals = lock_lib.fcntl.flock, [1, 1]

    def flock_after_a_removal(descriptor, operation):
        if removals:
            removals.pop()
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(lock_lib.fcntl, "flock", flock_after_a_removal)
    lock = lock_lib.acquire(path)
    assert lock.is_intact() and not removals
    lock.close()
    removals.extend([1] * 100)
    with pytest.raises(UserError, match="keeps being removed"):
        lock_lib.acquire(path)
