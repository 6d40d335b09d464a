"""Exported files: the demo's, and what compaction leaves."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.bench.compaction import CompactionRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: exported files."""
    found = ExportFigures(results)
    return {"exports": found.exports, "compaction": found.compaction, "exported": found.exported}


@dataclass(frozen=True, slots=True)
class ExportFigures:
    """Figures of files."""

    results: CommittedResults

    def exports(self, engine: str) -> str:
        """The demo's files in their runtimes."""
        rows = [
            (
                f"{row['format']} {row['precision']}",
                row["runtime"],
                f"{row['file_bytes']:,} B",
                f"{row['max_rel_error']:.1e}",
                f"{100 * row['argmax_agreement']:.1f} %",
                f"{100 * row['accuracy']:.1f} %",
                f"{row['latency_ms']:.2f} ms",
            )
            for row in self.results.read(f"demo-{engine}")["exports"]
        ]
        columns = ("file", "runtime", "size", "largest relative error", "same class", "accuracy", "latency")
        return markdown_table(columns, rows)

    def exported(self, own: str, other: str) -> str:
        """How many times smaller one file of the demo is than another."""
        found = {
            f"{row['format']}-{row['precision']}": row["file_bytes"]
            for row in self.results.read("demo-native")["exports"]
        }
        return f"{found[other] / found[own]:.1f}"

    def compaction(self) -> str:
        """Multiply-adds and bytes before and after."""
        rows = [
            (
                f"{row.model}, {row.density:g}, {row.mask}",
                f"{row.multiply_adds / 1e6:.1f} → {row.multiply_adds_compact / 1e6:.1f}",
                f"{row.onnx_bytes / 1e3:,.0f} → {row.onnx_bytes_compact / 1e3:,.0f}",
            )
            for row in self.results.rows("compaction", CompactionRow)
        ]
        return markdown_table(("model, density, mask", "multiply-adds (M)", "onnx-fp32 (kB)"), rows)
