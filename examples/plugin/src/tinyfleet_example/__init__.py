"""One of each that a distribution can add to tinyfleet: method, model, reader, export format, sensor, board."""
