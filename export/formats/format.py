"""What an export format is: how its files are written, where they run, and how close they have to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.export.compact import multiply_adds
from tinyfleet.export.formats.limits import FormatLimits
from tinyfleet.export.inference_graph import Inference
from tinyfleet.export.runtimes import Runtime
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import Graph


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """What is to be written: the model, what its file says of itself, and samples (N, C, ...) for int8 ranges."""

    model: Inference
    metadata: Mapping[str, str]
    calibration: FloatArray


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """One format at one precision. No two formats may have both suffix and precision in common."""

    kind: str  # "onnx": what the files are
    precision: str  # "fp32": of their weights
    suffix: str  # of the files, without the dot
    layout: str  # of the input: "channels first" or "channels last"
    limits: FormatLimits
    write: Callable[[Export], bytes]  # raises ``ExportError``
    open: Callable[[Path], Iterator[Runtime]]  # a file in every runtime that is here
    missing: Callable[[], str] = _nothing  # why it cannot be written here, with the remedy; "" where it can
    # Share of the graph's maskable weights that a file holds, counted in its content; None: it cannot be told.
    density: Callable[[bytes, Graph], float] | None = None
    multiply_adds: Callable[[Inference], int] = multiply_adds  # of one sample, as the files' runtimes count them

    @property
    def name(self) -> str:
        """As it is asked for: ``onnx-fp32``."""
        return f"{self.kind}-{self.precision}"

    def file_name(self, model: str) -> str:
        return f"{model}-{self.precision}.{self.suffix}"
