"""Secrets in shares, any ``threshold`` of which give it back and fewer say nothing (Shamir 1979).

Python's integers take a time that depends on their values: whoever can measure a device's processor to the
microsecond is outside of what this protects against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297  # the least above 256 bits
SECRET_BYTES = 32
SHARE_BYTES = 33
COEFFICIENT_BYTES = 48  # reduced modulo the prime: 2^-127 from uniform


def split(secret: int, coefficients: Sequence[int], points: Sequence[int], prime: int = PRIME) -> list[int]:
    """The polynomial ``secret + coefficients[0] x + ...`` at ``points``, none of which may be 0."""
    shares = []
    for x in points:
        y = 0
        for coefficient in reversed((secret, *coefficients)):
            y = (y * x + coefficient) % prime
        shares.append(y)
    return shares


def combine(shares: Mapping[int, int], prime: int = PRIME) -> int:
    """The polynomial at 0, of its values at as many points as it has coefficients."""
    points = tuple(sorted(shares))
    return sum(shares[x] * factor for x, factor in zip(points, _at_zero(points, prime), strict=True)) % prime


@lru_cache(maxsize=256)
def _at_zero(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Lagrange's factors of the values at ``points``."""
    factors = []
    for x in points:
        above = below = 1
        for other in points:
            if other != x:
                above = above * other % prime
                below = below * (other - x) % prime
        factors.append(above * pow(below, -1, prime) % prime)
    return tuple(factors)
