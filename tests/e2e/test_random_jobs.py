"""Random jobs under emulated boards: what a plan says fits is never killed, and nothing is tried twice alike.

``TINYFLEET_RANDOM_JOBS`` is their number with each engine, ``TINYFLEET_RANDOM_SEED`` what they are drawn from,
``TINYFLEET_RANDOM_RECORDS`` a directory for what became of each.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from tests.e2e.random_jobs import LIMITS, Board, Record, draw
from tinyfleet.device_profiles.limits import DataLimit
from tinyfleet.edge_agent.worker import process as enforcement
from tinyfleet.fedcore.protocol.messages import TaskState
from tinyfleet.fedcore.training.registry import available

JOBS = int(os.environ.get("TINYFLEET_RANDOM_JOBS", "200"))
SEED = int(os.environ.get("TINYFLEET_RANDOM_SEED", "20260"))
OVERSHOOT = 1.02

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module", params=LIMITS)
def records(request, tmp_path_factory) -> list[Record]:
    engine = request.param
    if engine not in available():
        pytest.skip(f"engine {engine} is not installed")
    rng, found = random.Random(SEED), []
    data = tmp_path_factory.mktemp("data")
    for number in range(JOBS):
        job = draw(number, engine, rng)
        with pytest.MonkeyPatch.context() as patch:
            if job.hard == "data":
                patch.setattr(enforcement, "choose_limit", lambda size, name: DataLimit(size))
            found.append(Board(job, tmp_path_factory.mktemp("board"), data).run())
        if directory := os.environ.get("TINYFLEET_RANDOM_RECORDS"):
            Path(directory, f"random-jobs-{engine}.json").write_bytes(
                msgspec.json.format(msgspec.json.encode(found))
            )
    return found


def tries(records: list[Record], outcome: TaskState | None = None):
    return [(r.job, t) for r in records for t in r.tries if outcome is None or t.outcome == outcome]


def test_what_the_plan_says_fits_is_never_stopped(records):
    stopped = [(job, t) for job, t in tries(records, TaskState.OVER_BUDGET) if t.fits]
    assert not stopped, f"{len(stopped)} of {len(records)}: {stopped[:3]}"


def test_every_job_ends_as_a_job_may_end(records):
    allowed = {TaskState.FINISHED, TaskState.DECLINED, TaskState.OVER_BUDGET}
    # Fifty layers from random weights, one in a hundred of them left: some of these diverge, with either engine.
    others = [t for _, t in tries(records) if t.outcome not in allowed and "has diverged" not in t.reason]
    assert not others, [(t.outcome, t.reason, t) for t in others[:3]]
    assert len(tries(records, TaskState.FAILED)) <= len(records) / 20
    assert all(record.tries[-1].outcome != TaskState.OVER_BUDGET for record in records), "it never gave up"


def test_the_limit_is_not_overshot(records):
    over = [(job, t) for job, t in tries(records) if t.rss_bytes > OVERSHOOT * job.limit_bytes]
    assert not over, f"{len(over)} of {len(records)}: {over[:3]}"


def test_a_job_that_was_too_much_is_not_repeated(records):
    for record in records:
        for before, after in zip(record.tries, record.tries[1:], strict=False):
            assert after.outcome == TaskState.DECLINED or after.way > before.way, record


def test_most_jobs_train_and_every_lever_is_used(records):
    trained = tries(records, TaskState.FINISHED)
    assert len(trained) >= len(records) / 2
    assert any(0 < t.levers.micro_batch < job.spec.training.batch and not t.levers.lossy for job, t in trained)
    assert any(t.levers.activation_keep < min(1.0, job.keep) for job, t in trained), (
        "no cache was pruned for the board's sake"
    )
    assert tries(records, TaskState.DECLINED), "no job was hopeless"
