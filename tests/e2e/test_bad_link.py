"""An agent far away, over a link that loses, stalls and is cut: a task's bytes pass once, a tenth of them twice."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from tests.coordinator.toy import InstantEngine, create_toy, toy_spec
from tests.e2e.bad_link import BadLink, LinkFaults
from tests.edge_agent.rig import IDENTITY, Looker, ScriptedWorker
from tests.patience import PATIENCE_S
from tests.signing import FLEET_KEY
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.service import Service
from tinyfleet.coordinator.store.store import Store
from tinyfleet.edge_agent.config import load
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.self_report import Board
from tinyfleet.edge_agent.supervisor import Supervisor
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.task.second_look import SecondLook
from tinyfleet.edge_agent.worker.budget import Governor
from tinyfleet.edge_agent.worker.commands import DescribeCommand
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.run_spec import RunSpec

RESENT = 0.10  # of a task's bytes, each way
FRAMES = 0.02  # headers of chunks and packets
CONTROL_BYTES = 60_000  # hellos, heartbeats, statuses, offers of the whole run
MEGABIT = 125_000.0

LINKS = {
    "200 ms": LinkFaults(delay_s=0.1),
    "5 % loss": LinkFaults(delay_s=0.02, loss=0.05),
    "1 Mbit/s": LinkFaults(bytes_per_s=MEGABIT),
    "cuts": LinkFaults(bytes_per_s=8 * MEGABIT, cut_every_bytes=1_200_000),
    "all of it": LinkFaults(0.1, MEGABIT, 0.02, cut_every_bytes=1_500_000),
}


class TrainingWorker(ScriptedWorker):
    """Answers at once, as the toy method does. What it was given and gave is counted."""

    masks: ClassVar[dict] = {}
    needed_up: ClassVar[list[int]] = []
    needed_down: ClassVar[list[int]] = []

    def poll(self, now):
        if self.commands and not self.events and not getattr(self, "answered", False):
            self.answered = True
            spec, blob = msgspec.convert(self.task.spec, RunSpec), Path(self.task.blob).read_bytes()
            task = codec.decode(blob, held=self.masks.get)
            self.masks[codec.mask_ref(blob)] = task.mask
            result = codec.encode(create_toy(spec).answer(task, IDENTITY.device), precision="fp32", send_mask=False)
            self.needed_down.append(len(blob))
            self.needed_up.append(len(result))
            self.finish(result)
        return super().poll(now)

    def send(self, command):
        self.answered = False
        super().send(command)


def agent_on(transport, state):
    config = load(None, {"limits.policy": "warm", "limits.threads": 1})
    governor = Governor(
        state / "governor.json",
        memory_limit_bytes=100_000_000,
        usable=lambda: 10**9,
        threads=1,
        policy="warm",
        engine="auto",
    )
    return Supervisor(
        IDENTITY,
        FleetPin(state / "fleet.json"),
        config,
        Board(("torch",), 50),
        transport,
        state=state,
        governor=governor,
        outbox=Outbox(state / "outbox", max_bytes=10**8, max_age_s=1e6, wall_clock=time.time),
        inbox=Inbox(state / "inbox", 10**8),
        start_worker=TrainingWorker,
        second_look=SecondLook(DescribeCommand("porch", {}), Looker, time.monotonic),
        clock=time.monotonic,
        rng=random.Random(0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("link", LINKS)
def test_a_bad_link_costs_time_and_few_bytes(tmp_path, link):
    if not MosquittoBroker.available():
        pytest.skip("mosquitto is not installed")
    for kept in (TrainingWorker.masks, TrainingWorker.needed_up, TrainingWorker.needed_down):
        kept.clear()
    broker = MosquittoBroker(tmp_path / "broker")
    port = broker.start()
    proxy = BadLink(port, LINKS[link])
    (tmp_path / "agent").mkdir()
    store = Store(tmp_path / "state")
    here = MqttTransport(f"mqtt://127.0.0.1:{port}", "coordinator")
    there = MqttTransport(f"mqtt://127.0.0.1:{proxy.port}", IDENTITY.client_id, reconnect_max_s=1.0)
    config = CoordinatorConfig(auto_accept=True, evaluate=False)
    service = Service(store, here, config, FLEET_KEY, engine=InstantEngine(), create=create_toy)
    agent = agent_on(there, tmp_path / "agent")
    rounds = 3
    run = store.runs.submit(toy_spec(rounds=rounds, width=900, deadline_s=PATIENCE_S, grace_s=PATIENCE_S))
    service.start()
    agent.open()
    deadline = time.monotonic() + PATIENCE_S
    while not store.runs.get(run).finished and time.monotonic() < deadline:
        service.poll(0.01)
        agent.turn(0.01)
    assert store.runs.get(run).state == "finished"
    agent.close()
    service.close()
    proxy.close()
    broker.stop()
    assert not LINKS[link].cut_every_bytes or proxy.cuts >= 2
    for passed, needed in ((proxy.up, TrainingWorker.needed_up), (proxy.down, TrainingWorker.needed_down)):
        assert len(needed) == rounds, "no task was done twice"
        assert sum(needed) <= passed <= sum(needed) * (1 + RESENT + FRAMES) + CONTROL_BYTES
