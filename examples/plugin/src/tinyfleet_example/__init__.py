"""One of each that a distribution can add to tinyfleet."""
