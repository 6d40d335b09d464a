"""TFLite at each of its precisions, as formats."""

from __future__ import annotations

from tinyfleet.export.formats import limits
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.formats.limits import FormatLimits
from tinyfleet.export.formats.tflite.precision import Float, Precision
from tinyfleet.export.formats.tflite.quantize import calibrate
from tinyfleet.export.formats.tflite.writer import write_tflite
from tinyfleet.export.runtimes import open_tflite


def _precision(export: Export, name: str) -> Precision:
    if name == "int8":
        return calibrate(export.model, export.calibration)
    return Float(half=name == "fp16")


def _at(precision: str, least: FormatLimits) -> ExportFormat:
    def write(export: Export) -> bytes:
        return write_tflite(export.model, _precision(export, precision))

    return ExportFormat("tflite", precision, "tflite", "channels last", least, write, open_tflite)


FP32 = _at("fp32", limits.FP32)
FP16 = _at("fp16", limits.FP16)
INT8 = _at("int8", limits.INT8)
