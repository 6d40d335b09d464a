"""Int8 calibration: the range of every layer's output on sample inputs, by running the float model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.tflite.precision import MOST_BIAS_STEPS, Int8
from tinyfleet.export.formats.tflite.writer import operator_of, write_tflite
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.export.runtimes import open_preserving
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.layers.table import kind_of, known

BATCH = 64
# XNNPACK wants (input scale x weight scale) / output scale under 2^8.
MOST_RATIO = 2.0**7


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
    ranges |= {layer.name: fixed for layer in model.layers if (fixed := operator_of(layer).fixed) is not None}
    sharing = {layer.name: layer.inputs[0] for layer in model.layers if _selects(layer)}
    widen(model, ranges, sharing)
    return Int8(ranges, sharing)


def widen(model: Inference, ranges: dict[str, tuple[float, float]], sharing: Mapping[str, str]) -> None:
    """Raise output scales that are too small beside what their layer computes with: XNNPACK refuses such files.

    A ReLU that let nothing pass on the samples has no range at all, though its layer has weights.
    What a scale is raised to is still finer than the steps of the layer's products.
    """
    precision = Int8(ranges, sharing)
    fused = {layer.inputs[0]: layer.name for layer in model.layers if operator_of(layer).fused}
    for layer in model.layers:
        if layer.weight is None or layer.bias is None:
            continue
        # Where the writer fuses an activation, only the activation's output exists.
        output = layer.name if layer.name in ranges else fused[layer.name]
        source_scale = float(precision.quantization(layer.inputs[0]).scale)
        steps = source_scale * float(np.abs(layer.weight).max()) / 127.0
        bias_steps = float(np.abs(layer.bias).max()) / MOST_BIAS_STEPS
        least = max(steps, bias_steps) / MOST_RATIO
        if float(precision.quantization(output).scale) < least:
            low, high = min(ranges[output][0], 0.0), max(ranges[output][1], 0.0)
            ranges[output] = (low, max(high, low + 255.0 * least))


def _selects(layer: Layer) -> bool:
    """Whether it writes its input's numbers unchanged, so that it must share their scale."""
    return known(kind_of(layer.node).selects, layer.node, "int8 calibration", "leave int8 out")
