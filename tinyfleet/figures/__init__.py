"""The figures that the documents state, computed from the results in docs/benchmarks; see ``page.py``."""
