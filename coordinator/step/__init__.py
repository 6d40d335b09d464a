"""One open step: its tasks, its deadline, the offers of it, and the aggregate of its results."""
