"""TFLite files: float32, float16 weights, or integers throughout."""
