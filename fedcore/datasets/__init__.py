"""Data sets, their batches, and how a pool of data is split over devices."""
