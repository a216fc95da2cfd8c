"""Shamir's secret sharing: a secret in n shares, of which any `threshold` give it back and fewer say nothing.

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)  mod p,    share of holder x = f(x), x = 1..n,    secret = f(0)

With t - 1 shares every secret is as likely as before, whatever computer one has. A wrong share would give a wrong
secret without notice, so each share and the secret have a commitment, a hash by which whoever puts them together checks
them.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping
from functools import lru_cache

from fedrl.core.errors import SecureSumError, TooFewAgentsError

PRIME = 2**256 - 189
"""The largest prime with 256 bits: a share has as many bytes as a secret."""
SECRET_BYTES = 32


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Return the shares of a secret for the points 1 to `count`.

    Args:
        secret: 32 bytes, read as a big-endian number below `PRIME`; a random one is with probability 1 - 2^-248.
        threshold: How many shares give the secret back.
        count: How many shares there are.

    Raises:
        ValueError: No sharing has these numbers, or the secret is no element of the field.

    >>> shares = split(bytes(31) + b"7", threshold=2, count=3)
    >>> joined({1: shares[0], 3: shares[2]}, threshold=2)[-1:]
    b'7'
    """
    number = int.from_bytes(secret, "big")
    if not 1 <= threshold <= count < PRIME or len(secret) != SECRET_BYTES or number >= PRIME:
        raise ValueError(
            f"A secret of {len(secret)} bytes can't be split into {count} shares with the threshold {threshold}. It "
            f"has to have {SECRET_BYTES} bytes and be below 2^256 - 189, with 1 <= threshold <= shares."
        )
    coefficients = [number, *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_polynomial(coefficients, point).to_bytes(SECRET_BYTES, "big") for point in range(1, count + 1)]


def _polynomial(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


def joined(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of shares, by Lagrange interpolation at zero.

    It is the secret that was split only if all shares are right: compare it with its commitment.

    Args:
        shares: Shares by point; the first `threshold` of them in order of their points are used.
        threshold: The threshold with which the secret was split.

    Raises:
        TooFewAgentsError: There are fewer shares than the threshold.
        SecureSumError: A share is no element of the field.
    """
    if len(shares) < threshold:
        raise TooFewAgentsError(
            f"{len(shares)} shares of a secret came, and {threshold} are needed: too many of their holders left."
        )
    points = tuple(sorted(shares)[:threshold])
    values = [int.from_bytes(shares[point], "big") for point in points]
    if any(len(shares[point]) != SECRET_BYTES for point in points) or max(values) >= PRIME:
        raise SecureSumError("A share is no number below 2^256 - 189 in 32 bytes: its holder or its owner made it up.")
    total = sum(value * weight for value, weight in zip(values, _weights(points), strict=True)) % PRIME
    return total.to_bytes(SECRET_BYTES, "big")


@lru_cache(maxsize=4096)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Return the factors of the shares at these points: prod over others of x_j / (x_j - x_i), modulo the prime."""
    product = math.prod(points)
    # Points are small numbers, so products of their differences are, too, and one inverse serves all factors.
    divisors = [point * math.prod(other - point for other in points if other != point) for point in points]
    common = math.lcm(*divisors)
    inverse = pow(common, -1, PRIME) * product
    return tuple(common // divisor * inverse % PRIME for divisor in divisors)


def commitment(secret: bytes, purpose: bytes) -> bytes:
    """Return a hash that fixes 32 random bytes without revealing them.

    Args:
        secret: A random secret, or a share of one.
        purpose: Whose secret it is, in which sum: the same bytes elsewhere have another hash.

    >>> commitment(bytes(32), b"a") == commitment(bytes(32), b"b")
    False
    """
    return hashlib.sha256(b"fedrl commitment" + len(purpose).to_bytes(4, "big") + purpose + secret).digest()
