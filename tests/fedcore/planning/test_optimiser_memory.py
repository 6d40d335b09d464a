"""What a device's optimiser holds is part of every plan, of either engine, and of a method's analytic cost."""

from __future__ import annotations

import pytest

from tests.fedcore.methods.problems import graph
from tests.fedcore.training.engines import MISSING
from tinyfleet.fedcore.methods.registry import method_of
from tinyfleet.fedcore.planning.cost_model import features_of
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.run_spec import RunSpec, TrainingSettings
from tinyfleet.fedcore.training.engine import StepSettings

PLAIN = StepSettings(0.1, momentum=0.9)
ADAM = StepSettings(0.1, momentum=0.9, optimiser="adam")
PROXIMAL = StepSettings(0.1, momentum=0.9, proximal=0.1)
ALL = StepSettings(0.1, momentum=0.9, optimiser="adamw", proximal=0.1, clip=1.0)


def test_of_the_torch_engine_each_is_a_dense_array_a_weight():
    trained = 4 * graph().parameter_count()
    plain, adam, proximal, everything = (
        features_of(graph(), 8, settings, masked=True) for settings in (PLAIN, ADAM, PROXIMAL, ALL)
    )
    assert adam.model - plain.model == proximal.model - plain.model == trained
    assert everything.model - plain.model == 2 * trained
    assert adam.replayed > plain.replayed  # all gradients at once


@pytest.mark.skipif(bool(MISSING["native"]), reason="the native engine is not installed")
def test_of_the_native_engine_it_follows_the_weights_that_are_left():
    def more(density: float, settings: StepSettings) -> float:
        counts = {name: max(1, round(density * graph().params[name].size)) for name in graph().maskable}
        steps = NativeSteps(graph(), counts)
        return steps.features(8, settings).model - steps.features(8, PLAIN).model

    assert more(0.5, PLAIN) == 0
    assert more(0.5, ADAM) > more(0.1, ADAM) > 0
    maskable = sum(graph().params[name].size for name in graph().maskable)
    assert more(0.5, ALL) - more(0.5, ADAM) == pytest.approx(
        4 * (graph().parameter_count() - 0.5 * maskable), abs=40
    )


def test_of_the_analytic_cost():
    def memory(**training: object) -> int:
        method = method_of(RunSpec(method={"name": "static"}, training=TrainingSettings(**training)))
        return method.training_memory({})

    trained = method_of(RunSpec(method={"name": "static"})).problem.graph.parameter_count()
    assert memory(optimiser="adam") - memory() == memory(proximal=0.1) - memory() == 4 * trained
    assert memory(clip_gradient=1.0) == memory()
