"""Both programs as processes over Mosquitto, among strangers, wiped directories and copied cards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.edge_agent.runs import write_data
from tests.patience import PATIENCE_S
from tests.signing import Signer, key_named
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.messages import TaskCancel, Welcome
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.signed.envelope import Direction, unseal
from tinyfleet.fedcore.protocol.transport import Received

pytestmark = pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
COORDINATOR = [sys.executable, "-c", "from tinyfleet.coordinator.cli import main; main()"]
AGENT = [sys.executable, "-m", "tinyfleet.edge_agent.cli"]


class Scene:
    """A broker, and whatever runs on it; logs are files."""

    def __init__(self, directory):
        self.directory = directory
        self.broker = MosquittoBroker(directory / "broker")
        self.url = f"mqtt://127.0.0.1:{self.broker.start()}"
        self.processes = []
        self.source = write_data(directory / "data.npz")

    def coordinator(self, name):
        command = [*COORDINATOR, "run", "--state", str(self.directory / name), "--broker", self.url]
        return self._start(name, [*command, "--auto-accept"])

    def agent(self, name):
        config = self.directory / f"{name}.toml"
        config.write_text(
            f'name = "porch"\nstate = "{self.directory / name}"\n[broker]\nurl = "{self.url}"\n'
            f'[data]\nsource = "{self.source}"\npublic_fraction = 0.0\ntest_fraction = 0.0\n',
            encoding="utf-8",
        )
        return self._start(name, [*AGENT, "run", "--config", str(config)])

    def _start(self, name, command):
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes.append(subprocess.Popen(command, stderr=log))
        return self.processes[-1]

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(encoding="utf-8")

    def until(self, condition):
        end = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < end, [self.log(path.stem)[-2000:] for path in self.directory.glob("*.log")]
            time.sleep(0.1)
        return found

    def status(self, command, name):
        config = ["--config", str(self.directory / f"{name}.toml")] if command is AGENT else []
        state = [] if command is AGENT else ["--state", str(self.directory / name)]
        ran = subprocess.run(
            [*command, "status", *config, *state, "--json"], capture_output=True, text=True, check=True
        )
        return json.loads(ran.stdout)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.broker.stop()


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    made.close()


def end(process):
    process.terminate()
    process.wait(PATIENCE_S)


@pytest.mark.slow
def test_strangers_and_another_fleet_are_not_obeyed(scene):
    coordinator, _ = scene.coordinator("gateway"), scene.agent("board")
    heard = []
    client = MqttTransport(scene.url, "stranger")
    client.open(("#",))

    def enrolled():
        while (event := client.receive(0)) is not None:
            if isinstance(event, Received) and event.topic == topics.down("porch"):
                heard.append(event)
        return "this board belongs to fleet" in scene.log("board")

    scene.until(enrolled)
    fleet = scene.status(COORDINATOR, "gateway")
    board = scene.status(AGENT, "board")
    assert board["fleet"] == fleet["fleet"]
    assert board["fingerprint"] == fleet["devices"][0]["fingerprint"]
    scene.until(lambda: scene.status(AGENT, "board")["link"] == "accepted")
    envelope = unseal(heard[-1].payload)
    forger = Signer(
        *(key_named("stranger"), Direction.DOWN, "porch", envelope.session),
        peer=envelope.peer,
        fleet=envelope.fleet,
        counter=envelope.counter + 1000,
    )
    for message in (Welcome("rejected"), TaskCancel("run", 0)):
        client.publish(topics.down("porch"), forger.seal(message))
    for event in heard:
        client.publish(event.topic, event.payload)
    scene.until(lambda: "is not signed by its fleet" in scene.log("board"))
    assert scene.status(AGENT, "board")["link"] == "accepted"
    client.close()

    # The gateway's disk is replaced by an empty one: that is another fleet, which both sides say.
    end(coordinator)
    wiped = scene.coordinator("wiped")
    scene.until(lambda: "speaks to this board" in scene.log("board"))
    scene.until(lambda: "are on this broker" in scene.log("wiped"))
    other = scene.status(COORDINATOR, "wiped")
    assert other["devices"] == []
    assert other["fingerprint"] in scene.status(AGENT, "board")["others"]
    end(wiped)
    before = scene.log("gateway").count("porch is online")
    scene.coordinator("gateway")
    scene.until(lambda: scene.log("gateway").count("porch is online") > before)


def test_a_copied_card_is_named(scene):
    scene.coordinator("gateway")
    scene.agent("board")
    scene.until(lambda: "this board belongs to fleet" in scene.log("board"))
    shutil.copytree(scene.directory / "board", scene.directory / "clone")
    (scene.directory / "clone" / "lock").unlink()
    scene.agent("clone")
    scene.until(lambda: "two boards have the identity of porch" in scene.log("gateway"))
    scene.until(lambda: "two boards" in scene.status(COORDINATOR, "gateway")["devices"][0]["trouble"])


def test_loose_directories_and_a_lost_key_are_refused(scene):
    end_of = scene.coordinator("gateway")
    scene.agent("board")
    scene.until(lambda: "this board belongs to fleet" in scene.log("board"))
    end(end_of)
    state = scene.directory / "gateway"
    state.chmod(0o755)
    assert scene.coordinator("gateway").wait(PATIENCE_S) == 2
    assert f"chmod 700 {state}" in scene.log("gateway")
    state.chmod(0o700)
    (state / "fleet.key").chmod(0o644)
    assert scene.coordinator("gateway").wait(PATIENCE_S) == 2
    assert f"chmod 600 {state}/fleet.key" in scene.log("gateway")
    (state / "fleet.key").unlink()
    assert scene.coordinator("gateway").wait(PATIENCE_S) == 11
    assert "restore it from a backup, or start with --new-fleet" in scene.log("gateway")
    end(scene.processes[1])
    (scene.directory / "board" / "identity.json").chmod(0o640)
    assert scene.agent("board").wait(PATIENCE_S) == 2
    assert "chmod 600" in scene.log("board")
