"""A clock that fell back: what a board knows from its last meeting with the broker."""

from __future__ import annotations

import os
import ssl
import time

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, refused, until
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.transport import Connected
from tinyfleet.fedcore.tls.clock import FILE_NAME, EndedBefore, floor, met

DAY = 86400.0


def peer(end):
    return {"notAfter": time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(end))}


def test_nothing_is_known_at_first(tmp_path):
    assert floor(None) == 0.0
    assert floor(str(tmp_path / "crt")) == 0.0


def test_a_meeting_is_kept_and_wears_no_card(tmp_path):
    certificate, now = str(tmp_path / "crt"), time.time()
    met(certificate, peer(now + DAY), now)
    assert floor(certificate) == pytest.approx(now, abs=60.0)
    before = (tmp_path / FILE_NAME).stat().st_mtime_ns
    met(certificate, peer(now + DAY), now + 60.0)
    assert (tmp_path / FILE_NAME).stat().st_mtime_ns == before


def test_a_clock_that_fell_back_takes_no_certificate_that_ended_since(tmp_path):
    certificate, now = str(tmp_path / "crt"), time.time()
    (tmp_path / FILE_NAME).touch()
    os.utime(tmp_path / FILE_NAME, (now, now))
    with pytest.raises(EndedBefore) as caught:
        met(certificate, peer(now - DAY), now - 400 * DAY)
    assert caught.value.floor == pytest.approx(now, abs=1.0)
    assert isinstance(caught.value, ssl.SSLCertVerificationError)
    met(certificate, peer(now + DAY), now - 400 * DAY)
    assert floor(certificate) == pytest.approx(now, abs=1.0), "the floor does not fall back with the clock"


def test_a_directory_that_may_not_be_written_has_no_floor(tmp_path):
    met(str(tmp_path / "nowhere" / "crt"), peer(time.time() + DAY), time.time())


@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_at_the_broker(tmp_path):
    """Its certificate is valid by this clock; the board remembers a later time, at which it no longer is."""
    fleet = MtlsFleet(tmp_path)
    try:
        kept = fleet.issue("board-1")
        first = fleet.connect(kept)
        until(first, Connected)
        first.close()
        assert floor(str(kept / "crt")) == pytest.approx(time.time(), abs=600.0)
        later = time.time() + 800 * DAY
        os.utime(kept / FILE_NAME, (later, later))
        reason = refused(fleet.connect(kept))
        assert f"yet it met the broker on {time.strftime('%Y', time.gmtime(later))}" in reason
        assert "set the clock" in reason
    finally:
        fleet.close()
