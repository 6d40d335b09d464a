"""From a replayed step to bytes and seconds on one board: a few numbers, fitted to a few probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from tinyfleet.fedcore.accounting import layer_flops, pruned_values
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.planning.features import Features
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.planning.probe import WARM_UP, Probe, Probed
from tinyfleet.fedcore.planning.torch_memory import StepShape, model_bytes, step_bytes
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import erk_counts
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.engine_facts import MemoryModel
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.registry import facts_of

MILD, HARD = Levers(activation_keep=0.5), Levers(activation_keep=0.3, cache="fp16")  # of the standard probes


class CostModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured on one board with one engine. Bytes and seconds a unit of ``Features``."""

    engine: str
    engine_bytes: float  # the process before a model is loaded
    step_bytes: float  # what training takes besides, once
    byte_model: float
    byte_replayed: float
    byte_layer: float
    second_pass: float
    second_gflop: float
    second_value: float
    second_pruned: float
    second_weight: float
    second_normalised: float
    machine: str = ""  # where it was measured
    convolution_gflops: float = 0.0  # what that machine's profile says, to tell times elsewhere; 0: not known
    # By shape, from which density on dense kernels are faster. Kernels' own affair: no estimate for another machine
    # rests on it.
    kernel_choice: dict[str, Annotated[float, msgspec.Meta(gt=0.0)]] = {}

    def at_speed(self, convolution_gflops: float) -> CostModel:
        """The same engine on a machine whose convolutions run at another rate: an estimate of all its times."""
        if not (self.convolution_gflops > 0.0 and convolution_gflops > 0.0):
            return self
        slower = self.convolution_gflops / convolution_gflops
        times = {
            name: getattr(self, name) * slower for name in self.__struct_fields__ if name.startswith("second_")
        }
        return msgspec.structs.replace(self, **times, convolution_gflops=convolution_gflops)

    def peak_bytes(self, features: Features) -> float:
        """Resident bytes of a whole training process at its peak."""
        return (
            self.engine_bytes
            + self.step_bytes
            + self.byte_model * features.model
            + self.byte_replayed * features.replayed
            + self.byte_layer * features.layer
        )

    def step_seconds(self, features: Features) -> float:
        """Seconds of one optimiser step."""
        return (
            self.second_pass * features.passes
            + self.second_gflop * features.gflop
            + self.second_value * features.values
            + self.second_pruned * features.pruned
            + self.second_weight * features.weights
            + self.second_normalised * features.normalised
        )


def features_of(graph: Graph, batch: int, settings: StepSettings, *, masked: bool) -> Features:
    """Features of one step of ``batch`` samples; ``masked``: the engine holds masks besides the model."""
    passes, shape = settings.levers.passes(batch), StepShape.of(settings, batch)
    weights = graph.weighted
    maskable = sum(graph.params[name].size for name in graph.maskable) if masked else 0
    values = sum(int(np.prod(graph.shapes[node.name])) for node in graph.nodes) * batch / 1e6
    pruned = 0.0
    if shape.pruned:
        pruned = pruned_values(graph, norms=shape.pruned_norm) * batch / 1e6
    return Features(
        model=float(model_bytes(graph, held=settings.held_arrays) + maskable),
        replayed=float(step_bytes(graph, shape)),
        layer=4.0 * max(graph.params[node.weight].size for node in weights),
        passes=float(passes * len(weights)),
        gflop=3.0 * sum(layer_flops(graph, node.weight) for node in weights) * batch / 1e9,
        values=values,
        pruned=pruned,
        weights=passes * sum(spec.size for spec in graph.params.values()) / 1e6,
        normalised=passes * sum(graph.params[node.weight].size for node in weights if node.weight_norm) / 1e6,
    )


def features_of_probe(probe: Probe) -> Features:
    """The same of a probe."""
    graph = build(probe.model)
    if _tells_its_own(probe.engine):
        active = erk_counts(graph.maskable_shapes, probe.density)
        return NativeSteps(graph, active, probe.threads).features(probe.batch, probe.settings, WARM_UP)
    return features_of(graph, probe.batch, probe.settings, masked=probe.density < 1.0)


def _tells_its_own(engine: str) -> bool:
    return facts_of(engine).memory_model is MemoryModel.ARENA


def standard_probes(engine: str) -> list[Probe]:
    """Small steps that tell the numbers of ``CostModel`` apart; under half a minute on a gateway."""
    small, wide = (
        ModelSettings("resnet8", (3, 32, 32), 10, {}),
        ModelSettings("vgg11", (3, 32, 32), 10, {"width": 32}),
    )
    normalised = ModelSettings("resnet8", (3, 32, 32), 10, {"norm": "nsconv"})
    if _tells_its_own(engine):
        return [
            Probe(small, 4, engine=engine),
            Probe(small, 48, engine=engine),
            Probe(wide, 4, momentum=0.9, engine=engine),
            Probe(wide, 32, engine=engine),
            Probe(wide, 32, density=0.3, engine=engine),
            Probe(small, 48, density=0.3, engine=engine),
            Probe(small, 48, HARD, pruned_norms=True, density=0.3, engine=engine),
            Probe(normalised, 48, MILD, engine=engine),
        ]
    return [
        Probe(small, 4, engine=engine),
        Probe(small, 48, engine=engine),
        Probe(wide, 4, momentum=0.9, engine=engine),
        Probe(wide, 32, engine=engine),
        Probe(small, 48, HARD, pruned_norms=True, engine=engine),
        Probe(normalised, 48, MILD, engine=engine),
    ]


def fit(engine: str, probes: Sequence[tuple[Probe, Probed]]) -> CostModel:
    """Least squares over ``probes``, in relative terms; no coefficient is negative."""
    found = [features_of_probe(probe) for probe, _ in probes]
    base = float(np.median([probed.engine_bytes for _, probed in probes]))
    columns = np.array([[1e6, f.model, f.replayed, f.layer] for f in found])
    memory = np.array([probed.peak_bytes - base for _, probed in probes])
    if _tells_its_own(engine):  # what is left is what the process takes besides
        model, replayed, layer = 1.0, 1.0, 0.0
        own = np.array([probed.peak_bytes - probed.engine_bytes for _, probed in probes])
        constant = max(0.0, float((own - columns[:, 1] - columns[:, 2]).max()) / 1e6)
    else:
        constant, model, replayed, layer = nonnegative(columns / memory[:, None], np.ones(len(found)))
    seconds = np.array([probed.step_seconds for _, probed in probes])
    times = np.array([[f.passes, f.gflop, f.values, f.pruned, f.weights, f.normalised] for f in found])
    a, b, c, d, e, f = nonnegative(times / seconds[:, None], np.ones(len(found)))
    return CostModel(engine, base, constant * 1e6, model, replayed, layer, a, b, c, d, e, f)


def nonnegative(columns: np.ndarray, target: np.ndarray) -> list[float]:  # type: ignore[type-arg]
    """Least squares without negative coefficients: the most negative one leaves until none is."""
    kept = list(range(columns.shape[1]))
    while kept:
        solution, *_ = np.linalg.lstsq(columns[:, kept], target, rcond=None)
        if (solution >= 0).all():
            break
        del kept[int(np.argmin(solution))]
    else:
        solution = np.zeros(0)
    result = [0.0] * columns.shape[1]
    for index, value in zip(kept, solution, strict=True):
        result[index] = float(value)
    return result
