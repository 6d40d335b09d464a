from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.sparsity.global_mask import global_mask
from tinyfleet.fedcore.sparsity.mask import density


def scores(**layers):
    return {name: np.array(values, np.float32) for name, values in layers.items()}


def test_the_largest_of_all_layers_stay():
    mask = global_mask(scores(a=[[1, 9], [8, 2]], b=[3, 7, 0, 4]), 0.5)
    assert mask["a"].tolist() == [[False, True], [True, False]]
    assert mask["b"].tolist() == [False, True, False, True]


def test_every_layer_keeps_its_best_weight_at_the_same_total():
    mask = global_mask(scores(a=[9, 8, 7, 6], b=[1, 2, 1, 1]), 0.375)
    assert mask["a"].tolist() == [True, True, False, False]
    assert mask["b"].tolist() == [False, True, False, False]


def test_ties_go_to_the_lower_position():
    mask = global_mask(scores(a=[1, 1, 1], b=[1, 1, 1]), 0.5)
    assert mask["a"].tolist() == [True, True, False]
    assert mask["b"].tolist() == [True, False, False]


def test_what_was_pruned_stays_pruned_even_among_ties():
    within = {"a": np.array([False, True, True, False]), "b": np.array([False, False, False, True])}
    mask = global_mask(scores(a=[9, 0, 0, 9], b=[5, 0, 0, 0]), 0.25, within)
    assert mask["a"].tolist() == [False, True, False, False]
    assert mask["b"].tolist() == [False, False, False, True]


@pytest.mark.parametrize("wanted", [0.01, 0.05, 0.3, 1.0])
def test_the_total_is_exact(wanted):
    rng = np.random.default_rng(0)
    mask = global_mask({n: rng.random((10, 7 + i, 3), np.float32) for i, n in enumerate("abcd")}, wanted)
    total = sum(active.size for active in mask.values())
    assert round(density(mask) * total) == int(wanted * total + 1e-9)


def test_errors_name_the_remedy():
    with pytest.raises(ConfigError, match="no maskable layer"):
        global_mask({}, 0.5)
    with pytest.raises(ConfigError, match=r"density 0\.0 is not in"):
        global_mask(scores(a=[1]), 0.0)
