from __future__ import annotations

import random
from itertools import combinations

import pytest

from tinyfleet.fedcore.secure_sum.shamir import PRIME, combine, split


def test_the_textbook_example():
    """Secret 1234, coefficients 166 and 94, modulo 1613: the example of Wikipedia's article on Shamir's scheme."""
    shares = split(1234, (166, 94), (1, 2, 3, 4, 5), prime=1613)
    assert shares == [1494, 329, 965, 176, 1188]
    for points in combinations((1, 2, 3, 4, 5), 3):
        assert combine({x: shares[x - 1] for x in points}, prime=1613) == 1234


def test_fewer_say_nothing():
    """Of a quadratic over a small field, two shares fit every secret equally often."""
    prime = 31
    seen = dict.fromkeys(range(prime), 0)
    for secret in range(prime):
        for first in range(prime):
            for second in range(prime):
                if split(secret, (first, second), (1, 2), prime=prime) == [5, 17]:
                    seen[secret] += 1
    assert set(seen.values()) == {1}


def test_the_prime_is_one():
    rng = random.Random(1)
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(40):  # Miller and Rabin: a composite passes with 4^-40
        x = pow(rng.randrange(2, PRIME - 1), odd, PRIME)
        assert x in (1, PRIME - 1) or any((x := x * x % PRIME) == PRIME - 1 for _ in range(twos - 1))


@pytest.mark.parametrize("secret", [0, 1, 2**256 - 1])
def test_secrets_of_32_bytes(secret):
    rng = random.Random(2)
    coefficients = [rng.randrange(PRIME) for _ in range(6)]
    points = list(range(1, 13))
    shares = dict(zip(points, split(secret, coefficients, points), strict=True))
    for _ in range(20):
        assert combine({x: shares[x] for x in rng.sample(points, 7)}) == secret
    assert combine({x: shares[x] for x in points[:6]}) != secret
