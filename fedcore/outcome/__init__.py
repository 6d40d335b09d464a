"""Which of a run's states is its result: the last, the best on validation data, or the mean of the last rounds."""
