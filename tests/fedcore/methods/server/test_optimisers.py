"""Server optimisers against the papers' formulas by hand, on weights that a mask prunes and grows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.coordinator.toy import toy_graph
from tinyfleet.fedcore.methods.registry import METHODS, method_of
from tinyfleet.fedcore.methods.server.optimisers import SERVER, carried, optimised
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import RunSpec, ServerSettings, TrainingSettings

GRAPH = toy_graph(width=2)
DENSE, PRUNED = [[1, 1], [1, 0]], [[1, 0], [1, 1]]


def state(round_: int, value: float, active=DENSE) -> Payload:
    mask = {"hidden.weight": np.array(active, np.bool_)}
    params = {name: np.full(spec.shape, value, np.float32) for name, spec in GRAPH.params.items()}
    params["hidden.weight"][~mask["hidden.weight"]] = 0.0
    return Payload({"step": round_, "round": round_}, params, mask)


def follow(settings: ServerSettings, means: list[Payload]) -> list[Payload]:
    """The states of rounds whose devices' mean is ``means``, each read back from the disk."""
    states = [state(0, 0.0)]
    for mean in means:
        after = optimised(settings, GRAPH, states[-1], mean)
        states.append(decode(encode(after, precision="fp32")))
    return states


def test_none_leaves_the_mean_as_it_is():
    after = state(1, 0.5)
    assert optimised(ServerSettings(), GRAPH, state(0, 0.0), after) is after
    assert after.raw == {}


def test_fedavgm():
    first, second = follow(ServerSettings("fedavgm", momentum=0.5), [state(1, 1.0), state(2, 3.0)])[1:]
    np.testing.assert_array_equal(first.params["first.bias"], [1.0, 1.0])  # v = 1
    np.testing.assert_array_equal(second.params["first.bias"], [3.5, 3.5])  # v = 0.5 + (3 - 1); 1 + 2.5
    half = follow(ServerSettings("fedavgm", learning_rate=0.5), [state(1, 1.0)])[1]
    np.testing.assert_array_equal(half.params["first.bias"], [0.5, 0.5])


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_ones(name):
    settings = ServerSettings(name, learning_rate=0.1, momentum=0.5, second=0.75, adaptivity=0.5)
    x, m, v = 0.0, 0.0, 0.25
    expected = []
    for mean in (1.0, -2.0):
        delta = mean - x
        m = 0.5 * m + 0.5 * delta
        square = delta * delta
        v = {
            "fedadam": 0.75 * v + 0.25 * square,
            "fedyogi": v - 0.25 * square * math.copysign(1.0, v - square),
            "fedadagrad": v + square,
        }[name]
        x += 0.1 * m / (math.sqrt(v) + 0.5)
        expected.append(x)
    found = follow(settings, [state(1, 1.0), state(2, -2.0)])[1:]
    assert [float(after.params["output.bias"][0]) for after in found] == pytest.approx(expected, rel=1e-5)


def test_moments_follow_the_mask():
    """(0, 1) is pruned in round 2: its moments go. (1, 1) grows then: it begins at zero moments in round 3."""
    rounds = [state(1, 1.0), state(2, 3.0, PRUNED), state(3, 4.0, PRUNED)]
    rounds[1].params["hidden.weight"][1, 1] = 0.0  # it grew at zero
    settings = ServerSettings("fedadam", learning_rate=1.0, momentum=0.5, second=0.5, adaptivity=0.5)
    one, two, three = follow(settings, rounds)[1:]
    for after, active in ((one, DENSE), (two, PRUNED), (three, PRUNED)):
        kept = decode(after.raw[SERVER]).params
        for kind in ("moment/", "second/"):
            assert not kept[f"{kind}hidden.weight"][~np.array(active, np.bool_)].any()
        assert not after.params["hidden.weight"][~np.array(active, np.bool_)].any()
    assert two.params["hidden.weight"][1, 1] == 0.0
    # Round 3, as of a first round from 0 to 4, but for v that has decayed once from tau^2: 0.5 (0.25) = 0.125.
    v = 0.5 * 0.125 + 0.5 * 16.0
    assert three.params["hidden.weight"][1, 1] == pytest.approx(2.0 / (math.sqrt(v) + 0.5), rel=1e-6)


def test_a_step_that_ends_no_round_keeps_the_moments_and_moves_nothing():
    before = follow(ServerSettings("fedavgm"), [state(1, 1.0)])[1]
    after = state(1, 5.0)
    same = optimised(ServerSettings("fedavgm"), GRAPH, before, after)
    np.testing.assert_array_equal(same.params["first.bias"], [5.0, 5.0])
    assert same.raw == carried(before) != {}


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_no_task_carries_the_optimisers_state(kind):
    """It would cost devices its bytes, and tell them the update of the round before."""
    training = TrainingSettings(server=ServerSettings("fedadam"))
    method = method_of(RunSpec(method={"name": kind.name}, training=training))
    params = method.problem.graph.initial_params(0)
    meta = {"step": 1, "stage": "train", "round": 1, "normalization": {}, "adjustments": 0, "reconfigured": 0}
    mask = method.initial_mask() if hasattr(method, "initial_mask") else {}
    task = method.configure_round(Payload(meta, params, mask, raw={SERVER: b"secret"}))
    assert task.raw == {}
