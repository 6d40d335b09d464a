from __future__ import annotations

from tinyfleet.bench.methods.cell import Cell


def row(method: str, density: float, seed: int, accuracy: float, **changes: object) -> Cell:
    """A finished run with round numbers."""
    numbers: dict[str, object] = {
        "dataset": "digits",
        "partition": "iid",
        "model": "small_cnn",
        "digest": "0",
        "density_final": density,
        "rounds": 10,
        "accuracy_last10": accuracy,
        "accuracy_best": accuracy + 0.01,
        "flops_round_max": 2e9 * density,
        "bytes_up_round": 1e6 * density,
        "bytes_down_round": 2e6 * density,
        "bytes_total": 3e7 * density,
        "memory_analytic_mb": 4.0 + density,
        "peak_rss_mb": 110.0 + density,
        "baseline_rss_mb": 100.0,
        "seconds": 30.0,
        "curve": [(5, accuracy - 0.1), (10, accuracy)],
    }
    return Cell(method=method, density=density, seed=seed, **(numbers | changes))  # type: ignore[arg-type]


def failed(method: str, density: float, seed: int, reason: str) -> Cell:
    """A run that left nothing but its reason."""
    return Cell(method, "digits", "iid", "small_cnn", density, seed, "0", "failed", reason)


ROWS = [
    *(row("fedavg", 1.0, seed, accuracy) for seed, accuracy in enumerate((0.90, 0.91, 0.95))),
    *(row("fedtiny", 0.1, seed, accuracy) for seed, accuracy in enumerate((0.8, 0.84))),
    row("fedtiny", 0.01, 0, 0.7),
    failed("fedtiny", 0.01, 1, "ResultError: training diverged"),
    failed("static", 0.1, 0, "ResultError: no data"),
    row("static", 0.01, 0, 0.5, peak_rss_mb=None, curve=[]),
]
