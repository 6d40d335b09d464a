"""Write a trained model in several formats, run every file in its own runtimes, and tell what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from tinyfleet.export.compact import compact as compacted
from tinyfleet.export.compact import multiply_adds
from tinyfleet.export.errors import ExportError
from tinyfleet.export.inference_graph import Inference, fold
from tinyfleet.export.onnx_writer import measured_density, metadata_of, write_onnx
from tinyfleet.export.precision import Float
from tinyfleet.export.quantize import calibrate
from tinyfleet.export.runtimes import Runtime, open_all
from tinyfleet.export.tflite_writer import write_tflite
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.sparsity.mask import density
from tinyfleet.fedcore.training.native.facts import NATIVE

FORMATS = ("onnx-fp32", "tflite-fp32", "tflite-fp16", "tflite-int8", "sparse-fp32", "sparse-fp16")
SUFFIXES = {"sparse": "tfse"}  # of kinds that are not their file's suffix
# Largest relative error of the logits, and smallest share of equal decisions, that pass.
MOST_ERROR = {"fp32": 1e-4, "fp16": 5e-3}
LEAST_AGREEMENT = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One file in one runtime, on held-out data. ``max_rel_error`` is max |a - b| / max |b| over the logits."""

    format: str
    precision: str
    path: str
    file_bytes: int
    max_rel_error: float
    argmax_agreement: float
    accuracy: float
    latency_ms: float  # batch 1, one thread
    runtime: str
    density: float | None = None  # nonzero share of the maskable weights, read from the file (not from TFLite)
    multiply_adds: int | None = None  # of one sample, as the file's runtime counts them: zeros too, but not sparse


def export_model(
    graph: Graph,
    params: Params,
    mask: Mask,
    directory: Path,
    *,
    formats: Sequence[str] | None = None,
    calibration: FloatArray,
    x: FloatArray,
    y: IntArray,
    reference: Callable[[FloatArray], FloatArray],
    normalization: Mapping[str, object] | None = None,
    compact: bool = True,
) -> list[ExportRow]:
    """Write ``formats`` (all that can be written here) into ``directory``; verify each file in every runtime here.

    ``compact``: without the channels that do nothing, so that the files are smaller and faster.

    ``x`` (N, C, ...) float32 and ``y`` are held-out data, ``reference`` gives the trained model's
    logits, ``calibration`` sets int8 ranges. Also writes ``export.json``: files with their SHA-256.
    A file without a runtime here has no row, and stands in the manifest as unverified.
    Raises ``ExportError`` for a format that is unknown or cannot be written here, a layer that cannot be written,
    or no held-out data.
    """
    if not len(x):
        raise ExportError("there are no held-out samples to verify the files with; give test data")
    model = fold(graph, params, mask)
    if compact:
        model = compacted(model)
    directory.mkdir(parents=True, exist_ok=True)
    expected = reference(x)
    rows: list[ExportRow] = []
    paths: list[Path] = []
    chosen = [name for name in FORMATS if name not in missing_formats()] if formats is None else formats
    for kind, precision in [_parse(name) for name in chosen]:
        path = directory / f"{graph.name}-{precision}.{SUFFIXES.get(kind, kind)}"
        write_atomic(path, _content(graph, model, kind, precision, mask, calibration, normalization))
        paths.append(path)
        share, operations = _measured(path, kind, graph, model)
        found = [_row(path, kind, precision, share, runtime, x, y, expected) for runtime in open_all(path)]
        rows += [replace(row, multiply_adds=operations) for row in found]
    _write_manifest(graph, directory, paths, rows, normalization)
    return rows


def missing_formats() -> dict[str, str]:
    """Formats that cannot be written here, and why."""
    fault = NATIVE.fault()
    return {name: f"the native engine {fault}: {NATIVE.install}" for name in FORMATS if fault and "sparse" in name}


def check(rows: Sequence[ExportRow]) -> None:
    """Raise ``ExportError`` naming the first file that does not compute what the model does."""
    for row in rows:
        error, agreement = MOST_ERROR.get(row.precision, np.inf), LEAST_AGREEMENT[row.precision]
        # Asked this way round, logits that are not numbers fail too: NaN compares as false.
        finite = np.isfinite(row.max_rel_error)
        if not (finite and row.max_rel_error <= error and row.argmax_agreement >= agreement):
            raise ExportError(
                f"{row.path} in {row.runtime}: error {row.max_rel_error:.2g}, agreement "
                f"{row.argmax_agreement:.1%} with the trained model; do not deploy it"
            )


def _parse(name: str) -> tuple[str, str]:
    kind, _, precision = name.partition("-")
    if name not in FORMATS:
        raise ExportError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
    if name in missing_formats():
        raise ExportError(f"format {name!r} cannot be written: {missing_formats()[name]}")
    return kind, precision


def _content(
    graph: Graph,
    model: Inference,
    kind: str,
    precision: str,
    mask: Mask,
    calibration: FloatArray,
    normalization: Mapping[str, object] | None,
) -> bytes:
    metadata = metadata_of(graph, density(mask), normalization)
    if kind == "onnx":
        return write_onnx(model, metadata)
    if kind == "sparse":
        from tinyfleet.export.sparse_writer import write_sparse

        return write_sparse(model, "fp16" if precision == "fp16" else "fp32", metadata)
    if precision == "int8":
        return write_tflite(model, calibrate(model, calibration))
    return write_tflite(model, Float(half=precision == "fp16"))


def _measured(path: Path, kind: str, graph: Graph, model: Inference) -> tuple[float | None, int]:
    """(density of a file, multiply-adds of its runtime)."""
    if kind == "sparse":
        from tinyfleet.export import sparse_writer

        return sparse_writer.measured_density(path.read_bytes(), graph), sparse_writer.multiply_adds(model)
    return measured_density(path, graph) if kind == "onnx" else None, multiply_adds(model)


def _row(
    path: Path,
    kind: str,
    precision: str,
    share: float | None,
    runtime: Runtime,
    x: FloatArray,
    y: IntArray,
    expected: FloatArray,
) -> ExportRow:
    logits = runtime.run(x)
    decided = logits.argmax(1)
    return ExportRow(
        format=kind,
        precision=precision,
        path=str(path),
        file_bytes=path.stat().st_size,
        max_rel_error=float(np.abs(logits - expected).max() / max(float(np.abs(expected).max()), 1e-12)),
        argmax_agreement=float((decided == expected.argmax(1)).mean()),
        accuracy=float((decided == y).mean()),
        latency_ms=runtime.latency_ms(x[:1]),
        runtime=runtime.name,
        density=share,
    )


def _write_manifest(
    graph: Graph,
    directory: Path,
    paths: Sequence[Path],
    rows: Sequence[ExportRow],
    normalization: Mapping[str, object] | None,
) -> None:
    """``export.json`` beside the files: what they are, and their hashes."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(set(paths))}
    verified = {Path(row.path) for row in rows}
    manifest = {
        "model": graph.name,
        "input_shape": graph.input_shape,
        "input_layout": {"onnx": "channels first", "sparse": "channels first", "tflite": "channels last"},
        "classes": graph.classes,
        "normalization": normalization,
        "sha256": files,
        "unverified": [path.name for path in sorted(set(paths)) if path not in verified],
        "verified": [asdict(row) | {"path": Path(row.path).name} for row in rows],
    }
    write_atomic(directory / "export.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
