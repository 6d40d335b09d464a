"""What hostile devices send, and that one of ten costs little."""

from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.bench.poisoning import ATTACKS, job, poisoned
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.training import registry


def test_attacks_do_what_their_names_say():
    task = Payload({}, {"w": np.array([1.0], np.float32), "n.running_var": np.array([2.0], np.float32)})
    honest = Payload(
        {"samples": 10}, {"w": np.array([3.0], np.float32), "n.running_var": np.array([4.0], np.float32)}
    )
    sent = {name: attack(task, honest) for name, attack in ATTACKS.items()}
    assert sent["update reversed"].params["w"] == -1.0
    assert sent["update reversed"].params["n.running_var"] == 4.0
    assert sent["update x -10"].params["w"] == -19.0
    assert sent["zeros, samples 2^28"].meta["samples"] == 1 << 28
    assert sent["reversed, samples x 100"].meta["samples"] == 1000
    assert sent["running variance -1"].params["n.running_var"] == -1.0
    assert sent["running variance -1"].params["w"] == 3.0
    assert np.isnan(sent["not a number"].params["w"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_one_hostile_device_of_ten_costs_little(attack):
    engine = registry.create("auto", 1)
    honest, refused = poisoned(job(0), engine, None, 0)
    accuracy, _ = poisoned(job(0), engine, ATTACKS[attack], 1)
    assert refused == 0
    assert accuracy >= honest - 0.04  # the table of docs/benchmarks.md has what each costs
