"""One file a format: from a path to data sets, whatever the path holds."""
