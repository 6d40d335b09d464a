"""One device: presence, the task it is at, the masks that it holds."""

from __future__ import annotations

import pytest

from tinyfleet.coordinator.fleet.device import IDLE_BEATS, Device
from tinyfleet.coordinator.store.records import Pin, Presence
from tinyfleet.fedcore.protocol.messages import Enrolment

SILENCE_S = 15.0


@pytest.fixture
def device():
    device = Device("board", "key", "s1", Enrolment.ACCEPTED, False, 0.0, 0.0, False)
    device.heard(100.0)
    return device


def remembered(*, online):
    return Device.remembered(Pin("board", "key", "s1", Enrolment.ACCEPTED, online), 100.0, SILENCE_S)


def test_after_a_restart_one_that_was_there_is_awaited_for_a_while():
    device = remembered(online=True)
    assert device.awaited(114.0)
    assert not device.online
    assert device.away_s(114.0) is None
    device.tick(115.0, SILENCE_S)
    assert not device.awaited(115.0)
    assert device.away_s(120.0) == 5.0


def test_after_a_restart_one_that_was_away_is_not_awaited():
    device = remembered(online=False)
    assert not device.awaited(100.0)
    assert device.away_s(120.0) is not None


def test_nobodys_silence_counts_while_the_broker_is_away(device):
    device.reconnected(500.0, SILENCE_S)
    device.tick(514.0, SILENCE_S)
    assert device.online
    device.tick(516.0, SILENCE_S)
    assert not device.online
    assert device.away_s(520.0) == 4.0


def test_heartbeats_without_a_task_tell_once_that_it_is_lost(device):
    device.greeted("s1", ("run", 0))
    for _ in range(IDLE_BEATS):
        assert not device.has_lost_its_task()
        device.beat(None)
    assert device.has_lost_its_task()
    assert not device.has_lost_its_task(), "told once, then counted anew"
    device.beat(None)
    device.beat(("run", 0))
    device.beat(None)
    assert not device.has_lost_its_task()


def test_masks_last_for_a_session(device):
    device.note_mask("digest", held=True)
    device.greeted("s1", None)
    assert device.holds_mask("digest")
    device.note_mask("digest", held=False)
    assert not device.holds_mask("digest")
    device.note_mask("digest", held=True)
    device.greeted("s2", None)
    assert not device.holds_mask("digest")


def test_notes_add_up_until_they_are_taken(device):
    device.note(health={"rss_bytes": 1.0}, idle=20, peak=80)
    device.note(peak=60)
    assert device.health == {"rss_bytes": 1.0}
    assert device.take_note() == Presence("board", "s1", True, {"rss_bytes": 1.0}, 20, 80)
    assert device.take_note() is None
    assert device.health is None
