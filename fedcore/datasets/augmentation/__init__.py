"""Random changes of a device's own batches, drawn from its task's seed: the same live and simulated."""
