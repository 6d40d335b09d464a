"""Files of the native engine. It may be missing, so that nothing of it is imported before a file is written."""

from __future__ import annotations

from typing import Literal

from tinyfleet.export.formats import limits
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.formats.limits import FormatLimits
from tinyfleet.export.inference_graph import Inference
from tinyfleet.export.runtimes import open_sparse
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.training.native.facts import NATIVE


def _missing() -> str:
    fault = NATIVE.fault()
    return f"the native engine {fault}: {NATIVE.install}" if fault else ""


def _density(content: bytes, graph: Graph) -> float:
    from tinyfleet.export.formats.sparse_writer import measured_density

    return measured_density(content, graph)


def _multiply_adds(model: Inference) -> int:
    from tinyfleet.export.formats.sparse_writer import multiply_adds

    return multiply_adds(model)


def _at(precision: Literal["fp32", "fp16"], least: FormatLimits) -> ExportFormat:
    def write(export: Export) -> bytes:
        from tinyfleet.export.formats.sparse_writer import write_sparse

        return write_sparse(export.model, precision, export.metadata)

    return ExportFormat(
        "sparse", precision, "tfse", "channels first", least, write, open_sparse, _missing, _density, _multiply_adds
    )


FP32 = _at("fp32", limits.FP32)
FP16 = _at("fp16", limits.FP16)
