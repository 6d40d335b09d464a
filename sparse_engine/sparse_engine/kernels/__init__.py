"""Which kernels a layer runs on, and the timing that decides it."""
