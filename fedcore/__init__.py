"""What both sides must agree on: models, sparsity, training, methods, protocol, data sets."""

if __name__ != "tinyfleet.fedcore":  # found by a checkout's root on the path: every module would be there twice
    raise ImportError(f"{__name__} is a part of tinyfleet; import it as tinyfleet.fedcore")
