"""Some inputs of every parser with all other tests, more with the slow ones, millions by ``make fuzz``."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fuzz.__main__ import in_child
from tests.fuzz.harness import inputs_of, outcome, run_block
from tests.fuzz.target import Prepared, Target, corpus
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.filterwarnings("ignore")
SLICE = 60


@pytest.fixture
def quiet(caplog):
    caplog.set_level("CRITICAL")
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_and_a_slice_of_damaged_ones_are_read_or_refused(name, tmp_path, quiet):
    target = TARGETS[name]
    prepared = target.prepare(tmp_path)
    assert prepared.seeds
    ends = {outcome(target, prepared, data) for data in prepared.seeds}
    assert not any(end.startswith("!") for end in ends)
    assert any(end.startswith("a ") for end in ends), "no seed is read: nothing behind the first check is tried"
    kept = corpus(name)
    assert kept, "python -m tests.fuzz corpus writes it"
    tally = run_block(target, prepared, 0, len(prepared.seeds) + len(kept) + SLICE)
    assert not tally.findings
    assert tally.values + tally.typed == tally.inputs == len(prepared.seeds) + len(kept) + SLICE
    assert tally.values


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_thousand_inputs_in_little_memory(name):
    tally = in_child(name, 10_000_000, 1)
    assert not tally.findings
    assert tally.inputs == 1000


def test_a_block_is_made_by_its_number_alone(tmp_path):
    target = TARGETS["messages-up"]
    prepared = target.prepare(tmp_path)
    first, again, other = (list(inputs_of(target, prepared, block, 50)) for block in (7, 7, 8))
    assert first == again
    assert first != other


def test_what_is_no_documented_end_is_found():
    def parse(data: bytes) -> object:
        if data == b"odd":
            raise KeyError(data)
        raise ValueError("refused")

    prepared = Prepared(parse, [b"odd", b"even"], lambda rng, seed: seed)
    tally = run_block(Target("made-up", (ValueError,), lambda directory: prepared), prepared, 0, 40)
    assert 0 < tally.typed < 40
    ((kind, finding),) = tally.findings.items()
    assert kind.startswith("KeyError at test_fuzz.py:parse")
    assert (finding.count, finding.example) == (40 - tally.typed, b"odd".hex())
