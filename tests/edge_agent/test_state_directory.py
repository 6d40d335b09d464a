from __future__ import annotations

import os

import pytest

from tinyfleet.edge_agent.config import load
from tinyfleet.edge_agent.errors import AlreadyRunning, StateError
from tinyfleet.edge_agent.state_directory import lock, state_directory


def test_the_lock_goes_with_its_holder(tmp_path):
    with lock(tmp_path), pytest.raises(AlreadyRunning), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_it_is_made_for_its_owner_alone(tmp_path):
    made = state_directory(load(None, {"state": str(tmp_path / "a" / "b")}))
    assert made == tmp_path / "a" / "b"
    assert made.stat().st_mode & 0o777 == 0o700
    assert state_directory(load(None, {"state": str(made)})) == made


def test_a_place_that_cannot_be_one_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match=r"file/state: .*; choose another with --state"):
        state_directory(load(None, {"state": str(tmp_path / "file" / "state")}))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_place_of_others_is_named_with_the_remedy(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o500)
    with pytest.raises(StateError, match=r"not writable by user .* choose another with --state"):
        state_directory(load(None, {"state": str(tmp_path / "theirs")}))
