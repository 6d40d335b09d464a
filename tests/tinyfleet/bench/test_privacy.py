"""The bench of privacy: a row a cell, with what was spent and what it cost."""

from __future__ import annotations

import pytest

from tinyfleet.bench.privacy import CELLS, CLIP, PrivacyCell, bench_privacy, job
from tinyfleet.coordinator.privacy.accountant import epsilon
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.privacy.admissible import check_privacy
from tinyfleet.fedcore.training import registry


@pytest.mark.slow
@pytest.mark.skipif(not registry.available(), reason="needs an engine")
def test_a_private_cell_beside_the_plain_one():
    pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")
    cells = [PrivacyCell("none"), PrivacyCell("central", 2.0)]
    plain, private = bench_privacy(registry.create("auto", 1), cells, seeds=(0,), devices=3, rounds=1)
    assert plain.epsilon is None
    assert private.epsilon == epsilon(job(cells[1], 0).privacy, 1)
    assert private.clip == CLIP
    assert plain.before == private.before
    assert plain.values == private.values > 1000
    assert private.bytes_up == pytest.approx(plain.bytes_up, rel=0.02)
    assert private.seconds > 0


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_a_run_that_is_allowed(cell):
    spec = job(cell, 0)
    check_privacy(spec, create(spec.method, problem_of(spec)))
