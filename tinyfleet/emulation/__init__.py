"""A board's memory and speed on this machine."""
