"""A training step or a prediction as a straight line of operations on an arena."""
