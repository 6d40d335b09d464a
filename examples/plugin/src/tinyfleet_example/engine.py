"""torch on one thread with algorithms that give the same bits every time, whatever the board's number of cores."""

from __future__ import annotations

import torch

from tinyfleet.fedcore.training.torch.engine import TorchEngine


class Reproducible(TorchEngine):
    """Slower, for runs that are to be repeated bit by bit on other boards of one kind."""

    name = "torch-reproducible"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads=1)
        torch.use_deterministic_algorithms(True)
