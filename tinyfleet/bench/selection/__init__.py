"""Capability-aware against uniform random selection, in a fleet whose clock is a model."""
