"""The engine seam and its engines."""
