"""What parts are worth: tinyfleet's own, channel-aware scores, pruned caches, and the controls written down."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.bench.methods.config import CellSpec, expand, read_config
from tinyfleet.fedcore.methods.parts.gradual import CUTS
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.figures.comparing import Score, Standing, compared, score, scores
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

PARTS, CHANNELS, KEEP = "cpu-tinyfleet", "cpu-channels", "cpu-keep"
WHOLE, CUT = "tinyfleet", "one cut for gradual pruning"
EXACT = "keep 1"


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: parts of methods."""
    found = PartFigures(results)
    return {
        "parts": found.parts,
        "part": found.part,
        "part-memory": found.part_memory,
        "parts-apart": found.parts_apart,
        "cut-differs": cut_differs,
        "cut-settings": lambda: str(len(list(differing()))),
        "start-control": found.start_control,
        "start-gap": found.start_gap,
        "extrusion": found.extrusion,
        "extrusion-rate": found.extrusion_rate,
        "channels": found.channels,
        "channels-left": found.channels_left,
        "channels-lost": found.channels_lost,
        "keep": found.keep,
        "keep-counted": found.keep_counted,
    }


@dataclass(frozen=True, slots=True)
class PartFigures:
    """Figures of the smaller method benchmarks."""

    results: CommittedResults

    def parts(self) -> str:
        """One part at a time replaced: one seed, so that nothing is ahead or behind."""
        rows = [
            (
                "nothing" if cell.method == WHOLE else cell.method,
                f"{score(cell, Score.LAST):.1f}",
                f"{score(cell, Score.FINAL):.1f}",
                f"{_measured_mb(cell):.1f} MB",
                f"{(cell.multiply_adds or 0) / 1e6:.1f}",
            )
            for cell in self.results.cells(PARTS)
        ]
        columns = (
            "replaced",
            "mean of the last ten",
            "final",
            "training step, measured",
            "M multiply-adds deployed",
        )
        return markdown_table(columns, rows)

    def part(self, kind: str, method: str) -> str:
        """How many points of accuracy one replacement costs, without a sign."""
        own, other = self._one(PARTS, WHOLE), self._one(PARTS, method)
        return f"{abs(score(own, Score(kind)) - score(other, Score(kind))):.1f}"

    def part_memory(self, method: str) -> str:
        """MB of a training step, as measured."""
        return f"{_measured_mb(self._one(PARTS, method)):.1f}"

    def parts_apart(self) -> str:
        """Points between the best and the worst of all rows but the cut's."""
        found = [score(cell, Score.LAST) for cell in self.results.cells(PARTS) if cell.method != CUT]
        return f"{max(found) - min(found):.1f}"

    def start_control(self) -> str:
        """The control of the start."""
        rows = [
            (row["start"], row["sparse_epochs"], " / ".join(f"{value:.1f}" for value in row["accuracy"]))
            for row in self.results.read("start-control")["rows"]
        ]
        return markdown_table(("start", "sparse epochs on public data", "accuracy by seed"), rows)

    def start_gap(self, which: str) -> str:
        """Points below gradual pruning, at the worst seed: with ``sparse`` epochs, or with ``none``."""
        gradual, *others = self.results.read("start-control")["rows"]
        chosen = [row["accuracy"] for row in others if (row["sparse_epochs"] > 0) == (which == "sparse")]
        return (
            f"{max(a - b for accuracy in chosen for a, b in zip(gradual['accuracy'], accuracy, strict=False)):.1f}"
        )

    def extrusion(self) -> str:
        """The norm of the marked weights after a round, by lambda."""
        rows = self.results.read("extrusion")["rows"]
        strengths = sorted({row["lambda"] for row in rows})
        found = {(row["share"], row["lambda"]): row["norm_ratio"] for row in rows}
        return markdown_table(
            ("share marked", *(f"lambda {strength:g}" for strength in strengths)),
            [
                (f"{100 * share:g} %", *(f"{found[share, strength]:.2f}" for strength in strengths))
                for share in sorted({row["share"] for row in rows})
            ],
        )

    def extrusion_rate(self, which: str) -> str:
        """The most of beta_0, or eta_r."""
        document = self.results.read("extrusion")
        return f"{max(document['beta_0']) if which == 'beta' else document['eta_r']:g}"

    def channels(self) -> str:
        """Channel-aware scores, one seed."""
        rows = [
            (
                cell.method,
                f"{score(cell, Score.LAST):.1f}",
                f"{(cell.multiply_adds or 0) / 1e6:.2f}",
                f"{(cell.onnx_bytes or 0) / 1e3:.0f} kB",
                f"{cell.onnx_latency_ms:.2f} ms",
            )
            for cell in self.results.cells(CHANNELS)
        ]
        columns = ("method", "accuracy", "M multiply-adds deployed", "ONNX file", "onnxruntime, batch 1")
        return markdown_table(columns, rows)

    def channels_left(self, field: str, exponent: str) -> str:
        """What an exponent leaves of tinyfleet's multiply-adds, file or latency, in %."""
        own, plain = (self._one(CHANNELS, f"tinyfleet, exponent {power}") for power in (exponent, "0"))
        return f"{100 * getattr(own, field) / getattr(plain, field):.0f}"

    def channels_lost(self, exponent: str) -> str:
        """Points of accuracy that an exponent costs tinyfleet."""
        own, plain = (self._one(CHANNELS, f"tinyfleet, exponent {power}") for power in (exponent, "0"))
        return f"{score(plain, Score.LAST) - score(own, Score.LAST):.1f}"

    def keep(self) -> str:
        """Accuracy by the share of caches that is kept, on both data sets, against exact caches."""
        cells = self.results.cells(KEEP)
        datasets = list(dict.fromkeys(cell.dataset for cell in cells))
        rows = []
        for method in dict.fromkeys(cell.method for cell in cells):
            row = [method]
            for dataset in datasets:
                own, exact = self._kept(cells, method, dataset), self._kept(cells, EXACT, dataset)
                row.append(f"{statistics.fmean(own):.1f} ({min(own):.1f} to {max(own):.1f})")
                row.append("" if method == EXACT else str(compared(own, exact)))
            memory = next(cell for cell in cells if (cell.method, cell.dataset) == (method, datasets[0]))
            rows.append((*row, f"{memory.memory_analytic_mb:.1f} MB"))
        heads = [head for dataset in datasets for head in (dataset, "against exact")]
        return markdown_table(("caches", *heads, f"a step's memory by arithmetic, {datasets[0]}"), rows)

    def keep_counted(self, verdict: str) -> str:
        """How many of the comparisons with exact caches are ties, say."""
        cells = self.results.cells(KEEP)
        found = [
            compared(self._kept(cells, method, dataset), self._kept(cells, EXACT, dataset)).verdict
            for method in {cell.method for cell in cells} - {EXACT}
            for dataset in {cell.dataset for cell in cells}
        ]
        return str(sum(one is Standing(verdict) for one in found))

    @staticmethod
    def _kept(cells: list[Cell], method: str, dataset: str) -> list[float]:
        return scores([cell for cell in cells if cell.dataset == dataset], method, cells[0].density, Score.FINAL)

    def _one(self, bench: str, method: str) -> Cell:
        return next(cell for cell in self.results.cells(bench) if cell.method == method)


def _measured_mb(cell: Cell) -> float:
    if cell.peak_rss_mb is None or cell.baseline_rss_mb is None:
        raise ValueError(f"{cell.method}: its memory was not measured")
    return cell.peak_rss_mb - cell.baseline_rss_mb


def cut_differs() -> str:
    """In what the row of the cut differs from the whole method, from the benchmark's configuration."""
    return markdown_table(("", WHOLE, CUT), list(differing()), words=True)


def differing() -> Iterator[tuple[str, str, str]]:
    """(what, the method's, the cut's) of all that differs."""
    cells = {cell.method: cell for cell in expand(read_config(PARTS))}
    own, cut = _told(cells[WHOLE]), _told(cells[CUT])
    for name in own:
        if own[name] != cut[name]:
            yield name, own[name], cut[name]


def _told(cell: CellSpec) -> dict[str, str]:
    """What an arm of the benchmark of parts is, in words; all settings that these methods share or translate."""
    method = create(cell.spec.method, problem_of(cell.spec))
    settings, training = method.settings, cell.spec.training
    if method.name not in ("tinyfleet", "fedtiny") or getattr(settings, "selection", False):
        raise ValueError(f"{cell.method} is neither tinyfleet nor FedTiny without selection")
    gradual = method.name == "tinyfleet"
    keep = float(getattr(settings, "activation_keep", training.activation_keep))
    precision = str(getattr(settings, "cache", training.activation_precision))
    norms = ", batch norms' too" if getattr(settings, "norms", training.activation_norms) else ""
    return {
        "mask": f"in {CUTS} cuts, while it trains" if gradual else "in one cut",
        "epochs on public data, dense + sparse": (
            f"{training.pretrain_epochs} + {settings.pruning_epochs if gradual else 0}"
        ),
        "layer densities": str(settings.allocation).upper(),
        "adjusted layers": {"entire": "all", "block": "one block of three"}[settings.granularity],
        "share exchanged": f"{100 * settings.scale:g} %",
        "extrusion": "yes" if settings.extrusion else "no",
        "caches": f"{100 * keep:g} %, {precision}{norms}" if keep < 1.0 else "all, fp32",
        "schedule": msgspec.json.encode([settings.interval, settings.stop, settings.progressive]).decode(),
    }
