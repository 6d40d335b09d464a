"""What a training step takes with exact and with pruned activation caches, each measured in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tinyfleet.fedcore.accounting import activation_bytes
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.planning.probe import Probe, probe
from tinyfleet.fedcore.run_spec import ModelSettings

INPUT_SHAPE, CLASSES = (3, 32, 32), 10


@dataclass(frozen=True, slots=True)
class CacheRow:
    """MB are 10^6 bytes above the loaded model; seconds are the median of the steps, one thread."""

    model: str
    norm: str
    batch: int
    keep: float
    cache: str
    pruned_norms: bool
    baseline_rss_mb: float
    peak_mb: float
    activations_analytic_mb: float
    seconds_step: float


def configurations(model: str, batch: int) -> Iterator[Probe]:
    """Exact and pruned, with batch norm and with normalised weights."""
    for norm in ("batch", "nsconv"):
        yield configuration(model, norm, batch, 1.0)
        for keep in (0.5, 0.3):
            yield configuration(model, norm, batch, keep)
        yield configuration(model, norm, batch, 0.3, "fp16")
    yield configuration(model, "batch", batch, 0.3, "fp16", pruned_norms=True)


def configuration(
    model: str,
    norm: str,
    batch: int,
    keep: float,
    cache: Literal["fp32", "fp16"] = "fp32",
    *,
    pruned_norms: bool = False,
    steps: int = 3,
) -> Probe:
    """One step of ``model`` on 32x32 images."""
    settings = ModelSettings(model, INPUT_SHAPE, CLASSES, {"norm": norm})
    return Probe(settings, batch, keep=keep, cache=cache, pruned_norms=pruned_norms, steps=steps)


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
    found, value = probe(request), request.settings.value_bytes
    graph = build(request.model)
    analytic = activation_bytes(graph, request.batch, request.keep, value, request.pruned_norms)
    return CacheRow(
        request.model.name,
        str(request.model.arguments["norm"]),
        request.batch,
        request.keep,
        request.cache,
        request.pruned_norms,
        found.loaded_bytes / 1e6,
        (found.peak_bytes - found.loaded_bytes) / 1e6,
        analytic / 1e6,
        found.step_seconds,
    )
