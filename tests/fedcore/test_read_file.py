"""Small files are read whole or refused: neither a pipe nor a file full of holes stops whoever reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tinyfleet.coordinator import status as coordinator_status
from tinyfleet.coordinator.fleet import fleet_key
from tinyfleet.coordinator.privacy.ledgers import Ledgers
from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent import status as agent_status
from tinyfleet.edge_agent.fleet import pin
from tinyfleet.edge_agent.worker.releases import Releases
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.privacy.noise_key import kept_key
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import read_toml
from tinyfleet.fedcore.tls.context import TlsFiles, client_context
from tinyfleet.fedcore.tls.validity import lasting


def pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def holes(path: Path) -> None:
    """Fifty gigabytes that take no place on the disk."""
    path.touch(0o600)
    os.truncate(path, 50 << 30)


def folder(path: Path) -> None:
    path.mkdir(0o700)


def loop(path: Path) -> None:
    path.symlink_to(path)


def socket_of(path: Path) -> None:
    os.mknod(path, 0o600 | 0o140000)


ODD = [pipe, holes, folder, loop, socket_of]


@pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)
def test_what_is_no_small_file_is_an_error_at_once(tmp_path, make):
    make(tmp_path / "x")
    with pytest.raises(OSError, match=r"regular|more than|directory|symbolic|No such device"):
        read_file(tmp_path / "x")


def test_a_file_of_just_the_size_is_read(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 1000)
    assert read_file(tmp_path / "x", 256_000) == (tmp_path / "x").read_bytes()
    with pytest.raises(OSError, match="more than 255999 bytes"):
        read_file(tmp_path / "x", 255_999)
    (tmp_path / "x").write_bytes(b"")
    assert read_file(tmp_path / "x") == b""


@pytest.mark.parametrize("make", [pipe, holes, folder], ids=lambda make: make.__name__)
def test_every_reader_says_so(tmp_path, make):
    """Commands and daemons: the state that a person looks at, keys, certificates, passwords, settings, releases."""
    odd = tmp_path / "odd"
    make(odd)
    for name in (coordinator_status.STATUS, "run.json"):
        make(tmp_path / name)
    assert coordinator_status.read_status(tmp_path) is None
    assert agent_status.read(odd) is None
    assert "odd" in lasting(odd, 0.0)
    for read in (
        lambda: fleet_key.read(odd),
        lambda: identity.read(odd),
        lambda: pin.read(odd),
        lambda: kept_key(odd),
        lambda: Ledgers(tmp_path).get("run"),
        lambda: BrokerSettings(username="u", password_file=str(odd)).password(),
        lambda: read_toml(odd, RunSpec),
        lambda: client_context(TlsFiles(str(odd), None, None)),
    ):
        with pytest.raises(ConfigError):
            read()
    releases = Releases(tmp_path / "releases" / "run")
    (tmp_path / "releases" / "run").mkdir(parents=True)
    make(tmp_path / "releases" / "run" / "steps.json")
    with pytest.raises(ResultError, match="damaged"):
        releases.release(0, "a" * 64)
