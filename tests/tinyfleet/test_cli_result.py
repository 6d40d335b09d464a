"""What a person sees of a run's result, and how another of its states is exported."""

from __future__ import annotations

import json

import pytest

from tinyfleet.coordinator.states import RunEvent
from tinyfleet.coordinator.store.records import Choice, ChosenState, StepSummary
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import RunSpec


@pytest.fixture
def ended(tmp_path):
    """A run of two steps whose first state measured best, ended with its last; its id."""
    store = Store(tmp_path / "state")
    run = store.runs.submit(RunSpec(name="swings"))
    store.runs.start(run)
    base = store.blobs.put(b"initial")
    store.runs.prepared(run, base)
    states = [store.blobs.put(b"good"), store.blobs.put(b"bad")]
    for step, (state, accuracy) in enumerate(zip(states, (0.9, 0.5), strict=True)):
        store.open_step(run, step, "train", step, base, Choice(()))
        store.finish_step(run, step, state, step + 1, StepSummary(1.0, 0.0, 1, [], 0.5, None, 0.1))
        store.steps.save_evaluation(run, step, 1.0, accuracy, (0.5, accuracy - 0.01))
        base = state
    chosen = ChosenState("last", 1, states[1], states[0], 0.5, 0.49, "its result is far below: see export --step 0")
    store.end_run(run, RunEvent.COMPLETE, "", chosen)
    store.collect_garbage(keep_steps=0)
    store.close()
    return run


def test_result_and_warning_are_shown(tinyfleet, tmp_path, ended):
    text = tinyfleet("run", "show", ended, "--state", tmp_path / "state").out
    assert "the last state, after step 1, 49.0% on validation data, 50.0% on test data" in " ".join(text.split())
    assert "its result is far below" in text
    assert "89.0%" in text
    assert "its result is far below" in " ".join(
        tinyfleet("run", "list", "--state", tmp_path / "state").out.split()
    )
    shown = json.loads(tinyfleet("run", "show", ended, "--state", tmp_path / "state", "--json").out)
    assert (shown["run"]["result"], shown["run"]["result_step"]) == ("last", 1)


def test_a_step_that_is_not_kept_names_those_that_are(tinyfleet, tmp_path, ended):
    ran = tinyfleet("export", ended, "--step", 7, "--state", tmp_path / "state", "--out", tmp_path / "out")
    assert ran.code == ConfigError.exit_code
    assert "keeps no state after step 7; it keeps those after 0, 1" in ran.err
    alone = tinyfleet("export", "--state-blob", tmp_path / "blob", "--step", 1)
    assert alone.code == ConfigError.exit_code
    store = Store(tmp_path / "state")
    assert store.state_blob(ended, 0).read_bytes() == b"good"
    assert store.state_blob(ended).read_bytes() == b"bad"


def test_a_result_that_nothing_can_choose_is_refused_at_submit(tinyfleet, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'result = "best"\n[method]\nname = "static"\npretrained = false\n[data]\npublic_fraction = 0.0\n'
    )
    ran = tinyfleet("run", "submit", path, "--state", tmp_path / "state")
    assert ran.code == ConfigError.exit_code
    assert 'result "best"' in ran.err
