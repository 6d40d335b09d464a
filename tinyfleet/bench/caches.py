"""What a training step takes with exact and with pruned activation caches, each measured in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tinyfleet.fedcore.accounting import activation_bytes
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.planning.probe import Probe, probe
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

INPUT_SHAPE, CLASSES = (3, 32, 32), 10
HALF = Levers(activation_keep=0.3, cache="fp16")  # 30 % of the entries, in half precision


@dataclass(frozen=True, slots=True)
class CacheRow:
    """MB are 10^6 bytes above the loaded model; seconds are the median of the steps, one thread."""

    model: str
    norm: str
    batch: int
    keep: float  # of activations
    cache: str
    pruned_norms: bool
    baseline_rss_mb: float
    peak_mb: float
    activations_analytic_mb: float
    seconds_step: float


def configurations(model: str, batch: int) -> Iterator[Probe]:
    """Exact and pruned, with batch norm and with normalised weights."""
    for norm in ("batch", "nsconv"):
        yield configuration(model, norm, batch, NO_LEVERS)
        for keep in (0.5, 0.3):
            yield configuration(model, norm, batch, Levers(activation_keep=keep))
        yield configuration(model, norm, batch, HALF)
    yield configuration(model, "batch", batch, HALF, pruned_norms=True)


def configuration(
    model: str,
    norm: str,
    batch: int,
    levers: Levers,
    *,
    pruned_norms: bool = False,
    steps: int = 3,
) -> Probe:
    """One step of ``model`` on 32x32 images."""
    settings = ModelSettings(model, INPUT_SHAPE, CLASSES, {"norm": norm})
    return Probe(settings, batch, levers, pruned_norms=pruned_norms, steps=steps)


def bench_caches(
    models: Sequence[str], batch: int, progress: Callable[[CacheRow, int, int], None]
) -> list[CacheRow]:
    """A row a configuration. Raises ``DataError`` where a measurement fails."""
    requests = [request for model in models for request in configurations(model, batch)]
    rows = []
    for request in requests:
        rows.append(measure(request))
        progress(rows[-1], len(rows), len(requests))
    return rows


def measure(request: Probe) -> CacheRow:
    """Measure one configuration. Raises ``DataError`` where that fails."""
    found, levers = probe(request), request.levers
    graph = build(request.model)
    analytic = activation_bytes(
        graph, request.batch, levers.activation_keep, levers.value_bytes, request.pruned_norms
    )
    return CacheRow(
        request.model.name,
        str(request.model.arguments["norm"]),
        request.batch,
        levers.activation_keep,
        levers.cache,
        request.pruned_norms,
        found.loaded_bytes / 1e6,
        (found.peak_bytes - found.loaded_bytes) / 1e6,
        analytic / 1e6,
        found.step_seconds,
    )
