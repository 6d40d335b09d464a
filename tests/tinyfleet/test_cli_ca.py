"""``tinyfleet ca`` and ``tinyfleet broker``: what they write, say and refuse."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

from tests.coordinator.fleet.mtls_fleet import refused, until
from tinyfleet import mosquitto_files
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker, find_mosquitto, free_port
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
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


@pytest.mark.parametrize("command", ["issue", "renew", "revoke", "request"])
def test_hostile_names_are_refused_and_leave_nothing(tinyfleet, ca, tmp_path, command):
    out = tmp_path / "out"
    arguments = ["--out", out] if command != "revoke" else []
    for name in HOSTILE:
        ran = tinyfleet("ca", command, *arguments, "--", name)
        assert ran.code == 2, name
        assert ran.err.startswith("tinyfleet: "), name
        assert not out.exists(), name
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


def managed(directory, port):
    """A command that restarts the Mosquitto of ``directory``, as systemctl restarts the system's."""
    script, pid = directory / "restart", directory / "pid"
    user = "user root" if os.geteuid() == 0 else ""
    (directory / "managed.conf").write_text(
        (directory / "broker" / "tinyfleet.conf").read_text() + f"\npid_file {pid}\nlog_dest none\n{user}\n"
    )
    script.write_text(
        "#!/bin/bash -e\n"
        f'if [ -f {pid} ]; then old=$(cat {pid}); kill "$old"; while kill -0 "$old" 2>&-; do sleep 0.01; done; fi\n'
        f"{find_mosquitto()} -d -c {directory / 'managed.conf'}\n"
        f"until (: </dev/tcp/127.0.0.1/{port}) 2>&-; do sleep 0.01; done\n"
    )
    script.chmod(0o700)
    return script


@pytest.mark.slow
@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_one_command_shuts_a_device_out(tinyfleet, ca, tmp_path):
    """`tinyfleet ca revoke bad`, no more: its connection ends, no other comes about, and it is told why."""
    port = free_port()
    ran = tinyfleet(
        "broker", "config", "--out", tmp_path / "broker", "--host", "localhost",
        "--port", port, "--bind", "127.0.0.1", "--restart", tmp_path / "restart",
    )  # fmt: skip
    assert ran.code == 0
    subprocess.run([managed(tmp_path, port)], check=True)
    clients = []
    try:
        for name in ("good", "bad"):
            tinyfleet("ca", "issue", name, "--out", tmp_path / "tls")
            files = {
                "tls_ca": tmp_path / "tls" / "trust.crt",
                "tls_cert": tmp_path / "tls" / f"{name}.crt",
                "tls_key": tmp_path / "tls" / f"{name}.key",
            }
            transport = MqttTransport(
                f"mqtts://localhost:{port}",
                name,
                reconnect_max_s=0.5,
                **{key: str(path) for key, path in files.items()},
            )
            clients.append(transport)
            transport.open((topics.down(name),))
            until(transport, Connected)
        good, bad = clients
        ran = tinyfleet("ca", "revoke", "bad", "--json")
        assert ran.code == 0
        told = json.loads(ran.out)
        assert told["broker_restarted"] is True
        assert [row["state"] for row in told["revoked"]] == ["revoked"]
        until(bad, Disconnected)
        assert "this client's certificate was revoked; ask the fleet's operator" in refused(bad)
        until(good, Disconnected)
        until(good, Connected)
    finally:
        for client in clients:
            client.close()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def test_what_is_left_to_do_is_told(tinyfleet, ca, tmp_path, monkeypatch):
    """Where the command cannot carry a revocation out, it says what would."""
    for number in range(4):
        tinyfleet("ca", "issue", f"board-{number}", "--out", tmp_path)
    told = tinyfleet("ca", "revoke", "board-0").out
    assert "no broker is known here (`tinyfleet broker config`)" in told
    assert str(ca / "revoked.crl") in told
    out = tmp_path / "broker"
    tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan", "--restart", "")
    assert "is up to date; the broker obeys once it is restarted" in tinyfleet("ca", "revoke", "board-1").out
    assert (out / "revoked.crl").read_bytes() == (ca / "revoked.crl").read_bytes()
    tinyfleet("broker", "config", "--out", out, "--host", "gateway.lan", "--restart", "systemctl restart mosquitto")
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: path != out)
        told = tinyfleet("ca", "revoke", "board-2").out
    assert f'sudo tinyfleet broker refresh --ca {ca} --out {out} --restart "systemctl restart mosquitto"' in told
    monkeypatch.setattr("tinyfleet.broker_place._watched", lambda: True)
    assert "tinyfleet-broker.path restarts the broker now" in tinyfleet("ca", "revoke", "board-3").out


def test_the_list_tells_how_long_each_lasts(tinyfleet, ca, tmp_path):
    for name, days in (("board-1", 730), ("board-2", 1)):
        tinyfleet("ca", "issue", name, "--days", days, "--out", tmp_path)
    long_ago = Authority(ca, clock=lambda: time.time() - 86400)
    long_ago.issue(subject_of("board-3"), days=2)
    left = {line.split()[0]: line for line in tinyfleet("ca", "list").out.splitlines() if "board-" in line}
    assert "730 d" in left["board-1"]
    assert "1 d" in left["board-2"]
    assert "renew" not in left["board-1"] + left["board-2"]
    early = Authority(ca, clock=lambda: time.time() - 9 * 86400)
    early.issue(subject_of("board-4"), days=10)
    (row,) = (line for line in tinyfleet("ca", "list").out.splitlines() if "board-4" in line)
    assert "1 d, renew" in row


def test_a_restart_command_is_run(tmp_path):
    mosquitto_files.restart(f'{shlex.quote(sys.executable)} -c \'open("{tmp_path / "ran"}", "w")\'')
    assert (tmp_path / "ran").exists()


def test_opening_reads_the_default_place(tinyfleet, tmp_path, monkeypatch):
    monkeypatch.delenv("TINYFLEET_CA", raising=False)
    monkeypatch.setenv("TINYFLEET_STATE", str(tmp_path / "state"))
    assert tinyfleet("ca", "init").code == 0
    Authority(tmp_path / "state" / "authority")
