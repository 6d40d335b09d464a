"""The real agent process on a real broker; this test is its coordinator."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.edge_agent.rig import Coordinator
from tests.edge_agent.runs import first_state, spec_of, task_blob, write_data
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.protocol.messages import (
    Enrolment,
    Goodbye,
    Heartbeat,
    Hello,
    ResultOffer,
    ResultVerdict,
    TaskState,
    TaskStatus,
    Verdict,
)
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.training.registry import available, preferred

pytestmark = [
    pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed"),
    pytest.mark.skipif(not available(), reason="the worker needs an engine"),
]

RSS_LIMIT_BYTES = 30_000_000


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    made = MosquittoBroker(tmp_path / "broker")
    made.port_now = made.start()
    yield made
    made.stop()


@pytest.fixture
def coordinator(broker):
    transport = MqttTransport(f"mqtt://127.0.0.1:{broker.port_now}", "test-coordinator")
    made = Coordinator(transport)
    yield made
    transport.close()


class Agent:
    """``edge-agent run`` as a process."""

    def __init__(self, tmp_path, port):
        source = write_data(tmp_path / "data.npz")
        config = tmp_path / "agent.toml"
        config.write_text(
            f'name = "porch"\nstate = "{tmp_path}/state"\n[broker]\nurl = "mqtt://127.0.0.1:{port}"\n'
            f'[data]\nsource = "{source}"\npublic_fraction = 0.0\ntest_fraction = 0.0\n'
            '[limits]\nthreads = 1\npolicy = "warm"\nmemory_limit = "1500M"\n',
            encoding="utf-8",
        )
        self.command = [sys.executable, "-m", "tinyfleet.edge_agent.cli", "run", "--config", str(config)]
        self.log = tmp_path / "agent.log"
        self.start()

    def start(self):
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(self.command, stderr=stderr, stdout=subprocess.DEVNULL)

    @property
    def rss_bytes(self):
        return psutil.Process(self.process.pid).memory_info().rss

    def workers(self):
        return [
            child for child in psutil.Process(self.process.pid).children() if "worker" in " ".join(child.cmdline())
        ]


@pytest.fixture
def agent(tmp_path, broker):
    made = Agent(tmp_path, broker.port_now)
    yield made
    made.process.kill()
    made.process.wait()
    sys.stderr.write(made.log.read_text(encoding="utf-8"))


def join(coordinator, hellos=1):
    coordinator.await_(lambda: len(coordinator.of(Hello)) >= hellos)
    coordinator.welcome(heartbeat_s=0.3)
    return coordinator.of(Hello)[-1]


def statuses(coordinator, state):
    return [status for status in coordinator.of(TaskStatus) if status.state is state]


def do_task(coordinator, spec, state, step):
    """One whole task; the result's payload and the acknowledging status."""
    coordinator.offer(step, task_blob(spec, state), spec=spec)
    offer = coordinator.await_(lambda: [o for o in coordinator.of(ResultOffer) if o.step == step])[0]
    blob = coordinator.fetch(offer.manifest)
    before = len(statuses(coordinator, TaskState.ACKNOWLEDGED))
    coordinator.say(ResultVerdict("r", step, Verdict.STORED))
    coordinator.await_(lambda: len(statuses(coordinator, TaskState.ACKNOWLEDGED)) > before)
    return decode(blob), offer, statuses(coordinator, TaskState.ACKNOWLEDGED)[-1]


def test_it_stays_small_and_does_its_tasks(agent, coordinator):
    hello = join(coordinator)
    assert (hello.name, hello.samples, hello.memory_limit_bytes) == ("porch", 80, 1_500_000_000)
    assert hello.engines[0] == preferred()
    coordinator.await_(lambda: len(coordinator.of(Heartbeat)) >= 2)
    idle = agent.rss_bytes
    assert idle < RSS_LIMIT_BYTES, f"idle supervisor: {idle} bytes"
    assert coordinator.of(Heartbeat)[-1].health["rss_bytes"] == pytest.approx(idle, rel=0.05)
    spec = spec_of()
    state = first_state(spec)
    result, offer, acknowledged = do_task(coordinator, spec, state, 0)
    assert result.meta["samples"] == 80
    assert offer.engine == preferred()
    assert offer.peak_rss_bytes > 50_000_000
    sizes = acknowledged.traffic
    assert sizes.received > len(task_blob(spec, state))
    assert sizes.sent > offer.manifest.size
    (warm,) = agent.workers()
    state.meta["step"] = 1
    do_task(coordinator, spec, state, 1)
    assert [worker.pid for worker in agent.workers()] == [warm.pid], "the same warm worker"
    after = agent.rss_bytes
    assert after < RSS_LIMIT_BYTES, f"supervisor after two tasks: {after} bytes"
    agent.process.send_signal(signal.SIGTERM)
    coordinator.await_(lambda: coordinator.of(Goodbye))
    assert agent.process.wait(PATIENCE_S) == 0
    assert coordinator.of(Goodbye)[-1].reason == "the agent was stopped"
    assert not warm.is_running() or warm.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_killed_worker_costs_one_task(agent, coordinator):
    join(coordinator)
    spec = spec_of(local_epochs=400)
    coordinator.offer(0, task_blob(spec, first_state(spec)), spec=spec)
    coordinator.await_(lambda: [s for s in statuses(coordinator, TaskState.RUNNING) if s.local_steps_done > 0])
    agent.workers()[0].kill()
    failed = coordinator.await_(lambda: statuses(coordinator, TaskState.FAILED))[0]
    assert "SIGKILL" in failed.reason
    spec = spec_of()
    do_task(coordinator, spec, first_state(spec), 0)


@pytest.mark.slow
def test_the_broker_goes_away_while_it_trains(tmp_path, agent, broker, coordinator):
    join(coordinator)
    spec = spec_of(local_epochs=60)
    coordinator.offer(0, task_blob(spec, first_state(spec)), spec=spec)
    coordinator.await_(lambda: statuses(coordinator, TaskState.RUNNING))
    broker.stop()
    deadline = time.monotonic() + PATIENCE_S
    while not list((tmp_path / "state" / "outbox").glob("*.json")):
        assert time.monotonic() < deadline, "training ended with the network"
        time.sleep(0.05)
    before = len(coordinator.of(Hello))
    again = MosquittoBroker(tmp_path / "broker", port=broker.port_now)
    again.start()
    try:
        hello = join(coordinator, before + 1)
        assert hello.task == ("r", 0)
        offer = coordinator.await_(lambda: coordinator.of(ResultOffer))[0]
        assert decode(coordinator.fetch(offer.manifest)).meta["samples"] == 80
    finally:
        again.stop()


@pytest.mark.slow
def test_a_killed_agent_is_missed_and_takes_its_worker_along(agent, coordinator):
    first = join(coordinator)
    spec = spec_of()
    coordinator.offer(0, task_blob(spec, first_state(spec)), spec=spec)
    coordinator.await_(lambda: coordinator.of(ResultOffer))
    workers = agent.workers()
    agent.process.kill()
    agent.process.wait()
    goodbye = coordinator.await_(lambda: coordinator.of(Goodbye))[0]
    assert (goodbye.session, goodbye.reason) == (first.session, "connection lost"), "the last will"
    psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    coordinator.heard.clear()
    agent.start()
    hello = join(coordinator)
    assert hello.public_key == first.public_key
    assert hello.session != first.session
    assert hello.task == ("r", 0), "the result outlived the agent"
    coordinator.fetch(coordinator.await_(lambda: coordinator.of(ResultOffer))[0].manifest)


def test_pending_devices_wait(agent, coordinator):
    join(coordinator)
    coordinator.welcome(Enrolment.PENDING, heartbeat_s=0.2)
    spec = spec_of()
    coordinator.offer(0, task_blob(spec, first_state(spec)), spec=spec)
    declined = coordinator.await_(lambda: statuses(coordinator, TaskState.DECLINED))[0]
    assert "pending" in declined.reason
    assert not agent.workers()


@pytest.mark.slow
def test_watching_a_worker_takes_less_than_a_hundredth_of_a_core(agent, coordinator):
    """The supervisor's own CPU time, all its threads, while a task trains."""
    join(coordinator)
    coordinator.welcome(heartbeat_s=5.0)
    spec = spec_of(local_epochs=100_000)
    coordinator.offer(0, task_blob(spec, first_state(spec)), spec=spec)
    coordinator.await_(lambda: [s for s in statuses(coordinator, TaskState.RUNNING) if s.local_steps_done > 0])
    watched = psutil.Process(agent.process.pid)
    before, began = watched.cpu_times(), time.monotonic()
    time.sleep(10.0)
    after, seconds = watched.cpu_times(), time.monotonic() - began
    share = (after.user + after.system - before.user - before.system) / seconds
    sys.stderr.write(f"supervisor: {share:.2%} of a core over {seconds:.0f} s\n")
    assert agent.workers(), "it trained all the while"
    assert share < 0.01, f"{share:.2%} of a core"
