"""A run from the queue to its end: the scheduler drives runs, a run its steps, a step its tasks."""
