"""Trained sparse model -> ONNX and TFLite files, verified in their own runtimes."""

if __name__ != "tinyfleet.export":  # found by a checkout's root on the path: every module would be there twice
    raise ImportError(f"{__name__} is a part of tinyfleet; import it as tinyfleet.export")
