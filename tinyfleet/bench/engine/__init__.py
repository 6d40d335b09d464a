"""The native sparse engine against dense torch, and its kernels against what the processor can do."""
