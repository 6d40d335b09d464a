from __future__ import annotations

import pytest

from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import Simulation, StepRecord


def run(evaluate) -> tuple[list[StepRecord], bytes]:
    spec = demo_spec("fedtiny", 3, 0.1, data="digits", limit=300)
    simulation = Simulation(spec, create(), evaluate=evaluate)
    records = []
    while not simulation.finished:
        records.append(simulation.step())
    return records, encode(simulation.state, precision="fp32")


@pytest.mark.slow
def test_rounds_without_evaluation_leave_the_model_as_it_is():
    every, all_rounds = run(lambda finished: True)
    last, last_round = run(lambda finished: finished == 3)
    assert all_rounds == last_round
    assert [record.test_accuracy is not None for record in last] == [False, False, False, False, True]
    assert last[-1].test_accuracy == every[-1].test_accuracy


def test_every_step_tells_its_analytic_cost():
    records, _ = run(lambda finished: False)
    statistics, selection, *rounds = records
    assert statistics.flops == pytest.approx(10 * selection.flops)
    assert all(record.flops > 0 < record.memory for record in records)
    # Round 2 adjusts the mask (interval 1): growth gradients come on top.
    assert rounds[1].flops > rounds[0].flops
    assert rounds[1].memory > rounds[0].memory
