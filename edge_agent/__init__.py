"""The program on the board: a tiny supervisor, and a worker process that trains under limits."""

if __name__ != "tinyfleet.edge_agent":  # found by a checkout's root on the path: every module would be there twice
    raise ImportError(f"{__name__} is a part of tinyfleet; import it as tinyfleet.edge_agent")
