"""Which run of the protocol a key, a mask or a message belongs to."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Member = Annotated[str, Meta(min_length=1, max_length=64)]
"""A device's name."""


class Exchange(Struct, frozen=True, forbid_unknown_fields=True):
    """One try of one step of one run: its keys are of no other."""

    run: Annotated[str, Meta(min_length=1, max_length=64)]
    step: Annotated[int, Meta(ge=0, le=1 << 32)]
    attempt: Annotated[int, Meta(ge=1, le=1 << 32)] = 1

    def bind(self, purpose: str, *names: str) -> bytes:
        """``purpose`` and ``names`` within this exchange, as bytes that nothing else gives."""
        return msgspec.json.encode(["tinyfleet secure sum", 1, self.run, self.step, self.attempt, purpose, *names])
