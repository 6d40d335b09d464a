"""``tinyfleet ca`` and ``tinyfleet broker``: what they write, say and refuse."""

from __future__ import annotations

import json
import shlex
import shutil
import stat
import subprocess
import sys

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, refused, until
from tinyfleet import mosquitto_files
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected

HOSTILE = [
    "board 1",
    "../x",
    "a/b",
    "Board",
    "é",
    "b\u202eoard",
    "a" * 65,
    "",
    "-",
    "a\nb",
    "$(id)",
    "*",
    "board.1",
]


@pytest.fixture
def ca(tinyfleet, tmp_path, monkeypatch):
    """The directory of a new authority, which the commands find in the environment."""
    monkeypatch.setenv("TINYFLEET_CA", str(tmp_path / "ca"))
    assert tinyfleet("ca", "init").code == 0
    return tmp_path / "ca"


def test_from_nothing_to_a_list(tinyfleet, ca, tmp_path):
    out = tmp_path / "out"
    made = json.loads(tinyfleet("ca", "issue", "board-1", "--out", out, "--json").out)
    assert stat.S_IMODE((out / "board-1.key").stat().st_mode) == 0o600
    assert set(made["files"]) == {"key", "certificate", "trust"}
    tinyfleet("ca", "request", "board-2", "--out", out)
    key = (out / "board-2.key").read_bytes()
    said = tinyfleet("ca", "issue", "board-2", "--csr", out / "board-2.csr", "--out", out)
    assert said.code == 0
    assert (out / "board-2.key").read_bytes() == key
    table = tinyfleet("ca", "list").out
    for row in ("board-1", "board-2"):
        assert row in table
    assert made["comparable"] in table
    document = json.loads(tinyfleet("ca", "list", "--json").out)
    assert [row["name"] for row in document["certificates"]] == ["board-1", "board-2"]
    assert document["certificates"][0]["fingerprint"] == made["fingerprint"]
    assert document["authorities"][0]["trusted"] is True


def test_the_fingerprint_is_what_openssl_says(tinyfleet, ca, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = json.loads(tinyfleet("ca", "issue", "board-1", "--out", tmp_path, "--json").out)
    told = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "board-1.crt", "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    digits = told.split("=")[1].strip().replace(":", "")
    assert digits.lower() == made["fingerprint"]
    assert digits[:16] == made["comparable"].replace(" ", "")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["issue", "renew", "revoke", "request"])
def test_hostile_names_are_refused_and_leave_nothing(tinyfleet, ca, tmp_path, command, name):
    out = tmp_path / "out"
    arguments = ["--out", out] if command != "revoke" else []
    ran = tinyfleet("ca", command, *arguments, "--", name)
    assert ran.code == 2
    assert ran.err.startswith("tinyfleet: ")
    assert not out.exists()
    assert json.loads(tinyfleet("ca", "list", "--json").out)["certificates"] == []


def test_hostile_options_are_refused(tinyfleet, ca, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "nonsense").write_bytes(bytes(range(256)) * 600)
    for arguments in (
        ("issue", "broker", "--host", "a b"),
        ("issue", "broker"),
        ("issue", "board-1", "--host", "gateway.lan"),
        ("issue", "board-1", "--csr", tmp_path / "nonsense"),
        ("issue", "board-1", "--csr", tmp_path / "nowhere"),
        ("issue", "board-1", "--days", "0"),
        ("issue", "board-1", "--days", "9" * 30),
    ):
        assert tinyfleet("ca", *arguments, "--out", out).code == 2, arguments
    assert tinyfleet("ca", "revoke", "board-1", "--reason", "x\ny").code == 2
    for command in (
        ("ca", "issue", "board-1"),
        ("ca", "request", "board-1"),
        ("broker", "config", "--host", "a.lan"),
    ):
        assert tinyfleet(*command, "--out", tmp_path / "nonsense" / "x").code == 2
    assert json.loads(tinyfleet("ca", "list", "--json").out)["certificates"] == []
    assert tinyfleet("ca", "rotate", "--force").code == 2
    assert not out.exists()


def test_what_the_state_forbids_has_its_own_exit_code(tinyfleet, ca, tmp_path):
    assert tinyfleet("ca", "init").code == 16
    assert tinyfleet("ca", "revoke", "board-1").code == 16
    assert tinyfleet("ca", "renew", "board-1", "--out", tmp_path).code == 16
    assert tinyfleet("ca", "rotate", "--retire").code == 16
    nowhere = tinyfleet("ca", "list", "--ca", tmp_path / "nowhere")
    assert nowhere.code == 16
    assert "tinyfleet ca init" in nowhere.err


def test_loose_permissions_are_refused(tinyfleet, ca):
    ca.chmod(0o750)
    ran = tinyfleet("ca", "list")
    assert ran.code == 2
    assert f"chmod 700 {ca}" in ran.err


def test_the_brokers_directory(tinyfleet, ca, tmp_path):
    out = tmp_path / "broker"
    first = json.loads(
        tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan", "--host", "10.0.0.7", "--json").out
    )
    assert first["hosts"] == ["gateway.lan", "10.0.0.7"]
    text = (out / "tinyfleet.conf").read_text()
    assert [line for line in text.splitlines() if line.startswith("listener")] == ["listener 8883"]
    for path in (out / "broker.pem", out / "acl", out / "revoked.crl"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o037
    again = json.loads(
        tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan", "--host", "10.0.0.7", "--json").out
    )
    assert again["serial"] == first["serial"], "a certificate that serves is kept"
    other = json.loads(tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan", "--json").out)
    assert other["serial"] != first["serial"]
    assert "nothing has changed" in tinyfleet("broker", "refresh", "--out", out).out
    for arguments in (("config", "--host", "../x"), ("config",)):
        assert tinyfleet("broker", *arguments, "--out", out).code == 2
    assert tinyfleet("broker", "refresh", "--out", tmp_path / "nowhere").code == 2
    assert tinyfleet("broker", "config", "--host", "a.lan", "--out", tmp_path / "a b").code == 2


def test_a_restart_that_fails_is_told(tinyfleet, ca):
    for name in ("board-1", "board-2"):
        tinyfleet("ca", "issue", name, "--out", ca.parent)
    ran = tinyfleet("ca", "revoke", "board-1", "--restart", "false")
    assert ran.code == 7
    assert "restart the broker" in ran.err
    assert tinyfleet("ca", "revoke", "board-2", "--restart", "no-such-program x").code == 2
    rows = json.loads(tinyfleet("ca", "list", "--json").out)["certificates"]
    assert [row["state"] for row in rows] == ["revoked", "revoked"], "revoked it is, all the same"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tinyfleet, ca, tmp_path):
    out = tmp_path / "broker"
    tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan")
    for unit in sorted((out / "systemd").iterdir()):
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
        )
        told = [line for line in ran.stderr.splitlines() if unit.name in line and "not executable" not in line]
        assert not told


@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_one_command_shuts_a_device_out(tinyfleet, tmp_path, monkeypatch):
    """The event that the minute is promised for: the connection that stands ends, and no other comes about."""
    fleet = MtlsFleet(tmp_path)
    try:
        bad = fleet.connect(fleet.issue("bad"), topics.down("bad"))
        until(bad, Connected)
        asked = []
        monkeypatch.setattr(
            mosquitto_files, "restart", lambda command: (asked.append(command), fleet.stop(), fleet.start())
        )
        ran = tinyfleet(
            "ca", "revoke", "bad", "--ca", fleet.authority.directory, "--broker", fleet.broker, "--restart", "now"
        )
        assert ran.code == 0
        assert asked == ["now"]
        until(bad, Disconnected)
        assert "revoked" in refused(bad)
    finally:
        fleet.close()


def test_a_restart_command_is_run(tmp_path):
    mosquitto_files.restart(f'{shlex.quote(sys.executable)} -c \'open("{tmp_path / "ran"}", "w")\'')
    assert (tmp_path / "ran").exists()


def test_opening_reads_the_default_place(tinyfleet, tmp_path, monkeypatch):
    monkeypatch.delenv("TINYFLEET_CA", raising=False)
    monkeypatch.setenv("TINYFLEET_STATE", str(tmp_path / "state"))
    assert tinyfleet("ca", "init").code == 0
    Authority(tmp_path / "state" / "authority")
