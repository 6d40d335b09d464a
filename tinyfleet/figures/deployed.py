"""Deployed models in their runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tinyfleet.bench.inference import InferenceRow
from tinyfleet.figures.engine import ENDS, TITLES
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

FORMATS = {
    "sparse-fp32": "**sparse fp32**, native engine",
    "onnx-fp32": "ONNX fp32, onnxruntime",
    "tflite-fp32": "TFLite fp32, LiteRT",
    "tflite-int8": "TFLite int8, LiteRT",
}


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: deployed models."""
    found = DeployedFigures(results)
    return {
        "inference": found.inference,
        "inference-size": found.size_ratio,
        "inference-time": found.time_ratio,
        "inference-error": found.error,
        "python-mb": found.python_mb,
    }


@dataclass(frozen=True, slots=True)
class DeployedFigures:
    """Figures of the benchmark of inference."""

    results: CommittedResults

    def inference(self) -> str:
        """Every file in its runtime."""
        columns = (
            "model, density",
            "file",
            "bytes",
            "ms",
            "CPU ms",
            "peak RSS",
            "above numpy",
            "largest error",
        )
        return markdown_table(
            columns,
            [
                (
                    f"{TITLES[row.model]}, {row.density:g}",
                    FORMATS[row.format],
                    f"{row.file_bytes:,}",
                    f"{row.latency_ms:.2f}",
                    f"{row.cpu_ms:.2f}",
                    f"{row.peak_mb:.0f} MB",
                    f"{row.memory_mb:.1f} MB",
                    f"{row.max_rel_error:.0e}",
                )
                for row in self._inference()
            ],
        )

    def size_ratio(self, which: str) -> str:
        """A dense fp32 file's size over the sparse one's, over all models and densities."""
        return f"{ENDS[which](other.file_bytes / own.file_bytes for own, other in self._pairs()):.0f}"

    def time_ratio(self, which: str, model: str) -> str:
        """A dense fp32 runtime's time over the sparse file's: above 1 the sparse one is the faster."""
        found = [other.latency_ms / own.latency_ms for own, other in self._pairs() if own.model == model]
        return f"{ENDS[which](found):.1f}"

    def error(self) -> str:
        """The largest error of an int8 file's logits, in %."""
        return f"{100 * max(row.max_rel_error for row in self._inference() if row.format == 'tflite-int8'):.0f}"

    def python_mb(self) -> str:
        """MB of a Python with numpy in it: the median's rows agree within a megabyte."""
        found = sorted(row.peak_mb - row.memory_mb for row in self._inference())
        return f"{found[len(found) // 2]:.0f}"

    def _pairs(self) -> Iterator[tuple[InferenceRow, InferenceRow]]:
        rows = self._inference()
        own = {(row.model, row.density): row for row in rows if row.format == "sparse-fp32"}
        return ((own[row.model, row.density], row) for row in rows if row.format in ("onnx-fp32", "tflite-fp32"))

    def _inference(self) -> list[InferenceRow]:
        return self.results.rows("inference", InferenceRow)
