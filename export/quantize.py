"""Int8 calibration: the range of every layer's output on sample inputs, by running the float model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from export.errors import ExportError
from export.fold import Inference
from export.precision import Int8
from export.runtimes import open_preserving
from export.tflite_writer import write_tflite
from fedcore.arrays import FloatArray
from fedcore.models.graph import Op

BATCH = 64
# These write their input's numbers unchanged, so they must share its scale.
_SHARING = frozenset({Op.MAX_POOL, Op.FLATTEN})


def calibrate(model: Inference, samples: FloatArray) -> Int8:
    """Min and max of every output over ``samples`` (N, C, ...).

    The plain extremes, not a moving average: that clips, with errors several times as large.
    Raises ``ExportError`` without samples or without a TFLite runtime.
    """
    if not len(samples):
        raise ExportError("int8 needs calibration samples; give it some of the public data")
    ranges: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(write_tflite(model))
        runtime = open_preserving(path)
        if runtime is None:
            raise ExportError("int8 needs a TFLite runtime to calibrate with: pip install ai-edge-litert")
        for start in range(0, len(samples), BATCH):
            for name, values in runtime.tensors(samples[start : start + BATCH]).items():
                if not np.isfinite(values).all():
                    raise ExportError(f"{name} is not finite on the calibration samples")
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    sharing = {layer.name: layer.inputs[0] for layer in model.layers if layer.op in _SHARING}
    return Int8(ranges, sharing)
