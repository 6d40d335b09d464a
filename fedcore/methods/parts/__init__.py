"""What methods are made of and none is by itself: local training, aggregates, mask adjustment, selection."""
