"""Local rounds: all of the epochs, a part of them, and under a board that tightens its limits on the way."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset
from tinyfleet.fedcore.datasets.dataset import Normalization
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.parts.extrusion import extrude
from tinyfleet.fedcore.methods.parts.local import LocalRound, train_locally
from tinyfleet.fedcore.run_spec import TrainingSettings
from tinyfleet.fedcore.training.engine import Engine, StepSettings
from tinyfleet.fedcore.training.levers import Levers

SETTINGS = StepSettings(0.1, levers=Levers(activation_keep=0.8))


class Recorder(Engine):
    """Trains nothing; keeps what each step was given."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, ...], StepSettings]] = []

    def train_step(self, x, y, settings):
        self.seen.append((tuple(y), settings))
        return 1.0

    def mark(self, positions):
        pass

    def marked_norm(self):
        return 1.0

    load = params = update_statistics = evaluate = predict = top_gradients = dense_gradients = None


def local_round(control: Control, samples: int = 50, epochs: int = 2) -> LocalRound:
    training = TrainingSettings(local_epochs=epochs, batch=16)
    return LocalRound(
        Recorder(),
        dataset(samples, 0),
        training,
        Normalization((0.0,), (1.0,), 1.0),
        SETTINGS,
        np.random.default_rng(3),
        control,
    )


def test_a_whole_round_is_all_epochs_of_all_samples():
    local = local_round(Control())
    result = train_locally(local)
    assert [len(y) for y, _ in local.engine.seen] == [16, 16, 16, 2] * 2
    assert result.samples == 50


def test_a_part_is_the_beginning_of_the_whole_and_weighs_as_much_less():
    whole, part = local_round(Control()), local_round(Control(steps=5))
    train_locally(whole)
    result = train_locally(part)
    assert part.engine.seen == whole.engine.seen[:5]
    assert result.samples == 50 * 5 // 8
    assert part.engine.seen[-1][0] == tuple(result.last_batch[1])


def test_more_steps_than_the_round_has_change_nothing():
    local = local_round(Control(steps=100))
    assert train_locally(local).samples == 50
    assert len(local.engine.seen) == 8


def test_the_next_step_follows_what_the_board_tightens():
    control = Control()

    def progress(step, steps, loss):
        if step == 3:
            control.levers = Levers(4, 0.3, "fp16")

    control.progress = progress
    local = local_round(control)
    train_locally(local)
    assert [s for _, s in local.engine.seen[:3]] == [SETTINGS] * 3
    assert {s.levers for _, s in local.engine.seen[3:]} == {Levers(4, 0.3, "fp16")}


def test_a_board_that_has_enough_ends_the_round_with_what_is_done():
    control = Control()

    def progress(step, steps, loss):
        control.enough = step == 3

    control.progress = progress
    local = local_round(control)
    result = train_locally(local)
    assert len(local.engine.seen) == 3
    assert result.samples == 50 * 3 // 8
    assert tuple(result.last_batch[1]) == local.engine.seen[-1][0]


def test_the_sparser_and_coarser_caches_hold():
    run = StepSettings(0.1, levers=Levers(activation_keep=0.3, cache="fp16"))
    assert Control(Levers(activation_keep=0.5, cache="fp32")).tightened(run) is run
    assert Control(Levers(activation_keep=0.2)).tightened(run).levers == Levers(0, 0.2, "fp16")
    assert Control(Levers(cache="fp16")).tightened(StepSettings(0.1)).levers.cache == "fp16"


@pytest.mark.parametrize(
    ("budget", "given", "steps", "extruded"),
    [(0, 0, 8, 8), (3, 0, 8, 3), (12, 0, 12, 12), (3, 5, 5, 3), (6, 4, 4, 4)],
)
def test_extrusion_ends_the_round_and_fits_into_the_steps_given(budget, given, steps, extruded):
    local = local_round(Control(steps=given))
    extrude(local, {}, strength=0.1, budget=budget)
    penalties = [s.penalty for _, s in local.engine.seen]
    assert penalties == [0.0] * (steps - extruded) + [0.1] * extruded
