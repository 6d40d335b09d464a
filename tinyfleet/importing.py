"""A model of others becomes a run's: its graph, its numbers, and the proof that both compute what the file does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.models.onnx_import.importer import Imported, import_onnx

if TYPE_CHECKING:
    from tinyfleet.fedcore.arrays import FloatArray
    from tinyfleet.fedcore.training.engine import Engine

TOLERANCE = 1e-5  # of the largest output
SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """``difference``: the largest between engine and ONNX Runtime on random inputs, of the largest output."""

    imported: Imported
    difference: float
    engine: str


def import_verified(
    path: Path, name: str, input_shape: tuple[int, ...] = (), blocks: tuple[tuple[str, ...], ...] = ()
) -> Verified:
    """Import a file, and compare it with ONNX Runtime.

    Raises ``ConfigError`` for what is not read, and where an output differs by more than ``TOLERANCE``.
    """
    imported = import_onnx(path, name, input_shape, blocks)
    engine = _engine_for(imported)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SAMPLES, *imported.graph.input_shape), dtype=np.float32)
    expected = _run_file(path, imported, x)
    found = _ended(engine.predict(x), imported.ending)
    difference = float(np.abs(found - expected).max() / max(1e-30, np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise ConfigError(
            f"{printable(str(path), 300)}: the imported model differs from ONNX Runtime by {difference:.1e} of its "
            f"largest output, more than {TOLERANCE:.0e}; report the file, this is an error of the importer"
        )
    return Verified(imported, difference, engine.name)


def _engine_for(imported: Imported) -> Engine:
    """The first engine here that knows all of the model's layers, loaded."""
    from tinyfleet.fedcore.training.registry import available, create

    refusal: ConfigError | None = None
    for name in available() or ("auto",):  # where there is none, that one says so
        try:
            engine = create(name)
            engine.load(imported.graph, imported.params, {})
        except ConfigError as error:
            refusal = refusal or error
        else:
            return engine
    assert refusal is not None  # noqa: S101 - nothing was loaded
    raise refusal


def _run_file(path: Path, imported: Imported, x: FloatArray) -> Any:
    """What ONNX Runtime makes of ``x``, (N, C, *spatial)."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("an import is compared with ONNX Runtime: pip install 'tinyfleet[gateway]'") from None
    if imported.channels_last:
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0].name
        size = imported.batch or len(x)
        parts = [np.resize(x[start : start + size], (size, *x.shape[1:])) for start in range(0, len(x), size)]
        outputs = [session.run(None, {given: part})[0] for part in parts]
    except Exception as error:  # noqa: BLE001 - of a library, whatever the file does to it
        raise ConfigError(
            f"{printable(str(path), 300)}: ONNX Runtime does not run it ({printable(str(error), 200)})"
        ) from None
    return np.concatenate(outputs).reshape(-1, imported.graph.classes)[: len(x)]


def _ended(logits: FloatArray, ending: str) -> Any:
    """Logits as the file's last operator leaves them."""
    wide = logits.astype(np.float64)
    if ending == "Sigmoid":
        return 1.0 / (1.0 + np.exp(-wide))
    if not ending:
        return wide
    shifted = wide - wide.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log if ending == "LogSoftmax" else np.exp(log)
