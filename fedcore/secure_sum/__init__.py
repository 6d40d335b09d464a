"""Sums of devices' integers of which nobody sees a single term (Bonawitz et al. 2017, Bell et al. 2020)."""
