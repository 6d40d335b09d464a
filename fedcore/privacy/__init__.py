"""Differential privacy of a device's data: clipped updates, exact noise, what may not be combined with it."""
