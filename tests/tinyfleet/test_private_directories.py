"""Directories that hold keys are their owner's alone, whoever of ours makes them first."""

from __future__ import annotations

import stat

import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import check_private, make_private


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_all_that_was_missing_is_its_owners_alone_and_the_rest_is_left(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    make_private(shared / "state" / "authority")
    make_private(shared / "state" / "authority")
    assert [mode(shared / name) for name in ("state/authority", "state", ".")] == [0o700, 0o700, 0o755]
    check_private(shared / "state")
    with pytest.raises(ConfigError, match=f"mode 755.*chmod 700 {shared}"):
        check_private(shared)


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "state").write_text("")
    with pytest.raises(FileExistsError):
        make_private(tmp_path / "state")


def test_an_authority_beside_the_state_leaves_a_state_directory_that_the_coordinator_takes(tmp_path, tinyfleet):
    state = tmp_path / "home" / "tinyfleet"
    assert tinyfleet("ca", "init", "--ca", str(state / "authority")).code == 0
    check_private(state)
