"""The demo, bytes on the wire, activation caches and plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tinyfleet.bench.caches import CacheRow
from tinyfleet.bench.wire import WireRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

ENDS: dict[str, Callable[[Any], Any]] = {"least": min, "most": max}
CACHES = {
    ("batch", 1.0, "fp32", False): "batch norm, exact (FedTiny, FedDST)",
    ("nsconv", 1.0, "fp32", False): "NSConv, exact",
    ("nsconv", 0.5, "fp32", False): "NSConv (FedMef's default)",
    ("batch", 0.3, "fp16", True): "batch norm, its caches pruned too (tinyfleet's default)",
}


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: the fleet and its parts."""
    found = FleetFigures(results)
    return {
        "demo": found.demo,
        "demo-seconds": found.demo_seconds,
        "demo-mb": found.demo_mb,
        "demo-engines": found.demo_engines,
        "wire": found.wire,
        "wire-kb": found.wire_kb,
        "wire-times": found.wire_times,
        "wire-mask": found.wire_mask,
        "wire-apart": found.wire_apart,
        "caches": found.caches,
        "caches-less": found.caches_less,
        "caches-slower": found.caches_slower,
        "plan-rows": found.plan_rows,
        "plan-error": found.plan_error,
        "plan-worst-ms": found.plan_worst_ms,
    }


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """Figures of what runs as processes."""

    results: CommittedResults

    def demo(self, engine: str) -> str:
        """Dense beside tiny."""
        found = self.results.read(f"demo-{engine}")
        sent, overhead = found["bytes"], found["round_overhead_s"]
        return markdown_table(
            ("", "dense FedAvg", found["method"]),
            [
                ("accuracy, held-out", *(f"{100 * found['accuracy'][run]:.1f} %" for run in ("dense", "tiny"))),
                ("density of the prunable weights", "100 %", f"{100 * found['density']:.2f} %"),
                (
                    "bytes up / down a device and round, at the socket",
                    f"{sent['dense_up_per_device_round']:,.0f} / {sent['dense_down_per_device_round']:,.0f}",
                    f"{sent['up_per_device_round']:,.0f} / {sent['down_per_device_round']:,.0f}",
                ),
                ("round overhead, median / most", "", f"{overhead['median']:.2f} s / {overhead['max']:.2f} s"),
            ],
        )

    def demo_seconds(self, engine: str) -> str:
        return f"{self.results.read(f'demo-{engine}')['duration_s']:.0f}"

    def demo_mb(self, engine: str, what: str) -> str:
        """``supervisor``, ``worker``, ``coordinator`` (idle), ``coordinator-peak``: the most of any process."""
        found = self.results.read(f"demo-{engine}")
        agents, coordinator = found["agents"], found["coordinator"]
        values = {
            "supervisor": max(agent["idle_rss_mb"] for agent in agents),
            "worker": max(agent["peak_rss_mb"] for agent in agents),
            "coordinator": coordinator["idle_rss_mb"],
            "coordinator-peak": coordinator["peak_rss_mb"],
        }
        return f"{values[what]:.1f}"

    def demo_engines(self) -> str:
        """The demo with either engine."""
        rows = []
        for engine in ("native", "torch"):
            found = self.results.read(f"demo-{engine}")
            peaks = [agent["peak_rss_mb"] for agent in found["agents"]]
            accuracy = (f"{100 * found['accuracy'][run]:.1f} %" for run in ("dense", "tiny"))
            rows.append(
                (engine, *accuracy, f"{min(peaks):.1f} to {max(peaks):.1f} MB", f"{found['duration_s']:.0f} s")
            )
        columns = ("engine", "dense FedAvg", "tinyfleet, density 0.05", "worker's peak RSS", "whole demo")
        return markdown_table(columns, rows)

    # -- bytes on the wire ----------------------------------------------------------------

    def wire(self) -> str:
        """Down, the mask held already."""
        rows = []
        for model in dict.fromkeys(row.model for row in self._wire()):
            sparse = self._sent(model, 0.01, "fp16")
            rows.append(
                (
                    model,
                    f"{sparse.dense_bytes:,}",
                    f"{self._sent(model, 0.05, 'fp16').bytes_down:,}",
                    f"{sparse.bytes_down:,}",
                    f"{sparse.socket_bytes_down:,}",
                    f"{self._sent(model, 0.01, 'int8').bytes_down:,}",
                    f"{sparse.encode_ms:.1f} / {sparse.decode_ms:.1f} ms",
                )
            )
        columns = (
            "model",
            "dense fp32",
            "density 0.05, fp16",
            "density 0.01, fp16",
            "at the socket, 0.01",
            "density 0.01, int8",
            "encode / decode, 0.01 fp16",
        )
        return markdown_table(columns, rows)

    def wire_kb(self, model: str, density: str) -> str:
        """Kilobytes at the socket, down, fp16."""
        return f"{(self._sent(model, float(density), 'fp16').socket_bytes_down or 0) / 1e3:.1f}"

    def wire_times(self, model: str, density: str) -> str:
        """How many times less than dense fp32, at the socket."""
        row = self._sent(model, float(density), "fp16")
        return f"{row.dense_bytes / (row.socket_bytes_down or 0):.0f}"

    def wire_mask(self, model: str, density: str) -> str:
        """Kilobytes that a new mask adds, fp16."""
        row = self._sent(model, float(density), "fp16")
        return f"{(row.bytes_down_new_mask - row.bytes_down) / 1e3:.0f}"

    def wire_apart(self) -> str:
        """The most bytes by which up and down differ."""
        return str(max(abs(row.bytes_up - row.bytes_down) for row in self._wire()))

    def _wire(self) -> list[WireRow]:
        return self.results.rows("wire", WireRow)

    def _sent(self, model: str, density: float, precision: str) -> WireRow:
        key = (model, density, precision)
        return next(row for row in self._wire() if (row.model, row.density, row.precision) == key)

    # -- activation caches ----------------------------------------------------------------

    def caches(self) -> str:
        """A training step's memory and time."""
        exact = self._cache("batch", 1.0)
        rows = []
        for row in self._caches():
            plain = "batch norm" if row.norm == "batch" else "NSConv"
            rows.append(
                (
                    CACHES.get((row.norm, row.keep, row.cache, row.pruned_norms), plain),
                    f"{row.keep:g}",
                    row.cache,
                    f"{row.peak_mb:.0f} MB",
                    f"{row.peak_mb / exact.peak_mb:.2f}",
                    f"{row.activations_analytic_mb:.0f} MB",
                    f"{row.seconds_step:.2f}",
                )
            )
        columns = ("layers", "keep", "cache", "peak", "of exact batch norm", "by arithmetic", "s a step")
        return markdown_table(columns, rows)

    def caches_less(self, norm: str, keep: str, reference: str) -> str:
        """How much less of the peak fp32 caches take than another norm's exact ones, in %."""
        own, exact = self._cache(norm, float(keep)), self._cache(reference, 1.0)
        return f"{100 * (1 - own.peak_mb / exact.peak_mb):.0f}"

    def caches_slower(self, which: str) -> str:
        """How much longer a step takes with pruned caches than with exact ones of the same layers, in %."""
        pruned = [row for row in self._caches() if row.keep < 1.0 and not row.pruned_norms]
        found = [100 * (row.seconds_step / self._cache(row.norm, 1.0).seconds_step - 1) for row in pruned]
        return f"{ENDS[which](found):.0f}"

    def _caches(self) -> list[CacheRow]:
        return self.results.rows("caches", CacheRow)

    def _cache(self, norm: str, keep: float) -> CacheRow:
        key = (norm, keep, "fp32", False)
        return next(row for row in self._caches() if (row.norm, row.keep, row.cache, row.pruned_norms) == key)

    # -- plans ----------------------------------------------------------------------------

    def plan_rows(self, engine: str) -> str:
        return str(len(self.results.read(_plan(engine))))

    def plan_error(self, engine: str, field: str) -> str:
        """``memory``, ``step`` or ``time``, and ``max`` or ``median``, in %."""
        from tinyfleet.bench.plan import PlanRow, errors

        found = errors(self.results.rows(_plan(engine), PlanRow))
        share = getattr(found, field)
        return f"{100 * share:.1f}" if field.startswith("memory") else f"{100 * share:.0f}"

    def plan_worst_ms(self, engine: str) -> str:
        """How long the step takes whose time is predicted worst."""
        from tinyfleet.bench.plan import PlanRow

        worst = max(self.results.rows(_plan(engine), PlanRow), key=lambda row: abs(row.time_error))
        return f"{1e3 * worst.measured_s:.1f}"


def _plan(engine: str) -> str:
    return {"native": "plan-native", "torch": "plan"}[engine]
