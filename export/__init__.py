"""Trained sparse model -> ONNX and TFLite files, verified in their own runtimes."""
