"""The agent's half of a renewal, with the real child processes and an authority in place of the coordinator."""

from __future__ import annotations

import logging
import os
import random
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.fleet.authority import Authority, CertificateState, answer
from tinyfleet.edge_agent.certificate import renewal as module
from tinyfleet.edge_agent.certificate.renewal import LONGEST_PAUSE_S, Renewal
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol.messages import (
    CertificateInUse,
    RenewalGrant,
    RenewalRefused,
    RenewalRequest,
)
from tinyfleet.fedcore.tls.context import TlsFiles

DAY = 86400.0


class Board:
    """A renewal under clocks that a test sets; what it says is heard in ``said``."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.wall = time.time()
        self.authority = Authority.make(directory / "ca", clock=lambda: self.wall)
        made = self.authority.issue(subject_of("porch"))
        for name, content in (("key", made.key), ("crt", made.certificate), ("trust", made.trust)):
            (directory / name).touch(mode=0o600)
            (directory / name).write_bytes(content)
        self.files = TlsFiles(*(str(directory / name) for name in ("trust", "crt", "key")))
        self.said = []
        self.reconnected = 0
        self.renewal = self.start()

    def start(self) -> Renewal:
        self.renewal = Renewal(
            self.files,
            "",
            send=self.said.append,
            reconnect=self.come_back,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
            rng=random.Random(0),
        )
        return self.renewal

    def come_back(self) -> None:
        self.reconnected += 1

    def grow_old(self) -> None:
        self.wall += 500 * DAY

    def requests(self) -> list[RenewalRequest]:
        return [message for message in self.said if isinstance(message, RenewalRequest)]

    def until(self, condition) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, self.said
            self.renewal.tick(accepted=True)

    def idle(self) -> None:
        """Nothing is under way, and a turn starts nothing."""
        for _ in range(3):
            self.renewal.tick(accepted=True)
        assert self.renewal._child is None


@pytest.fixture
def board(tmp_path):
    made = Board(tmp_path)
    yield made
    made.renewal.close()


def test_a_young_certificate_is_left_alone(board):
    board.idle()
    board.now += 10 * DAY
    board.idle()
    assert board.said == []


def test_a_certificate_in_the_last_third_of_its_life_is_renewed(board, caplog):
    caplog.set_level(logging.INFO)
    board.grow_old()
    board.until(board.requests)
    reply = answer(board.authority, "porch", board.requests()[0])
    assert isinstance(reply, RenewalGrant)
    board.renewal.granted(reply)
    board.until(lambda: board.reconnected)
    assert board.reconnected == 1
    assert "the certificate was renewed" in caplog.text
    assert "valid until" in caplog.text
    board.renewal.welcomed()
    (used,) = (message for message in board.said if isinstance(message, CertificateInUse))
    board.authority.confirm("porch", used.serial)
    assert [row.state for row in board.authority.certificates("porch")] == [
        CertificateState.ACTIVE,
        CertificateState.REPLACED,
    ]
    os.utime(board.files.certificate, (board.wall, board.wall))
    board.now += 10 * DAY
    board.idle()
    assert len(board.requests()) == 1


def test_it_waits_until_the_coordinator_listens(board):
    board.grow_old()
    for _ in range(3):
        board.renewal.tick(accepted=False)
    assert board.renewal._child is None


def test_a_replaced_authority_is_no_question_of_age(board):
    board.renewal.wanted()
    board.until(board.requests)


def test_a_refusal_is_told_with_its_cause_and_asked_again_sparsely(board, caplog):
    board.grow_old()
    board.until(board.requests)
    board.renewal.refused("this coordinator holds no certificate authority")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "(valid until 20" in caplog.text
    assert "this coordinator holds no certificate authority" in caplog.text
    assert "holds no certificate authority" in board.renewal.fault
    board.now += 500.0
    board.idle()
    board.renewal.wanted()
    board.idle()
    assert len(board.requests()) == 1
    board.now += 1.25 * LONGEST_PAUSE_S
    board.until(lambda: len(board.requests()) == 2)
    reply = answer(board.authority, "porch", board.requests()[1])
    board.renewal.granted(reply)
    board.until(lambda: board.reconnected)
    assert board.renewal.fault == ""


def test_silence_is_told_as_such(board, caplog):
    board.grow_old()
    board.until(board.requests)
    board.now += module.ANSWER_S
    board.renewal.tick(accepted=True)
    assert "the coordinator did not answer" in caplog.text


def test_near_its_end_it_asks_more_often(board):
    """A day's pause would be longer than what is left."""
    board.wall += 730 * DAY - 3600.0
    board.until(board.requests)
    board.renewal.refused("not now")
    board.now += 1.25 * module.LEAST_PAUSE_S
    board.until(lambda: len(board.requests()) == 2)


def test_what_nobody_asked_for_is_ignored(board):
    made = board.authority.renew("porch")
    before = Path(board.files.certificate).read_bytes()
    board.renewal.granted(RenewalGrant(made.certificate.decode(), made.trust.decode()))
    board.renewal.refused("go away")
    board.idle()
    assert board.renewal.fault == ""
    assert Path(board.files.certificate).read_bytes() == before


def test_a_grant_that_is_not_ours_is_a_warning(board, tmp_path, caplog):
    board.grow_old()
    board.until(board.requests)
    stranger = Authority.make(tmp_path / "stranger")
    made = stranger.issue(subject_of("porch"), request=board.requests()[0].request.encode())
    before = Path(board.files.certificate).read_bytes()
    board.renewal.granted(RenewalGrant(made.certificate.decode(), made.trust.decode()))
    board.until(lambda: board.renewal.fault)
    assert "none of the authorities that came is trusted here" in caplog.text
    assert Path(board.files.certificate).read_bytes() == before
    assert board.reconnected == 0


def test_a_certificate_that_cannot_be_read_is_a_warning(board, caplog):
    Path(board.files.certificate).write_text("nonsense")
    board.idle()
    assert "is not renewed" in caplog.text
    assert "no certificate in PEM form" in board.renewal.fault
    board.renewal.welcomed()
    assert board.said == []


@pytest.mark.parametrize("missing", ["directory", "tls_ca"])
def test_what_will_stand_in_its_way_is_told_at_the_start(board, caplog, monkeypatch, missing):
    """Not for the first time when the certificate is about to end."""
    if missing == "tls_ca":
        board.files = TlsFiles(None, board.files.certificate, board.files.key)
    else:
        monkeypatch.setattr("os.access", lambda path, mode: False)
    board.start()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the certificate will not renew itself: " in caplog.text
    assert {"tls_ca": "give both", "directory": "may not be written by this user"}[missing] in board.renewal.fault


def test_a_child_that_hangs_is_ended(board, monkeypatch, tmp_path):
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 1000\n")
    hangs.chmod(0o700)
    monkeypatch.setattr(module.sys, "executable", str(hangs))
    board.grow_old()
    board.renewal.tick(accepted=True)
    child = board.renewal._child
    board.renewal.tick(accepted=True)
    assert child.poll() is None
    board.now += module.CHILD_S
    board.renewal.tick(accepted=True)
    assert child.poll() is not None
    assert "its process did not end within" in board.renewal.fault


def test_a_device_without_a_certificate_has_nothing_to_renew():
    renewal = Renewal(
        None,
        "",
        send=pytest.fail,
        reconnect=pytest.fail,
        clock=lambda: 0.0,
        wall_clock=lambda: 0.0,
        rng=random.Random(0),
    )
    renewal.tick(accepted=True)
    renewal.wanted()
    renewal.welcomed()
    renewal.refused("x")
    renewal.close()
    assert renewal.fault == ""


def test_refusals_are_messages_of_the_coordinator(board):
    """What it answers to a request that proves nothing goes through to the board's log."""
    board.grow_old()
    board.until(board.requests)
    reply = answer(board.authority, "porch", RenewalRequest(board.requests()[0].request, b"x"))
    assert isinstance(reply, RenewalRefused)
    board.renewal.refused(reply.reason)
    assert "not signed by the key of a valid certificate" in board.renewal.fault
