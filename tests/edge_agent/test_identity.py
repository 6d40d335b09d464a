from __future__ import annotations

import base64
import hashlib
import stat
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.errors import StateError
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.topics import valid_device


def test_reading_again_gives_the_same_identity(tmp_path):
    first = identity.obtain(tmp_path)
    assert identity.obtain(tmp_path) == first
    assert valid_device(first.device)
    assert first.device.startswith("agent-")
    assert first.fingerprint == hashlib.sha256(base64.b64decode(first.public_key)).hexdigest()


def test_the_key_pair_is_private_and_belongs_together(tmp_path):
    who = identity.obtain(tmp_path)
    path = tmp_path / identity.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file = msgspec.json.decode(path.read_bytes())
    key = serialization.load_pem_private_key(file["private_key"].encode(), None)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert base64.b64encode(raw).decode() == who.public_key


def test_two_boards_of_one_name_can_be_told_apart(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = identity.obtain(tmp_path / "a", "porch"), identity.obtain(tmp_path / "b", "porch")
    assert one.device == other.device == "porch"
    assert one.public_key != other.public_key
    assert one.client_id != other.client_id


def test_the_caller_never_imports_cryptography(tmp_path):
    script = (
        "import sys, pathlib; from tinyfleet.edge_agent import identity; "
        f"identity.obtain(pathlib.Path({str(tmp_path)!r})); "
        "sys.exit(any(name.startswith('cryptography') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"public_key": "AAAA", "private_key": ""}', b'{"public_key": "!", "private_key": ""}', b"\xff"],
)
def test_a_damaged_file_is_never_replaced_in_silence(tmp_path, content):
    path = tmp_path / identity.FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="restore"):
        identity.obtain(tmp_path)
    assert path.read_bytes() == content


def test_a_key_that_cannot_be_written_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="could not be made"):
        identity.obtain(tmp_path / "missing")


def test_a_signal_that_ends_the_making_of_the_key_does_not_keep_the_agent_from_starting(tmp_path, monkeypatch):
    run, codes = subprocess.run, [-9, -9]

    def killed(*arguments, **options):
        return subprocess.CompletedProcess(arguments, codes.pop(), "", "") if codes else run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", killed)
    assert identity.obtain(tmp_path, "porch").device == "porch"
    (tmp_path / identity.FILE_NAME).unlink()
    codes += [-9] * identity.ATTEMPTS
    with pytest.raises(StateError, match="ended by SIGKILL") as error:
        identity.obtain(tmp_path)
    assert error.value.exit_code == 9, "an init system starts it again, as it does not for a wrong configuration"
