"""Blobs that arrive in spite of the wire."""

from __future__ import annotations

import itertools

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import expected_state


def test_lost_chunks_are_asked_for_again(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    dropped = itertools.count()
    original = fleet.agents["board-0"].transport.publish

    def drop_some(topic, payload, timeout=30.0):
        if topic.endswith("/chunk") and next(dropped) % 3 == 0:
            return
        original(topic, payload, timeout)

    fleet.agents["board-0"].transport.publish = drop_some
    fleet.hello()
    fleet.sleep(60)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
