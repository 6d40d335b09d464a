"""Facts of the engine: the supervisor reads them too, so that nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyfleet.fedcore.training.torch.facts import TORCH

if TYPE_CHECKING:
    from tinyfleet.fedcore.training.engine import Engine


def _create(threads: int, kernel_choice: Mapping[str, float]) -> Engine:
    from tinyfleet_example.engine import Reproducible

    return Reproducible(threads)


FACTS = replace(TORCH, name="torch-reproducible", create=_create, automatic=False)
