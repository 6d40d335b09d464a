"""Write a trained model in several formats, run every file in its own runtimes, and tell what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from tinyfleet.export.compact import compact as compacted
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.formats.table import FORMATS, chosen_formats
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.metadata import metadata_of
from tinyfleet.export.verify import ExportRow, HeldOut, verify
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.sparsity.mask import density


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
    model = merge(graph, params, mask)
    if compact:
        model = compacted(model)
    directory.mkdir(parents=True, exist_ok=True)
    export = Export(model, metadata_of(graph, density(mask), normalization), calibration)
    data = HeldOut(x, y, reference(x))
    rows: list[ExportRow] = []
    paths: list[Path] = []
    chosen = chosen_formats(formats)
    for each in chosen:
        path = directory / each.file_name(graph.name)
        write_atomic(path, each.write(export))
        paths.append(path)
        rows += verify(path, each, graph, model, data)
    _write_manifest(graph, directory, chosen, paths, rows, normalization)
    return rows


def _write_manifest(
    graph: Graph,
    directory: Path,
    formats: Sequence[ExportFormat],
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
        "input_layout": {each.kind: each.layout for each in (*FORMATS.values(), *formats)},
        "classes": graph.classes,
        "normalization": normalization,
        "sha256": files,
        "unverified": [path.name for path in sorted(set(paths)) if path not in verified],
        "verified": [asdict(row) | {"path": Path(row.path).name} for row in rows],
    }
    write_atomic(directory / "export.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
