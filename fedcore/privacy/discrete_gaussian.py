"""Exact samples of the discrete Gaussian (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, algorithms 1 to 3).

Floating-point Gaussian noise is not what its proof is about: the low bits of a sum tell which values can have led
to it (Mironov 2012). Here noise and sums are integers, and every coin that the sampler tosses has exactly its
probability: floating point decides the clear cases, rational arithmetic the others. So samples depend on the
stream alone, and not on the machine's exponential function.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from functools import partial

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, IntArray
from tinyfleet.fedcore.privacy.noise_key import NoiseStream

MOST_DEVIATION = 1 << 48  # of int64 samples: even 64 deviations are far from overflow
_AT_ONCE = 1 << 18  # samples: memory stays small, and in the cache
# Floating point is trusted where it is further from the threshold: its error is below 2^-44 of the probability.
_RELATIVE, _ABSOLUTE = 2.0**-40, 2.0**-62

Exponents = Callable[[int], Fraction]
"""Index -> the exact exponent."""


def discrete_gaussian(deviation: int, count: int, stream: NoiseStream) -> IntArray:
    """``count`` int64 samples with P(y) proportional to exp(-y^2 / (2 deviation^2)).

    Raises ``ValueError`` for a deviation outside 1 to ``MOST_DEVIATION``.
    """
    if not 1 <= deviation <= MOST_DEVIATION:
        raise ValueError(f"deviation {deviation} is not in 1..{MOST_DEVIATION}")
    found = np.empty(count, np.int64)
    for start in range(0, count, _AT_ONCE):
        part = found[start : start + _AT_ONCE]
        missing = np.arange(len(part))
        while len(missing):
            drawn = _tried(deviation, len(missing), stream)
            accepted = ~np.isnan(drawn[1])
            part[missing[accepted]] = drawn[0][accepted]
            missing = missing[~accepted]
    return found


def _tried(deviation: int, count: int, stream: NoiseStream) -> tuple[IntArray, AnyArray]:
    """One try a sample (algorithm 3 with t = deviation): values, and NaN where the try failed."""
    values, laplace = _laplace(deviation, count, stream)
    where = np.flatnonzero(laplace)
    size = np.abs(values[where])
    ratio = (size - deviation) / float(deviation)

    def exponent(index: int) -> Fraction:
        return Fraction((int(size[index]) - deviation) ** 2, 2 * deviation**2)

    marks = np.full(count, np.nan)
    marks[where[toss(stream, 0.5 * np.square(ratio), exponent)]] = 0.0
    return values, marks


def _laplace(scale: int, count: int, stream: NoiseStream) -> tuple[IntArray, AnyArray]:
    """One try a sample of P(y) proportional to exp(-|y| / scale) (algorithm 2); True where it succeeded."""
    bits = max(1, (scale - 1).bit_length())
    rest = (stream.words(count) >> np.uint64(64 - bits)).astype(np.int64)
    inside = np.flatnonzero(rest < scale)
    kept = rest[inside]
    inside = inside[toss(stream, kept / float(scale), lambda index: Fraction(int(kept[index]), scale))]
    whole = np.zeros(count, np.int64)
    going = inside
    while len(going):
        going = going[toss(stream, np.ones(len(going)), lambda index: Fraction(1))]
        whole[going] += 1
    values = rest + scale * whole
    negative = (stream.words(count) & np.uint64(1)).astype(np.bool_)
    succeeded = np.zeros(count, np.bool_)
    succeeded[inside] = True
    succeeded &= ~(negative & (values == 0))  # else zero would come twice as often
    return np.where(negative, -values, values), succeeded


def toss(stream: NoiseStream, exponents: AnyArray, exact: Exponents) -> AnyArray:
    """True with probability exp(-x) exactly, where float64 ``exponents`` from 0 up are near the ``exact`` x."""
    words = stream.words(len(exponents))
    call = stream.calls
    probability, uniform = np.exp(-exponents), words.astype(np.float64) * 2.0**-64
    margin = probability * _RELATIVE + _ABSOLUTE
    heads: AnyArray = uniform < probability
    for index in np.flatnonzero(np.abs(uniform - probability) <= margin).tolist():
        heads[index] = decided(int(words[index]), exact(index), partial(stream.more_bits, call, index))
    return heads


def decided(word: int, exponent: Fraction, more_bits: Callable[[int], int]) -> bool:
    """Whether the uniform number that begins with the 64 bits of ``word`` is below exp(-exponent).

    ``more_bits(count)`` tells the bits that follow; as many are asked for as decide it.
    """
    if not exponent:
        return True
    figures = len(str(int(exponent)))
    extra = 64
    while True:
        count = 64 + extra
        low = (word << extra) | more_bits(extra)
        # In so many digits x is off by 10^(figures - digits) at most, and exp(-x) by a few times that.
        digits = count // 3 + 20 + figures
        context = Context(prec=digits)
        x = context.divide(Decimal(exponent.numerator), Decimal(exponent.denominator))
        threshold = Fraction(context.exp(-x)) * 2**count
        error = Fraction(2**count, 10 ** (digits - figures - 4))
        if low + 1 <= threshold - error:
            return True
        if low >= threshold + error:
            return False
        extra += 64
