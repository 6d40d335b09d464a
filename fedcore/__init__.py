"""What both sides must agree on: models, sparsity, training, methods, protocol, data sets."""
