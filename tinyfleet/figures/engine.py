"""The native engine: training steps and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tinyfleet.bench.engine.runner import EngineRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

TITLES = {"resnet8": "ResNet8", "resnet18": "ResNet18", "resnet20": "ResNet20", "mobilenet_v2": "MobileNetV2"}
SHAPES = (
    "3x3 of 64 to 64 at 32x32, stride 1x1",
    "3x3 of 128 to 128 at 16x16, stride 1x1",
    "3x3 of 256 to 256 at 8x8, stride 1x1",
    "3x3 of 512 to 512 at 4x4, stride 1x1",
    "3x3 of 64 to 128 at 32x32, stride 2x2",
    "1x1 of 64 to 128 at 32x32, stride 2x2",
    "1x1 of 24 to 144 at 32x32, stride 1x1",
    "1x1 of 960 to 160 at 4x4, stride 1x1",
    "3x3 of 96 to 96 in 96 groups at 32x32, stride 1x1",
)
SHOWN = (0.01, 0.05, 0.1, 1.0)
ENDS: dict[str, Callable[[Any], Any]] = {"least": min, "most": max}


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: the native engine."""
    found = EngineFigures(results)
    return {
        "engine": found.engine,
        "engine-speedup": found.speedup,
        "engine-peak": found.peak,
        "engine-torch-peak": found.torch_peak,
        "engine-recompute": found.recompute,
        "engine-few": found.few,
        "engine-targets": found.targets,
        "kernels": found.kernels,
        "kernel-rows": found.kernel_rows,
        "bound": found.bound,
        "of-l2": found.of_l2,
        "crossover": found.crossover,
        "never-dense": found.never_dense,
    }


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Figures of its two benchmarks."""

    results: CommittedResults

    @property
    def rows(self) -> list[EngineRow]:
        return self.results.rows("engine", EngineRow)

    def engine(self) -> str:
        """Every cell."""
        columns = (
            "model, density",
            "batch",
            "threads",
            "memory levers",
            "s a step",
            "dense torch",
            "times as fast",
            "target",
            "peak RSS",
            "torch",
            "first step",
            "torch",
        )
        return markdown_table(
            columns,
            [
                (
                    f"{TITLES[row.model]}, {row.density:g}",
                    row.batch,
                    row.threads,
                    _levers(row),
                    f"{row.ours_s:.4f}",
                    f"{row.torch_dense_s:.4f}",
                    f"**{row.speedup:.1f}**",
                    "" if row.speedup_target is None else f"{row.speedup_target:g}",
                    f"{row.ours_peak_rss_mb:.0f} MB",
                    f"{row.torch_peak_rss_mb:.0f} MB",
                    f"{row.ours_first_step_s:.2f} s",
                    f"{row.torch_first_step_s:.1f} s",
                )
                for row in self.rows
            ],
        )

    def targets(self, which: str) -> str:
        """How many targets of speed and of memory there are, or how many are met."""
        met = [
            *(row.speedup >= row.speedup_target for row in self.rows if row.speedup_target is not None),
            *(row.ours_peak_rss_mb <= row.peak_target_mb for row in self.rows if row.peak_target_mb is not None),
        ]
        return str(len(met) if which == "all" else sum(met))

    def speedup(self, which: str, model: str, density: str, threads: str) -> str:
        """Times as fast as dense torch over the cells of batch 64 whose caches are exact."""
        found = [row.speedup for row in self._exact(model, density, threads)]
        return f"{ENDS[which](found):.1f}"

    def peak(self, which: str, model: str, density: str, threads: str) -> str:
        """MB of the whole process over the same cells."""
        return f"{ENDS[which](row.ours_peak_rss_mb for row in self._exact(model, density, threads)):.0f}"

    def torch_peak(self, which: str, model: str, density: str, threads: str) -> str:
        """MB of torch's process over the same cells."""
        return f"{ENDS[which](row.torch_peak_rss_mb for row in self._exact(model, density, threads)):.0f}"

    def recompute(self, which: str, level: str, density: str) -> str:
        """How many times as long ResNet18's step takes with activations computed again, over numbers of threads."""
        found = []
        for threads in (1, 2):
            rows = self._exact("resnet18", density, str(threads))
            seconds = {row.recompute: row.ours_s for row in rows if not row.micro_batch}
            found.append(seconds[int(level)] / seconds[0])
        return f"{ENDS[which](found):.1f}"

    def _exact(self, model: str, density: str, threads: str) -> list[EngineRow]:
        key = (model, float(density), 64, int(threads))
        return [
            row for row in self.rows if (row.model, row.density, row.batch, row.threads) == key and row.keep >= 1.0
        ]

    def few(self, what: str) -> str:
        """Of ResNet18 at 0.01, a few images at a time, one thread: ``mb``, ``pruned-mb``, ``speed``, ``pruned``.

        ``speed`` is over the whole batch's, ``pruned`` the time with pruned caches over that without.
        """
        rows = [row for row in self.rows if (row.model, row.density, row.threads) == ("resnet18", 0.01, 1)]
        whole = next(row for row in rows if not row.micro_batch and not row.recompute)
        exact = next(row for row in rows if row.micro_batch and row.keep >= 1.0)
        pruned = next(row for row in rows if row.micro_batch and row.keep < 1.0)
        values = {
            "mb": f"{exact.ours_peak_rss_mb:.0f}",
            "pruned-mb": f"{pruned.ours_peak_rss_mb:.0f}",
            "speed": f"{whole.ours_s / exact.ours_s:.1f}",
            "pruned": f"{pruned.ours_s / exact.ours_s:.1f}",
            "images": str(exact.micro_batch),
        }
        return values[what]

    # -- kernels --------------------------------------------------------------------------

    def kernels(self) -> str:
        """Some shapes."""
        document = self.results.read("kernels")
        l2 = document["bounds"]["l2_gflops"]
        rows = []
        for shape in SHAPES:
            for row in document["rows"]:
                if row["shape"].startswith(shape) and row["density"] in SHOWN:
                    parts = [row[f"{part}_gflops"] for part in ("forward", "input_gradient", "weight_gradient")]
                    rows.append(
                        (
                            f"{_short(shape)}, {row['kernel']}",
                            f"{row['density']:g}",
                            *(f"{value:.1f}" for value in parts),
                            f"{row['intensity']:.1f}",
                            f"{100 * _together(parts) / l2:.0f} %",
                            row["limit"],
                        )
                    )
        columns = (
            "layer, kernel",
            "density",
            "forward",
            "input gradient",
            "weight gradient",
            "flop a byte",
            "of the L2 bound",
            "nearest bound",
        )
        return markdown_table(columns, rows)

    def kernel_rows(self) -> str:
        return str(len(self.results.read("kernels")["rows"]))

    def bound(self, name: str) -> str:
        """GFLOP/s, or GB/s of memory."""
        return f"{self.results.read('kernels')['bounds'][name]:.0f}"

    def of_l2(self, which: str) -> str:
        """Sparse 3x3 layers with stride 1, one group and 64 channels or more, from density 0.1 on, in %."""
        document = self.results.read("kernels")
        l2 = document["bounds"]["l2_gflops"]
        found = [
            100
            * _together([row[f"{part}_gflops"] for part in ("forward", "input_gradient", "weight_gradient")])
            / l2
            for row in document["rows"]
            if row["shape"].startswith(SHAPES[:4]) and row["kernel"] == "sparse" and row["density"] >= 0.1
        ]
        return f"{ENDS[which](found):.0f}"

    def crossover(self, which: str) -> str:
        """The density from which on a dense kernel wins, least or most over the shapes where it ever does."""
        return f"{ENDS[which](d for d in self._crossovers() if d <= 1):.2f}"

    def never_dense(self) -> str:
        """For how many shapes no dense kernel wins at any density."""
        return str(sum(density > 1 for density in self._crossovers()))

    def _crossovers(self) -> Iterator[float]:
        return (float(entry["density"]) for entry in self.results.read("kernels")["crossovers"])


def _levers(row: EngineRow) -> str:
    words = [f"{row.micro_batch} at a time"] if row.micro_batch else []
    words += [f"recompute {row.recompute}"] if row.recompute else []
    words += [f"caches {100 * row.keep:g} % {row.cache}"] if row.keep < 1 else []
    return ", ".join(words) or "none"


def _together(parts: list[float]) -> float:
    return float(len(parts) / sum(1.0 / value for value in parts))


def _short(shape: str) -> str:
    head, stride = shape.rsplit("stride ", 1)
    return f"{head}stride {stride[0]}"
