"""A private run over a real broker equals the simulated one, where its noise is made of the same keys."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from tests.e2e.conftest import spec_of
from tinyfleet.coordinator.privacy.accountant import epsilon
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.privacy.noise_key import simulated_key
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import PrivacySettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import COORDINATOR, simulate

AGENTS = 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_private_live_run_equals_the_simulated_one(start, tmp_path, mode):
    pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")
    spec = msgspec.structs.replace(
        spec_of(AGENTS, 2),
        method={"name": "static", "density": 0.3},
        privacy=PrivacySettings(mode, 0.5, 0.02),
    )
    directory = tmp_path / "fleet" / "coordinator"
    store = Store(directory)
    run = store.runs.submit(spec)
    store.close()
    _plant(directory / "privacy" / f"{run}.key", spec.seed, COORDINATOR)
    folder = hashlib.sha256(run.encode()).hexdigest()[:16]
    for index in range(AGENTS):
        agent = f"agent-{index}"
        _plant(tmp_path / "fleet" / agent / "releases" / folder / "noise.key", spec.seed, agent)
    running = start(spec, AGENTS, broker="embedded")
    row = running.until("the run's end", lambda: running.ended(run), 90.0)
    assert (row.state, row.reason) == ("finished", "")
    live = decode(running.store.state_blob(run).read_bytes())
    assert encode(live, precision="fp32") == encode(simulate(spec, create()), precision="fp32")
    assert running.store.ledgers.get(run).epsilon == epsilon(spec.privacy, 2)
    plain = simulate(msgspec.structs.replace(spec, privacy=PrivacySettings()), create())
    assert encode(live, precision="fp32") != encode(plain, precision="fp32")


def _plant(path, seed, owner):
    for folder in [one for one in reversed(path.parents) if not one.exists()]:
        folder.mkdir(mode=0o700)
    path.write_bytes(simulated_key(seed, owner))
