"""Methods against each other: accuracy, bytes, FLOPs and memory over densities, data sets and seeds."""
