"""What leaves a board of a private run: the same bits again, never a second update for a step."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.edge_agent.runs import command, first_state, spec_of, task_blob, write_data
from tinyfleet.edge_agent.config import AgentPrivacySettings
from tinyfleet.edge_agent.worker.commands import StepsDone, TaskDone, Unfit
from tinyfleet.edge_agent.worker.releases import Releases
from tinyfleet.edge_agent.worker.trainer import Trainer
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.run_spec import PrivacySettings
from tinyfleet.fedcore.training.registry import available

needs_engine = pytest.mark.skipif(not available(), reason="the worker needs an engine")


def test_a_step_is_answered_once(tmp_path):
    Releases(tmp_path / "run").noise().release(3, "one")
    again = Releases(tmp_path / "run")  # after a restart
    again.release(3, "one")
    again.release(4, "other")
    with pytest.raises(ResultError, match="another update was released for step 3"):
        again.release(3, "other")
    assert stat.S_IMODE((tmp_path / "run" / "steps.json").stat().st_mode) == 0o600


def test_what_is_not_known_is_not_released(tmp_path):
    releases = Releases(tmp_path)
    releases.release(0, "one")
    (tmp_path / "steps.json").write_bytes(b"{")
    with pytest.raises(ResultError, match="damaged"):
        releases.release(1, "one")


def test_the_key_outlives_the_process(tmp_path):
    assert Releases(tmp_path / "run").noise().key == Releases(tmp_path / "run").noise().key
    assert Releases(tmp_path / "run").noise().key != Releases(tmp_path / "other").noise().key


def test_without_the_key_of_its_releases_a_run_releases_no_more(tmp_path):
    Releases(tmp_path).noise().release(0, "one")
    (tmp_path / "noise.key").unlink()
    with pytest.raises(ResultError, match="gone"):
        Releases(tmp_path).noise()
    assert not (tmp_path / "noise.key").exists()


def test_the_owner_bounds_what_ever_leaves_the_device(tmp_path):
    first, second = (Releases(tmp_path / run, most=2) for run in ("one", "other"))
    first.noise().release(0, "a")
    second.noise().release(0, "b")
    second.release(0, "b")  # once more
    with pytest.raises(ResultError, match="2 updates"):
        first.release(1, "c")
    Releases(tmp_path / "one").release(1, "c")  # no limit


@pytest.mark.parametrize(
    ("require", "least", "mode", "noise", "reason"),
    [
        ("none", 0.0, "none", 0.0, ""),
        ("central", 0.0, "central", 1.0, ""),
        ("central", 0.0, "local", 1.0, ""),
        ("central", 0.0, "none", 0.0, "requires privacy.mode 'central'"),
        ("local", 0.0, "central", 1.0, "requires privacy.mode 'local'"),
        ("local", 2.0, "local", 1.0, "requires noise of 2 clips"),
        ("local", 2.0, "local", 2.0, ""),
    ],
)
def test_a_device_trains_under_its_owners_terms_alone(require, least, mode, noise, reason):
    said = AgentPrivacySettings(require, least).objection(PrivacySettings(mode, 1.0, noise))
    assert reason in said
    assert bool(said) is bool(reason)


def private_order(tmp_path, mode, noise=0.5):
    spec = replace(spec_of(), privacy=PrivacySettings(mode, 0.25, noise))
    order = command(tmp_path, spec, task_blob(spec, first_state(spec)), write_data(tmp_path / "data.npz"))
    return replace(order, releases=str(tmp_path / "releases"))


def done(order):
    events = []
    Trainer(events.append).run(order)
    assert isinstance(events[-1], TaskDone)
    return events, Path(order.result).read_bytes()


@needs_engine
@pytest.mark.parametrize("mode", ["central", "local"])
def test_neither_loss_nor_samples_leave_the_board(tmp_path, mode):
    events, blob = done(private_order(tmp_path, mode))
    assert decode(blob).meta == {"step": 0, "samples": 1}
    losses = [event.loss for event in events if isinstance(event, StepsDone)]
    assert losses
    assert set(losses) == {None}


@needs_engine
def test_a_repeated_task_sends_the_same_bits_and_another_update_is_refused(tmp_path):
    order = private_order(tmp_path, "local")
    _, first = done(order)
    assert done(order)[1] == first
    with pytest.raises(ResultError, match="another update"):
        done(replace(order, local_steps=1))
    assert not (tmp_path / "releases" / "central").exists()


def test_a_run_that_promises_too_little_is_never_done(tmp_path):
    order = replace(private_order(tmp_path, "central"), privacy={"require": "local"})
    events = []
    Trainer(events.append).run(order)
    assert [type(event) for event in events] == [Unfit]


@needs_engine
def test_central_privacy_needs_no_secret_on_the_board(tmp_path):
    done(private_order(tmp_path, "central"))
    assert not (tmp_path / "releases").exists()
