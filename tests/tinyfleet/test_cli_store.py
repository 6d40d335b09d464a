"""Commands that work on the coordinator's state, without a coordinator that runs."""

from __future__ import annotations

import json

import pytest

from tinyfleet.cli.runs import resolve
from tinyfleet.cli.state import default_state
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError

RUN_TOML = """
name = "Try it"
seed = 3
[method]
name = "fedtiny"
density = 0.1
[training]
rounds = 7
"""


@pytest.fixture
def state(tmp_path):
    Store(tmp_path / "state").close()
    return tmp_path / "state"


@pytest.fixture
def run_toml(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN_TOML)
    return path


def test_submit_then_list_show_and_stop(tinyfleet, state, run_toml):
    run = json.loads(tinyfleet("run", "submit", run_toml, "--state", state, "--json").out)["run"]
    assert run.startswith("try-it-")
    (listed,) = json.loads(tinyfleet("run", "list", "--state", state, "--json").out)
    assert (listed["run"], listed["state"], listed["rounds"], listed["method"]) == (run, "submitted", 7, "fedtiny")
    shown = json.loads(tinyfleet("run", "show", run[:10], "--state", state, "--json").out)
    assert shown["run"]["spec"]["method"]["density"] == 0.1
    assert shown["steps"] == shown["tasks"] == []
    assert run in tinyfleet("run", "list", "--state", state).out
    assert run in tinyfleet("run", "show", run, "--state", state).out
    assert tinyfleet("run", "stop", run, "--state", state).code == 0


def test_submit_refuses_what_cannot_run(tinyfleet, state, tmp_path):
    for text, word in (
        ('[method]\nname = "fedtinny"', "fedtiny"),
        ("[trainning]\nrounds = 3", "training"),
        ('[method]\nname = "fedtiny"\ndensity = 2.0', "density"),
    ):
        path = tmp_path / "bad.toml"
        path.write_text(text)
        ran = tinyfleet("run", "submit", path, "--state", state)
        assert ran.code == ConfigError.exit_code
        assert word in ran.err
        assert "Traceback" not in ran.err
    assert json.loads(tinyfleet("run", "list", "--state", state, "--json").out) == []


def test_an_error_is_one_line_and_debug_shows_its_origin(tinyfleet, tmp_path):
    ran = tinyfleet("run", "list", "--state", tmp_path / "nowhere")
    assert ran.code == ConfigError.exit_code
    assert len(ran.err.strip().splitlines()) == 1
    with pytest.raises(ConfigError):
        tinyfleet("--debug", "run", "list", "--state", tmp_path / "nowhere")


def test_looking_makes_no_state(tinyfleet, tmp_path):
    for command in (("run", "list"), ("devices", "list"), ("run", "show", "x"), ("export", "x")):
        assert tinyfleet(*command, "--state", tmp_path / "nowhere").code == ConfigError.exit_code
    assert not (tmp_path / "nowhere").exists()


def test_state_comes_from_the_environment(tinyfleet, state, run_toml, monkeypatch):
    monkeypatch.setenv("TINYFLEET_STATE", str(state))
    assert tinyfleet("run", "submit", run_toml).code == 0
    assert len(json.loads(tinyfleet("run", "list", "--json").out)) == 1


def test_default_state():
    assert str(default_state({"TINYFLEET_STATE": "/a"})) == "/a"
    assert str(default_state({"XDG_STATE_HOME": "/b"})) == "/b/tinyfleet"
    assert default_state({}).parts[-3:] == (".local", "state", "tinyfleet")


def test_unknown_device(tinyfleet, state):
    for command in ("accept", "reject", "show"):
        ran = tinyfleet("devices", command, "board-9", "--state", state)
        assert ran.code != 0
        assert "board-9" in ran.err
    assert json.loads(tinyfleet("devices", "list", "--state", state, "--json").out) == []


def test_export_before_there_is_a_model(tinyfleet, state, run_toml):
    run = json.loads(tinyfleet("run", "submit", run_toml, "--state", state, "--json").out)["run"]
    ran = tinyfleet("export", run, "--state", state)
    assert ran.code == ConfigError.exit_code
    assert "no model yet" in ran.err


def test_resolve():
    assert resolve("a-1", ["a-1", "a-12"]) == "a-1"
    assert resolve("b", ["a-1", "b-2"]) == "b-2"
    with pytest.raises(ConfigError, match="a-1, a-12"):
        resolve("a", ["a-1", "a-12"])
    with pytest.raises(ConfigError, match="no run"):
        resolve("c", ["a-1"])
