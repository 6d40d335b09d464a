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


def test_a_task_travels_in_chunks_that_the_broker_takes(fleet):
    spec = toy_spec(rounds=1)
    most, sizes = 3000, []
    original = fleet.transport.publish

    def publish(topic, payload, timeout=30.0):
        sizes.append(len(payload))
        original(topic, payload, timeout)

    fleet.transport.publish = publish
    fleet.transport.payload_bytes = lambda topic: most
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(5)
    assert fleet.store.runs.get(run).state == "finished"
    chunks = [size for size in sizes if size > 1500]
    assert chunks
    assert max(chunks) <= most
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
