"""A private run live: its noise, its ledger, its budget, through restarts and damage."""

from __future__ import annotations

import stat

import msgspec
import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, hold_back, seen
from tinyfleet.coordinator.privacy.accountant import epsilon
from tinyfleet.coordinator.privacy.budget import PrivacyBudget
from tinyfleet.coordinator.privacy.ledgers import Ledgers
from tinyfleet.fedcore.protocol.messages import TaskOffer, encode
from tinyfleet.fedcore.run_spec import PrivacySettings

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")


@pytest.fixture
def fleets(tmp_path):
    """Two fleets of the same devices, that know nothing of each other."""
    made = [Fleet(tmp_path / name) for name in ("one", "other")]
    yield made
    for fleet in made:
        fleet.service.close()


def private_spec(mode="central", noise=0.05, budget=0.0, **given):
    privacy = PrivacySettings(mode, 0.3, noise, budget)
    return msgspec.structs.replace(toy_spec(**given), privacy=privacy)


def submitted(fleet, spec, key=KEY):
    """The run's id; its noise is made of ``key``."""
    run = fleet.store.runs.submit(spec)
    folder = fleet.store.directory / "privacy"
    folder.mkdir(exist_ok=True)
    (folder / f"{run}.key").write_bytes(key)
    return run


def finished(fleet, run):
    fleet.hello()
    fleet.sleep(8)
    return fleet.store.runs.get(run)


def test_a_resumed_step_equals_an_undisturbed_one_bit_for_bit(fleets):
    one, other = fleets
    spec = private_spec()
    undisturbed, resumed = (submitted(fleet, spec) for fleet in fleets)
    assert finished(one, undisturbed).state == "finished"
    hold_back(other, "board-1", "board-2")
    other.hello()
    other.sleep(1)
    other.vanish()
    other.start()  # with one of three results
    for name in ("board-1", "board-2"):
        other.agents[name].holds_results = False
        other.agents[name].offer_results()
    assert finished(other, resumed).state == "finished"
    assert one.state_bytes(undisturbed) == other.state_bytes(resumed)
    assert one.store.ledgers.get(undisturbed) == other.store.ledgers.get(resumed)


def test_another_key_gives_another_model_and_none_is_shared_between_runs(fleets):
    spec = private_spec()
    runs = [submitted(fleets[0], spec), fleets[1].store.runs.submit(spec)]
    for fleet, run in zip(fleets, runs, strict=True):
        assert finished(fleet, run).state == "finished"
    assert fleets[0].state_bytes(runs[0]) != fleets[1].state_bytes(runs[1])


def test_the_key_is_its_owners_alone_and_in_no_message(fleet):
    run = fleet.store.runs.submit(private_spec())
    assert finished(fleet, run).state == "finished"
    path = fleet.store.directory / "privacy" / f"{run}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    offers = seen(fleet.agents["board-0"], TaskOffer)
    assert len(offers) == 3
    key = path.read_bytes()
    assert not any(key.hex() in encode(offer).decode() for offer in offers)
    assert key not in (fleet.store.directory / "coordinator.db").read_bytes()


def test_what_is_spent_stands_in_the_ledger_a_step(fleet):
    spec = private_spec(noise=2.0)
    run = fleet.store.runs.submit(spec)
    assert finished(fleet, run).state == "finished"
    ledger = fleet.store.ledgers.get(run)
    assert [release.step for release in ledger.releases] == [0, 1, 2]
    assert [release.epsilon for release in ledger.releases] == [epsilon(spec.privacy, n) for n in (1, 2, 3)]
    assert ledger.releases[-1].sha256 == fleet.store.runs.state_sha256(run)
    assert [step.loss for step in fleet.store.steps.of(run)] == [None, None, None], "nobody tells a loss"


def test_a_run_stops_before_the_step_that_would_pass_its_budget(fleet):
    spec = private_spec(noise=2.0)
    budget = epsilon(spec.privacy, 2)
    run = fleet.store.runs.submit(private_spec(noise=2.0, budget=budget))
    row = finished(fleet, run)
    assert row.state == "stopped"
    assert "privacy budget" in row.reason
    assert f"privacy.epsilon is {budget:g}" in row.reason
    assert [step.state for step in fleet.store.steps.of(run)] == ["finished", "finished"]
    assert fleet.store.ledgers.get(run).epsilon == budget


def test_local_noise_has_no_key_here_and_a_ledger_too(fleet):
    spec = private_spec("local", noise=4.0)
    run = fleet.store.runs.submit(spec)
    assert finished(fleet, run).state == "finished"
    assert not (fleet.store.directory / "privacy" / f"{run}.key").exists()
    assert fleet.store.ledgers.get(run).epsilon == epsilon(spec.privacy, 3)


@pytest.mark.parametrize("file", ["key", "json"])
def test_a_damaged_file_costs_its_run_and_nothing_else(fleet, file):
    run, next_run = (fleet.store.runs.submit(private_spec(rounds=1)) for _ in range(2))
    folder = fleet.store.directory / "privacy"
    folder.mkdir()
    (folder / f"{run}.{file}").write_bytes(b"damaged")
    assert finished(fleet, run).state == "failed"
    assert "restore it" in fleet.store.runs.get(run).reason
    assert fleet.store.runs.get(next_run).state == "finished"
    assert fleet.store.ledgers.legible(run) is None


def test_a_run_without_privacy_leaves_nothing(fleet):
    run = fleet.store.runs.submit(toy_spec())
    assert finished(fleet, run).state == "finished"
    assert not (fleet.store.directory / "privacy").exists()
    assert fleet.store.ledgers.get(run) is None


# -- the ledger by itself -----------------------------------------------------------------


def test_a_state_that_is_computed_again_costs_nothing_another_one_does(tmp_path):
    ledgers = Ledgers(tmp_path / "privacy")
    budget = PrivacyBudget(ledgers, "run", private_spec())
    budget.released(0, "a" * 64)
    budget.released(0, "a" * 64)
    assert len(ledgers.get("run").releases) == 1
    budget = PrivacyBudget(ledgers, "run", private_spec())  # after a restart, and a step that is done again
    budget.released(0, "b" * 64)
    assert len(ledgers.get("run").releases) == 2
    assert ledgers.get("run").of_step(0) == epsilon(private_spec().privacy, 2)
    assert ledgers.get("run").of_step(1) is None
