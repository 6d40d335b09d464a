"""Kinds of layers: one file of facts a kind, and the table of them all."""
