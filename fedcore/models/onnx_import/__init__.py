"""Reads models that others saved as ONNX. On the gateway alone: a board needs neither this nor ``onnx``."""
