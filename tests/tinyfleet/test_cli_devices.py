"""``tinyfleet devices`` and ``run show`` tell who does what, and why somebody does nothing."""

from __future__ import annotations

import json

import pytest

from tests.signing import key_named, public_key_of
from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.coordinator.store.records import Choice, Part, Presence, Share, TaskNote
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello
from tinyfleet.fedcore.protocol.signed.signatures import fingerprint, shown
from tinyfleet.fedcore.run_spec import RunSpec

SMALL = "micro-batch 8, 50% of activations kept in fp16"
HOT = "the temperature is 91 °C, the limit 85"


@pytest.fixture
def run(tmp_path):
    """A coordinator's state with four devices, three of which a step has looked at; the run's id."""
    store = Store(tmp_path / "state")
    for device in ("fast", "hot", "new", "slow"):
        store.devices.save_hello(
            device, Hello(device, "k", "s1", "0", [], {"name": "pi-4b"}, 70), Enrolment.ACCEPTED
        )
    health = {"temperature_c": 91.2, "free_memory_bytes": 412e6}
    store.devices.note_presence([Presence("hot", "s1", True, health, 0, 0)])
    run = store.runs.submit(RunSpec())
    choice = Choice(
        (
            Share("fast", chosen=True, whole_local_steps=40, predicted_s=3.5, basis="its last task"),
            Share("hot", Part.LEFT_OUT, reason=HOT),
            Share("slow", Part.PART, True, 12, 40, 0.5, 60.0, "the board's data sheet", "too long"),
        )
    )
    store.open_step(run, 0, "train", 0, "base", choice)
    store.tasks.save(run, 0, TaskNote("slow", TaskPhase.RUNNING, "", 0, 8, 0, 0, 12, SMALL))
    store.close()
    return run


def test_the_list_has_plan_and_health(tinyfleet, tmp_path, run):
    lines = tinyfleet("devices", "list", "--state", tmp_path / "state").out.splitlines()
    fast, hot, new, slow = lines[1:]
    for title in ("share", "predicted", "temperature", "free memory", "warnings"):
        assert title in lines[0]
    assert "whole" in fast
    assert "3.5 s" in fast
    assert f"left out: {HOT}" in hot
    assert "91 °C" in hot
    assert "412.0 MB" in hot
    assert "part, 12 of 40 local steps, caches 50%" in slow
    assert "60 s" in slow
    assert SMALL in slow
    assert "micro-batch" not in fast
    assert "whole" not in new


def test_the_list_as_json(tinyfleet, tmp_path, run):
    rows = json.loads(tinyfleet("devices", "list", "--state", tmp_path / "state", "--json").out)
    fast, hot, new, slow = rows
    assert new["share"] is None
    assert (fast["levers"], slow["levers"]) == ("", SMALL)
    assert new["warnings"] == []
    assert hot["warnings"] == [HOT]
    assert (hot["share"]["part"], hot["share"]["reason"]) == ("left out", HOT)
    assert (slow["share"]["local_steps"], slow["share"]["whole_local_steps"], slow["share"]["activation_keep"]) == (
        12,
        40,
        0.5,
    )
    assert (fast["share"]["predicted_s"], fast["share"]["run"], fast["share"]["chosen"]) == (3.5, run, True)


def test_one_device_in_full(tinyfleet, tmp_path, run):
    def shown(device):
        return tinyfleet("devices", "show", device, "--state", tmp_path / "state").out

    slow, hot = shown("slow"), shown("hot")
    assert "part, 12 of 40 local steps, caches 50%: too long" in slow
    assert f"step 0 of {run}, chosen" in slow
    assert "60 s, by the board's data sheet" in slow
    assert SMALL in slow
    assert "in less memory" not in hot
    assert "warning" not in slow
    assert f"left out: {HOT}" in hot
    assert "not chosen" in hot
    assert "warning" in hot
    assert "predicted" not in shown("new")
    document = json.loads(tinyfleet("devices", "show", "slow", "--state", tmp_path / "state", "--json").out)
    assert document["share"]["basis"] == "the board's data sheet"


def test_a_run_tells_whom_its_steps_did_without(tinyfleet, tmp_path, run):
    out = tinyfleet("run", "show", run, "--state", tmp_path / "state").out
    assert "left out" in out
    assert f"hot: {HOT}" in out
    assert "in less memory" in out
    assert f"slow: {SMALL}" in out
    document = json.loads(tinyfleet("run", "show", run, "--state", tmp_path / "state", "--json").out)
    assert document["steps"][0]["left_out"] == {"hot": HOT}
    assert [task["local_steps"] for task in document["tasks"]] == [0, 12]


def test_what_a_device_calls_itself_is_shown_and_not_followed(tinyfleet, tmp_path, run):
    store = Store(tmp_path / "state")
    title = "[red]x[/red][/]\x1b[2J\nforged\u202e"
    hello = Hello("evil", "k", "s1", "0", ["native\nfast"], {"name": title}, 70)
    store.devices.save_hello("evil", hello, Enrolment.PENDING)
    store.devices.set_quarantine("evil", "16 faults, the last a [b]Hello[/b]")
    store.close()
    shown = [
        tinyfleet(*command, "--state", tmp_path / "state").out
        for command in (("devices", "list"), ("devices", "show", "evil"), ("devices", "list", "--json"))
    ]
    assert r"[red]x[/red][/]\x1b[2J\nforged\u202e" in shown[0]
    assert "quarantined: 16 faults, the last a [b]Hello[/b]" in shown[0]
    assert r"native\nfast" in shown[1]
    assert json.loads(shown[2])[0]["profile"]["name"] == title
    for text in shown:
        assert all(char.isprintable() or char == "\n" for char in text)
        assert "\nforged" not in text


def test_a_row_that_cannot_be_read_is_named_and_the_rest_is_listed(tinyfleet, tmp_path, run, caplog):
    store = Store(tmp_path / "state")
    store._db.write("UPDATE devices SET profile = ? WHERE device = 'hot'", '{"a":' + "[" * 960 + "]" * 960 + "}")
    broken = store.runs.submit(RunSpec(name="broken"))
    store._db.write("UPDATE runs SET spec = '{' WHERE run = ?", broken)
    store.close()
    listed = tinyfleet("devices", "list", "--state", tmp_path / "state").out
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["fast", "new", "slow"]
    assert "the row of hot in devices cannot be read" in caplog.text
    shown = tinyfleet("devices", "show", "hot", "--state", tmp_path / "state")
    assert shown.code == ConfigError.exit_code
    assert "what is kept of device 'hot' cannot be read" in shown.err
    assert tinyfleet("devices", "forget", "hot", "--state", tmp_path / "state").code == 0
    assert "has ever said hello" in tinyfleet("devices", "show", "hot", "--state", tmp_path / "state").err
    assert run in tinyfleet("run", "list", "--state", tmp_path / "state").out
    assert f"the row of {broken} in runs cannot be read" in caplog.text
    assert broken in tinyfleet("run", "stop", broken, "--state", tmp_path / "state").out


def test_keys_are_shown_changed_and_forgotten(tinyfleet, tmp_path):
    state = tmp_path / "state"
    store = Store(state)
    hello = Hello("porch", public_key_of("porch"), "s1", "0", [])
    store.devices.save_hello("porch", hello, Enrolment.ACCEPTED)
    mark = shown(fingerprint(key_named("porch").public))
    assert mark in tinyfleet("devices", "list", "--state", state).out
    assert mark in tinyfleet("devices", "show", "porch", "--state", state).out
    (document,) = json.loads(tinyfleet("devices", "list", "--state", state, "--json").out)
    assert document["fingerprint"] == mark
    assert tinyfleet("devices", "rekey", "porch", "--state", state).code == 0
    assert store.devices.pins()[0].rekey
    assert "next key" in tinyfleet("devices", "list", "--state", state).out
    assert tinyfleet("devices", "forget", "porch", "--state", state).code == 0
    assert store.devices.all() == []
    for command in ("rekey", "forget"):
        ran = tinyfleet("devices", command, "porch", "--state", state)
        assert ran.code == 13
        assert "no device 'porch'" in ran.err
    store.close()
