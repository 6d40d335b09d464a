"""The program on the gateway: registry, selection, rounds, aggregation, store."""

if __name__ != "tinyfleet.coordinator":  # found by a checkout's root on the path: every module would be there twice
    raise ImportError(f"{__name__} is a part of tinyfleet; import it as tinyfleet.coordinator")
