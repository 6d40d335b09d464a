"""A fleet over each broker, and the live run against the simulated one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.e2e.conftest import brokers, spec_of
from tinyfleet.fedcore.models.registry import settled
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import simulate


@pytest.mark.parametrize("broker", [brokers()[0], pytest.param("embedded", marks=pytest.mark.slow)])
def test_a_live_run_equals_the_simulated_one(start, broker):
    """Same spec, same seeds: the same model to the bit, whichever broker carried it and whoever came first."""
    spec = spec_of(2, 2)
    running = start(spec, 2, broker=broker)
    run = running.store.runs.submit(spec)
    row = running.until("the run's end", lambda: running.ended(run), 90.0)
    assert (row.state, row.reason) == ("finished", "")
    live = decode(running.store.state_blob(run).read_bytes())
    simulated = simulate(spec, create())
    assert live.meta["round"] == simulated.meta["round"] == 2
    for name, value in simulated.params.items():
        assert (live.params[name] == value).all(), name
    for name, value in simulated.mask.items():
        assert (live.mask[name] == value).all(), name
    assert encode(live, precision="fp32") == encode(simulated, precision="fp32")
    for step in running.store.steps.of(run):
        assert step.results == 2
        assert step.bytes_up > 0
        assert step.bytes_down > 0


@pytest.mark.slow
def test_a_fleet_trains_a_list_of_layers(start):
    """Agents get its graph, live as simulated: no program of the fleet knows this model by name."""
    spec = spec_of(2, 2)
    layers = [
        {"kind": "conv", "out": 8, "kernel": 3, "stride": 2},
        {"kind": "batch_norm"},
        {"kind": "relu"},
        {"kind": "conv", "out": 16, "kernel": 3},
        {"kind": "batch_norm"},
        {"kind": "relu"},
        {"kind": "global_avg_pool"},
        {"kind": "linear", "out": spec.model.classes},
    ]
    listed = replace(spec, model=replace(spec.model, name="porch", arguments={}, layers=layers))
    sent = replace(listed, model=settled(listed.model))
    running = start(sent, 2)
    run = running.store.runs.submit(sent)
    row = running.until("the run's end", lambda: running.ended(run), 120.0)
    assert (row.state, row.reason) == ("finished", "")
    live = running.store.state_blob(run).read_bytes()
    assert encode(decode(live), precision="fp32") == encode(simulate(listed, create()), precision="fp32")
