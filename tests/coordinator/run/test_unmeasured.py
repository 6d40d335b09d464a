"""An evaluation that is no number."""

from __future__ import annotations

import pytest

from tests.coordinator.toy import InstantEngine, toy_spec
from tests.coordinator.toy_fleet import Fleet
from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineProcess, Evaluated


class Diverged(InstantEngine):
    """Answers every evaluation as the engine process does where the model has diverged."""

    def evaluate(self, spec, step, state, *, validate=False):
        self.evaluated.append(step)
        self.events.append(EngineFailed("the test loss is not a finite number: the model has diverged"))


def test_a_step_that_cannot_be_measured_says_why_and_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.coordinator.toy_fleet.InstantEngine", Diverged)
    fleet = Fleet(tmp_path)
    run = fleet.store.runs.submit(toy_spec(rounds=2))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    rows = fleet.store.steps.of(run)
    assert [row.test_accuracy for row in rows] == [None, None]
    assert all("diverged" in row.evaluation for row in rows)
    fleet.service.close()


@pytest.mark.parametrize("figures", [{"loss": None}, {"accuracy": None}, {"loss": "1"}, {"loss": float("nan")}])
def test_the_engines_null_is_no_evaluation(tmp_path, monkeypatch, figures):
    process = EngineProcess()

    class Answering:
        """Answers once each time that it is asked."""

        asked = 0

        def send(self, message):
            self.asked += 1

        def receive(self):
            if not self.asked:
                return None
            self.asked -= 1
            return {"event": "evaluated", "step": 3, "loss": 0.5, "accuracy": 0.75} | figures

    monkeypatch.setattr(process, "_child", Answering())
    process.evaluate(toy_spec(), 3, tmp_path / "state")
    answer = process.poll()
    assert isinstance(answer, EngineFailed)
    assert "not a finite number" in answer.reason
    monkeypatch.setitem(figures, "loss", 0.5)
    monkeypatch.setitem(figures, "accuracy", 0.75)
    process.evaluate(toy_spec(), 3, tmp_path / "state")
    assert process.poll() == Evaluated(3, 0.5, 0.75)
