from __future__ import annotations

import numpy as np
import pytest

from tests.coordinator.toy import toy_graph
from tinyfleet.fedcore.outcome.averaging import averaged
from tinyfleet.fedcore.payload import Payload

GRAPH = toy_graph(width=2)  # hidden.weight is (2, 2), and may be pruned


def state(step: int, value: float, active: list[list[int]]) -> Payload:
    mask = {"hidden.weight": np.array(active, np.bool_)}
    params = {name: np.full(spec.shape, value, np.float32) for name, spec in GRAPH.params.items()}
    params["hidden.weight"][~mask["hidden.weight"]] = 0.0
    return Payload({"step": step}, params | {"own": np.full(1, value, np.float32)}, mask)


def test_weights_are_averaged_over_the_states_that_hold_them():
    mean = averaged(
        GRAPH, [state(1, 1.0, [[1, 1], [0, 0]]), state(2, 2.0, [[1, 0], [1, 0]]), state(3, 6.0, [[1, 0], [1, 1]])]
    )
    # In all three (1 + 2 + 6) / 3; pruned on the way: zero; grown in the second (2 + 6) / 2; in the last: 6.
    np.testing.assert_array_equal(mean.params["hidden.weight"], np.array([[3.0, 0.0], [4.0, 6.0]], np.float32))
    np.testing.assert_array_equal(mean.params["first.bias"], np.full(2, 3.0, np.float32))


def test_all_that_is_no_array_of_the_model_is_the_last_states():
    last = state(3, 6.0, [[1, 0], [1, 1]])
    mean = averaged(GRAPH, [state(1, 1.0, [[1, 1], [0, 0]]), last])
    assert mean.meta == {"step": 3}
    assert mean.params["own"] == 6.0
    np.testing.assert_array_equal(mean.mask["hidden.weight"], last.mask["hidden.weight"])


def test_a_dense_state_holds_every_weight():
    first, second = state(1, 1.0, [[1, 1], [1, 1]]), state(2, 4.0, [[1, 0], [1, 0]])
    first.mask = {}
    np.testing.assert_array_equal(averaged(GRAPH, [first, second]).params["hidden.weight"], [[2.5, 0], [2.5, 0]])


def test_of_one_state_it_is_that_state_to_the_bit():
    only = state(1, 1 / 3, [[1, 0], [1, 1]])
    for name, values in averaged(GRAPH, [only]).params.items():
        np.testing.assert_array_equal(values, only.params[name])
    with pytest.raises(ValueError, match="no state"):
        averaged(GRAPH, [])
