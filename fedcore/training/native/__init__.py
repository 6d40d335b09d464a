"""The native engine, behind the same seam."""
