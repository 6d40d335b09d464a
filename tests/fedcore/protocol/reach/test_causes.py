"""Each way in which a broker is not reached has its cause, with the remedy that docs/troubleshooting.md gives."""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.fenced import ROOT
from tests.fedcore.protocol.reach.ways import CASES, QUICK, K
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach import client, connection
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind, unreachable

PAGE = ROOT / "docs" / "troubleshooting.md"


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(connection, "HANDSHAKE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.5)


@pytest.fixture
def _patience(monkeypatch):
    """For those that a broker answers, on a busy machine."""
    monkeypatch.setattr(connection, "HANDSHAKE_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", PATIENCE_S)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_the_cause_is_named(case, scene, monkeypatch, request):
    if case not in QUICK:
        request.getfixturevalue("_patience")
    kind, said = CASES[case]
    found = case(scene, monkeypatch)
    assert said in found.reason
    assert found.kind is kind
    assert re.match(r"[a-z0-9.]+:\d+: ", found.reason), "the broker's address comes first"
    assert ";" in found.reason or found.reason.endswith("?") or kind in (K.LOST, K.TLS), "there is a remedy"


def rows():
    """(kind, what the log says) of the page's table."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| `([a-z]+)` \| `([^`]+)` \|", line):
            yield CauseKind(found[1]), found[2]


def test_the_page_has_a_row_for_each_cause():
    said = {(kind, reason) for kind, reason in CASES.values()}
    elsewhere = {K.COORDINATOR, K.DEVICES}  # tests/edge_agent/test_link.py, tests/coordinator/test_service.py
    listed = list(rows())
    assert {kind for kind, _ in listed} == set(CauseKind)
    assert len(listed) == len(set(listed))
    for kind, words in listed:
        if kind not in elsewhere:
            assert any(kind is of and words in reason for of, reason in said), f"no test says {words!r}"
    for kind, reason in said:
        assert any(kind is of and words in reason for of, words in listed), f"the page lacks {reason!r}"


def test_an_error_of_no_known_kind_keeps_its_words():
    kind, why = unreachable(OSError(errno.EMFILE, "Too many open files"))
    assert kind is K.NETWORK
    assert "Too many open files" in why
    assert unreachable(UnicodeError("label empty or too long"))[0] is K.NAME


def test_a_clock_in_the_words_makes_no_other_cause():
    first, later = (Cause(K.TLS, f"h:1: this board's clock says 2026-01-01 10:{m} UTC") for m in (10, 11))
    assert first.key == later.key
    assert first.key != Cause(K.TLS, "h:1: refused").key


def test_the_tls_files_are_read_before_any_thread(tmp_path):
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match=r"tls_ca: .*none: No such file"):
        MqttTransport("mqtts://localhost", "x", tls_ca=str(tmp_path / "none"))


WITHOUT_A_NETWORK = """
import sys
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
for host in ("192.0.2.1", "gateway.example", "127.0.0.1"):
    transport = MqttTransport(f"mqtt://{host}:9", "board")
    transport.open(())
    sys.stdout.write(f"{host} {transport.receive(None).kind}\\n")
    transport.close()
"""


@pytest.mark.root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
def test_a_machine_without_a_network():
    """For real: a namespace with nothing but loopback, whose names nobody looks up."""
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable]
    ran = subprocess.run([*command, WITHOUT_A_NETWORK], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["192.0.2.1", "network", "gateway.example", "name", "127.0.0.1", "port"]
