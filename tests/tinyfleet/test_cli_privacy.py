"""What commands say of a private run: before it starts, and what it has spent."""

from __future__ import annotations

import json

import pytest

from tinyfleet.coordinator.cli import main as coordinator
from tinyfleet.coordinator.privacy.ledgers import Ledger, Release
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import PrivacySettings

RUN_TOML = """
[method]
name = "static"
[training]
rounds = 20
[privacy]
mode = "central"
"""


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")


@pytest.fixture
def run_toml(tmp_path):
    """Writes a run; its last lines are those of ``[privacy]``."""

    def write(more):
        path = tmp_path / "run.toml"
        path.write_text(RUN_TOML + more)
        return path

    return write


def test_submit_finds_the_noise_that_a_budget_asks_for_and_says_so(tinyfleet, tmp_path, run_toml):
    state = tmp_path / "state"
    said = json.loads(tinyfleet("run", "submit", run_toml("epsilon = 3.0"), "--state", state, "--json").out)
    assert said["spec"]["privacy"]["noise"] == said["privacy"]["noise"] == pytest.approx(6.68, abs=0.01)
    assert 2.99 < said["privacy"]["epsilon"] <= 3.0
    assert Store(state).runs.get(said["run"]).spec["privacy"]["noise"] == said["privacy"]["noise"]


def test_submit_says_where_a_budget_ends_the_run(tinyfleet, tmp_path, run_toml):
    said = tinyfleet("run", "submit", run_toml("noise = 4.0\nepsilon = 3.0"), "--state", tmp_path / "state").out
    assert "7 rounds spend epsilon" in said
    assert "before round 20" in said


def test_what_cannot_be_private_is_refused_at_submission(tinyfleet, tmp_path, run_toml):
    path = run_toml("noise = 1.0")
    path.write_text(path.read_text().replace("static", "feddst"))
    ran = tinyfleet("run", "submit", path, "--state", tmp_path / "state")
    assert ran.code == ConfigError.exit_code
    assert not (tmp_path / "state" / "coordinator.db").exists()


@pytest.mark.parametrize("mode", ["central", "local"])
def test_noise_beside_a_secure_sum_is_refused_at_submission(tinyfleet, tmp_path, run_toml, mode):
    """It would have to be added before the masks."""
    path = run_toml("noise = 1.0\n[fleet]\nmin_results = 3\nnorm_limit = 0.0\ninfluence_limit = 0.0\n")
    path.write_text(path.read_text().replace("central", mode) + "[secure_aggregation]\nenabled = true\n")
    ran = tinyfleet("run", "submit", path, "--state", tmp_path / "state")
    assert ran.code == ConfigError.exit_code
    assert ran.err.startswith(f'tinyfleet: secure_aggregation: privacy.mode = "{mode}"')
    assert 'set it to "none"' in ran.err
    assert not (tmp_path / "state" / "coordinator.db").exists()


def test_show_and_status_say_what_is_spent(tinyfleet, tmp_path, run_toml, capsys):
    state = tmp_path / "state"
    run = json.loads(tinyfleet("run", "submit", run_toml("noise = 4.0"), "--state", state, "--json").out)["run"]
    assert json.loads(tinyfleet("run", "show", run, "--state", state, "--json").out)["privacy"] is None
    ledger = Ledger(
        PrivacySettings("central", 1.0, 4.0, 3.0), (Release(0, "a" * 64, 0.97), Release(1, "b" * 64, 1.4))
    )
    Store(state).ledgers.put(run, ledger)
    shown = json.loads(tinyfleet("run", "show", run, "--state", state, "--json").out)["privacy"]
    assert [release["epsilon"] for release in shown["releases"]] == [0.97, 1.4]
    assert "epsilon 1.4 of 3 spent at delta 1e-05" in tinyfleet("run", "show", run, "--state", state).out
    coordinator(["status", "--state", str(state)])
    assert "epsilon 1.4 of 3 spent" in capsys.readouterr().out
    coordinator(["status", "--state", str(state), "--json"])
    assert json.loads(capsys.readouterr().out)["privacy"][run]["releases"][1]["epsilon"] == 1.4


def test_a_damaged_ledger_takes_neither_show_nor_status_away(tinyfleet, tmp_path, run_toml, capsys):
    state = tmp_path / "state"
    run = json.loads(tinyfleet("run", "submit", run_toml("noise = 4.0"), "--state", state, "--json").out)["run"]
    (state / "privacy").mkdir()
    (state / "privacy" / f"{run}.json").write_bytes(b"{")
    assert tinyfleet("run", "show", run, "--state", state).code == 0
    coordinator(["status", "--state", str(state)])
    assert run in capsys.readouterr().out
