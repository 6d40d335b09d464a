"""The engine process: real data, the real engine, a real process."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineProcess, Evaluated, Prepared, _answer_of
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import DataSettings, ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, random_mask
from tinyfleet.fedcore.training import registry as engines

pytestmark = pytest.mark.skipif(not engines.available(), reason="no training engine is installed")


@pytest.fixture
def spec(tmp_path):
    """Three classes of 8x8 images that are bright in one third each: easy to learn."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.integers(0, 80, (300, 1, 8, 8))
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 150
    path = tmp_path / "data.npz"
    np.savez(path, x=x.astype(np.uint8), y=y.astype(np.int64))
    return RunSpec(
        method={"name": "fedavg"},
        model=ModelSettings("small_cnn", (1, 8, 8), 3),
        training=TrainingSettings(rounds=1, pretrain_epochs=3, pretrain_learning_rate=0.05),
        data=DataSettings(f"arrays:{path}", public_fraction=0.5, test_fraction=0.3),
    )


@pytest.fixture
def model():
    model = EngineProcess()
    yield model
    model.close()


def answer(model, timeout_s=PATIENCE_S):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        event = model.poll()
        if event is not None:
            return event
        time.sleep(0.01)
    raise AssertionError("no answer")


def test_prepare_and_evaluate(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    assert answer(model) == Prepared(tmp_path / "initial")
    assert psutil.Process(model._child.pid).nice() == min(19, psutil.Process().nice() + 5)
    state = codec.decode((tmp_path / "initial").read_bytes())
    assert (state.meta["step"], state.meta["stage"]) == (0, "train")

    model.evaluate(spec, 4, tmp_path / "initial")
    trained = answer(model)
    assert isinstance(trained, Evaluated)
    assert trained.step == 4
    assert trained.accuracy > 0.6

    # Values under the mask must not count, even where a state carries them.
    graph = methods.problem_of(spec).graph
    counts = dict.fromkeys(graph.maskable, 1)
    mask = random_mask(
        {name: graph.params[name].shape for name in graph.maskable}, counts, np.random.default_rng(0)
    )
    state.mask = mask
    apply_mask(state.params, mask)
    assert density(mask) < 0.1
    (tmp_path / "sparse").write_bytes(codec.encode(state, precision="fp32"))
    model.evaluate(spec, 5, tmp_path / "sparse")
    sparse = answer(model)
    assert isinstance(sparse, Evaluated)
    assert sparse.loss > trained.loss


def test_what_goes_wrong_is_an_answer(model, spec, tmp_path):
    model.evaluate(spec, 0, tmp_path / "missing")
    failed = answer(model)
    assert isinstance(failed, EngineFailed)
    assert "missing" in failed.reason
    bad = type(spec)(method={"name": "fedavgg"}, data=spec.data, model=spec.model)
    model.prepare(bad, tmp_path / "initial")
    failed = answer(model)
    assert isinstance(failed, EngineFailed)
    assert "fedavg" in failed.reason


def killed_as_it_works(model):
    """Kill its process; returns its id."""
    process = psutil.Process(model._child.pid)
    process.kill()
    return process.pid


def test_one_that_dies_is_started_again_and_does_all_that_it_had_not_answered(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    first = killed_as_it_works(model)
    assert answer(model) == Prepared(tmp_path / "initial")
    assert model._child.pid != first
    for step in (4, 5):
        model.evaluate(spec, step, tmp_path / "initial")
    killed_as_it_works(model)
    assert [answer(model).step for _ in range(2)] == [4, 5]


@pytest.mark.slow
def test_one_that_is_stopped_is_killed_and_its_work_is_done_by_the_next(spec, tmp_path, caplog):
    model = EngineProcess(hung_s=3.0)
    try:
        model.prepare(spec, tmp_path / "initial")
        first = psutil.Process(model._child.pid)
        first.suspend()
        assert answer(model) == Prepared(tmp_path / "initial")
        assert model._child.pid != first.pid
        assert not first.is_running()
        assert "the engine process was killed, for it had used no processor time for 3 s, with work" in caplog.text
    finally:
        model.close()


@pytest.mark.slow
def test_one_that_is_stopped_while_it_is_idle_is_noticed_when_there_is_work(spec, tmp_path):
    model = EngineProcess(hung_s=3.0)
    try:
        model.prepare(spec, tmp_path / "initial")
        assert answer(model) == Prepared(tmp_path / "initial")
        first = psutil.Process(model._child.pid)
        first.suspend()
        model.evaluate(spec, 4, tmp_path / "initial")
        assert answer(model).step == 4
        assert not first.is_running()
    finally:
        model.close()


def test_one_that_is_stopped_ends_at_once_when_the_run_is_over(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    process = psutil.Process(model._child.pid)
    process.suspend()
    model.close()
    assert not process.is_running()


@pytest.mark.slow
def test_an_answer_forgives_the_deaths_before_it(model, spec, tmp_path):
    for _ in range(3):
        model._restarts = 1
        model.prepare(spec, tmp_path / "initial")
        killed_as_it_works(model)
        assert isinstance(answer(model), Prepared)


def test_what_it_dies_of_again_and_again_is_given_up_and_the_rest_is_done(spec, tmp_path):
    clock = iter(range(0, 10**9, 60))  # no pause is waited for
    model = EngineProcess(restarts=2, hung_s=1e9, clock=lambda: float(next(clock)))
    try:
        model.evaluate(spec, 0, tmp_path / "initial")
        model.prepare(spec, tmp_path / "initial")
        pids, failed = set(), None
        while failed is None:
            if model._child is not None and model._child.pid not in pids:
                pids.add(killed_as_it_works(model))
            failed = model.poll()
        assert failed == EngineFailed("the engine process was ended by SIGKILL (3 times in a row)")
        assert len(pids) == 3
        assert answer(model) == Prepared(tmp_path / "initial")
    finally:
        model.close()


def test_the_pause_before_it_is_started_again_doubles(spec, tmp_path, caplog):
    now = [0.0]
    model = EngineProcess(restarts=3, clock=lambda: now[0])
    try:
        model.prepare(spec, tmp_path / "initial")
        for pause_s in (0.5, 1.0, 2.0):
            pid = killed_as_it_works(model)
            while f"again in {pause_s:g} s" not in caplog.text:
                assert model.poll() is None
            now[0] += pause_s - 0.01
            assert model.poll() is None
            assert model._child is None
            now[0] += 0.01
            assert model.poll() is None
            assert model._child.pid != pid
    finally:
        model.close()


def test_its_exit_code_and_its_last_line_are_the_reason(spec, tmp_path, capfd):
    model = EngineProcess(nice="much", restarts=0)
    model.prepare(spec, tmp_path / "initial")
    failed = answer(model)
    assert "the engine process exited with code 2, its last line" in failed.reason
    assert "argument --nice: invalid int value: 'much'" in failed.reason
    assert "invalid int value" in capfd.readouterr().err, "it is passed on, too"


def test_an_answer_without_its_numbers_is_a_failure():
    failed = _answer_of({"event": "evaluated", "step": 3, "loss": None, "accuracy": 0.1})
    assert isinstance(failed, EngineFailed)
    assert "not a finite number" in failed.reason
    assert _answer_of({"event": "a print"}) is None


COORDINATOR = """
import signal, sys
from pathlib import Path
from tinyfleet.coordinator.run.engine_process import EngineProcess
from tinyfleet.fedcore.run_spec import DataSettings, ModelSettings, RunSpec, TrainingSettings
spec = RunSpec(
    method={"name": "fedavg"}, model=ModelSettings("small_cnn", (1, 8, 8), 3),
    training=TrainingSettings(pretrain_epochs=10**6),
    data=DataSettings("arrays:" + sys.argv[1], public_fraction=0.5, test_fraction=0.3),
)
model = EngineProcess()
model.prepare(spec, Path(sys.argv[1] + ".initial"))
sys.stdout.write(f"{model._child.pid}\\n"); sys.stdout.flush()
signal.pause()
"""


@pytest.mark.slow
def test_it_dies_with_its_coordinator_in_the_middle_of_its_work(spec):
    data = spec.data.source.removeprefix("arrays:")
    command = [sys.executable, "-c", COORDINATOR, data]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
        process = psutil.Process(int(coordinator.stdout.readline()))
        end = time.monotonic() + PATIENCE_S
        while process.cpu_times().user < 1.0 and time.monotonic() < end:  # it pre-trains, and reads no input
            time.sleep(0.05)
        coordinator.kill()
    gone, _ = psutil.wait_procs([process], timeout=PATIENCE_S)
    assert gone or process.status() == psutil.STATUS_ZOMBIE


def test_closing_ends_the_process(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    pid = model._child.pid
    model.close()
    assert not psutil.pid_exists(pid)
    assert model.poll() is None
