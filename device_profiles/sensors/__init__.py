"""How a board is doing now: small checks found by name. ``read`` reads them, ``sensor`` is the seam."""
