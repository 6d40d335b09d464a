"""A worker held to its memory: from outside by a watch, from inside by its own RLIMIT_DATA."""
