"""One task from its offer to its acknowledged result."""
