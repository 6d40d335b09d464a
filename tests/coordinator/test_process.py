"""A real coordinator process with its real engine process, over a real broker, killed in the middle of a step."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import msgspec
import numpy as np
import pytest

from tests.coordinator.toy_agent import Agent
from tests.patience import PATIENCE_S
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.methods.method import device_seed
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    RunSpec,
    TrainingSettings,
    WireSettings,
)
from tinyfleet.fedcore.sparsity.mask import apply_mask
from tinyfleet.fedcore.training import registry as engines

pytestmark = [
    pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed"),
    pytest.mark.skipif(not engines.available(), reason="no training engine is installed"),
]


def answer(spec: RunSpec, task: Payload, device: str) -> Payload:
    rng = device_seed(spec.seed, task, device)
    params = {name: v + 0.01 * rng.standard_normal(v.shape, dtype=np.float32) for name, v in task.params.items()}
    apply_mask(params, task.mask)
    return Payload({"step": task.meta["step"], "samples": 10 + len(device), "loss": 0.5}, params, task.mask)


def respond(agent, offer, task):
    spec = msgspec.convert(offer.spec, RunSpec)
    agent.put_result(offer, codec.encode(answer(spec, task, agent.device), precision="fp32", send_mask=False))


def expected_state(initial: bytes, spec: RunSpec, devices) -> bytes:
    method, state = methods.create(spec.method, methods.problem_of(spec)), codec.decode(initial)
    while not method.finished(state):
        task, fold = method.configure_round(state), method.begin_fold(state)
        for device in devices:
            method.fold(fold, answer(spec, task, device))
        state = method.finish_round(state, fold)
    return codec.encode(state, precision="fp32")


@contextlib.contextmanager
def coordinator(state, config, url):
    command = [sys.executable, "-c", "from tinyfleet.coordinator.cli import main; main()", "run"]
    command += ["--state", str(state), "--config", str(config), "--broker", url, "--auto-accept"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) in (0, -9)


def until(agents, condition, timeout_s=PATIENCE_S):
    """Let the agents work until ``condition`` holds; they say every half second that they live and what they have.

    A message that leaves while no coordinator listens is lost, however long it takes to start.
    """
    end, beat_at = time.monotonic() + timeout_s, 0.0
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("timed out")
        if time.monotonic() > beat_at:
            beat_at = time.monotonic() + 0.5
            for agent in agents:
                if not agent.channel.established:
                    agent.hello()
                agent.heartbeat()
                if not agent.holds_results:
                    agent.offer_results()
        for agent in agents:
            agent.pump()
        time.sleep(0.002)


def test_a_run_survives_kill_9_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(data, x=rng.integers(0, 255, (90, 1, 8, 8)).astype(np.uint8), y=np.arange(90) % 3)
    config = tmp_path / "coordinator.toml"
    config.write_text("heartbeat_s = 0.5\nchunk_timeout_s = 1.0\n")
    spec = RunSpec(
        method={"name": "static", "density": 0.2},
        model=ModelSettings("small_cnn", (1, 8, 8), 3),
        training=TrainingSettings(rounds=2, pretrain_epochs=1),
        data=DataSettings(f"arrays:{data}", public_fraction=0.5, test_fraction=0.3),
        fleet=FleetSettings(min_devices=2, grace_s=30.0),
        wire=WireSettings(precision="fp32"),
    )
    broker = MosquittoBroker(tmp_path / "broker")
    url = f"mqtt://127.0.0.1:{broker.start()}"
    store = Store(tmp_path / "state")
    agents = [
        Agent(None, name, tmp_path / name, behaviour=respond, transport=MqttTransport(url, name))
        for name in ("board-0", "board-1")
    ]
    try:
        run = store.runs.submit(spec)
        agents[1].holds_results = True
        until(agents, lambda: all(agent.transport.connected for agent in agents))
        with coordinator(tmp_path / "state", config, url) as process:
            until(agents, lambda: len(store.devices.all()) == 2)
            until(agents, lambda: [task.state for task in store.tasks.of(run)].count("stored") == 1)
            path = store.state_blob(run)
            assert path is not None
            initial = path.read_bytes()
            process.kill()
            process.wait()
        with coordinator(tmp_path / "state", config, url):
            agents[1].holds_results = False
            assert agents[1].outbox
            until(agents, lambda: store.runs.get(run).state not in ("running", "preparing"))
        row = store.runs.get(run)
        assert (row.state, row.reason, row.round) == ("finished", "", 2)
        assert store.state_blob(run).read_bytes() == expected_state(initial, spec, ["board-0", "board-1"])
        first, second = store.steps.of(run)
        assert (first.results, second.results, first.lost, second.lost) == (2, 2, [], [])
        assert first.test_accuracy is not None
        assert second.test_accuracy is not None
    finally:
        for agent in agents:
            agent.transport.close()
        store.close()
        broker.stop()
