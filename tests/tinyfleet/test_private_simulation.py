"""A simulated private run: it repeats, stops where the live one would, and tells what that would have spent."""

from __future__ import annotations

import msgspec
import pytest

from tinyfleet.coordinator.privacy.accountant import epsilon
from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import PrivacySettings
from tinyfleet.fedcore.training.registry import available, create
from tinyfleet.simulation import Simulation

pytestmark = pytest.mark.skipif(not available(), reason="needs an engine")


@pytest.fixture(autouse=True)
def library():
    pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")


def simulated(mode="central", noise=1.0, budget=0.0):
    spec = demo_spec("fedtiny", 3, 0.1, data="digits", limit=300)
    spec = msgspec.structs.replace(
        spec, method={"name": "static", "density": 0.1}, privacy=PrivacySettings(mode, 0.5, noise, budget)
    )
    simulation = Simulation(spec, create(), evaluate=lambda finished: False)
    records = []
    while not simulation.finished:
        records.append(simulation.step())
    return records, encode(simulation.state, precision="fp32")


@pytest.mark.parametrize("mode", ["central", pytest.param("local", marks=pytest.mark.slow)])
def test_it_repeats_and_tells_what_is_spent(mode):
    records, state = simulated(mode)
    assert simulated(mode)[1] == state
    terms = PrivacySettings(mode, 0.5, 1.0)
    assert [record.epsilon for record in records] == [epsilon(terms, n) for n in (1, 2, 3)]
    assert [record.loss for record in records] == [None] * 3


def test_it_stops_where_the_budget_ends():
    budget = epsilon(PrivacySettings("central", 0.5, 1.0), 2)
    records, _ = simulated(budget=budget)
    assert [record.epsilon for record in records][-1] == budget
    assert len(records) == 2
