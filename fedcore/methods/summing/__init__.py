"""What of a method's results is summed, as one vector of integers a device: for secure aggregation."""
