"""Model files: their bytes, checked before they are believed."""
