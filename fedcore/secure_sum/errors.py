"""Errors of a secure sum.

SecureSumError        a message does not fit its exchange
├── TooFewSurvivors   fewer devices are left than the masks of the lost ones take
├── TamperedShares    no shares that came give the secret that was announced
└── OutOfReach        a term is larger than the sum's ring was laid out for
"""

from __future__ import annotations

from tinyfleet.fedcore.errors import TinyfleetError


class SecureSumError(TinyfleetError):
    """A message of a secure sum has the wrong members, sizes or order; nothing was revealed for it."""


class TooFewSurvivors(SecureSumError):
    """The step has to be repeated with fresh keys: what came cannot be unmasked."""


class TamperedShares(SecureSumError):
    """A device handed out, or handed back, shares that are none of the secret that was announced."""


class OutOfReach(SecureSumError):
    """The exchange has to be repeated with wider segments of these ``names``; nothing was sent in this one."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names
