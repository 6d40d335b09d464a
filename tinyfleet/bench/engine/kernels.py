"""How fast each kernel is on each shape of layer, at each density, against what the processor can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sparse_engine.kernels.kernel_choice import dense_wins_from, distinct_convolutions
from sparse_engine.kernels.timing import TimedConvolution
from sparse_engine.layers import Layer, Op
from sparse_engine.program.tape import DENSE_FROM
from tinyfleet.bench.engine.bounds import Bounds, measure_bounds
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.native.model import model_of

MODELS = ("resnet18", "mobilenet_v2")
DENSITIES = (0.01, 0.05, 0.1, 0.3, 1.0)
INPUT_SHAPE, CLASSES = (3, 32, 32), 10
WEIGHT_BYTES = 8  # of a nonzero weight: its value and where it reads
OPERATIONS = 3  # forward, input gradient, weight gradient


@dataclass(frozen=True, slots=True)
class KernelRow:
    """GFLOP/s are of the nonzero weights' multiply-adds, one thread; of the dense kernel those of all weights.

    ``intensity`` is flops a byte of the tensors and weights, read or written once; where these fit in a cache,
    more than memory's bandwidth may be reached. ``limit`` is the nearest measured bound above the three
    operations together.
    """

    model: str
    shape: str
    kernel: str  # sparse, dense
    density: float
    forward_gflops: float
    input_gradient_gflops: float
    weight_gradient_gflops: float
    total_s: float
    intensity: float
    limit: str

    @property
    def gflops(self) -> float:
        """Of the three together."""
        inverses = (self.forward_gflops, self.input_gradient_gflops, self.weight_gradient_gflops)
        return OPERATIONS / sum(1.0 / gflops for gflops in inverses)


@dataclass(frozen=True, slots=True)
class Crossover:
    """From which density on the dense kernel takes less time for a shape; above 1: at none."""

    model: str
    shape: str
    density: float


@dataclass(frozen=True, slots=True)
class KernelReport:
    """``default`` is the density from which the engine uses the dense kernels if nothing was measured."""

    batch: int
    bounds: Bounds
    rows: list[KernelRow]
    crossovers: list[Crossover]
    default: float = DENSE_FROM


def bench_kernels(
    models: Sequence[str],
    densities: Sequence[float],
    batch: int,
    seconds: float,
    told: Callable[[str], None],
) -> KernelReport:
    """Time every distinct shape, each of its kernels at each density for about so many ``seconds``."""
    bounds = measure_bounds()
    rows: list[KernelRow] = []
    crossovers = []
    entries = list(shapes(models))
    for done, (model, shape, (layer, source, out)) in enumerate(entries):
        told(f"{done + 1}/{len(entries)} {model}: {shape}")
        timed = TimedConvolution(layer, source, out, batch)
        sparse = [_row(model, shape, timed, density, "sparse", bounds, seconds) for density in densities]
        rows += sparse
        if layer.groups == 1:
            rows.append(_row(model, shape, timed, 1.0, "dense", bounds, seconds))
            points = [(row.density, row.total_s) for row in sparse]
            crossovers.append(Crossover(model, shape, dense_wins_from(points, rows[-1].total_s)))
    return KernelReport(batch, bounds, rows, crossovers)


def shapes(
    models: Sequence[str],
) -> Iterator[tuple[str, str, tuple[Layer, tuple[int, ...], tuple[int, ...]]]]:
    """(model, shape in words, layer and its ends) of every distinct convolution; of several models the first."""
    seen = set()
    for name in models:
        model = model_of(build(ModelSettings(name, INPUT_SHAPE, CLASSES)))
        for shape, ends in distinct_convolutions(model, grouped=True).items():
            if ends[0].op is Op.CONV and shape not in seen:
                seen.add(shape)
                yield name, shape, ends


def _row(
    model: str,
    shape: str,
    timed: TimedConvolution,
    density: float,
    kernel: str,
    bounds: Bounds,
    seconds: float,
) -> KernelRow:
    found = timed.time(density, dense=kernel == "dense", seconds=seconds)
    active = timed.active(density)
    flops = 2.0 * active * timed.products
    intensity = flops / (timed.tensor_bytes + active * WEIGHT_BYTES)
    return KernelRow(
        model,
        shape,
        kernel,
        density,
        flops / found.forward / 1e9,
        flops / found.input_gradient / 1e9,
        flops / found.weight_gradient / 1e9,
        found.total,
        intensity,
        bounds.limit(OPERATIONS * flops / found.total / 1e9, intensity),
    )
