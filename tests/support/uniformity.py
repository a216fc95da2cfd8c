"""Tests that tell bytes from uniformly random ones, and randomness that comes again, so that they have one outcome."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

LEVEL = 1e-3


class Bytes:
    """Bytes that follow from a seed, in place of the operating system's."""

    def __init__(self, seed: int) -> None:
        self._start, self._drawn = b"%d" % seed, 0

    def __call__(self, count: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(self._start + b"/%d" % self._drawn).digest(count)

    def below(self, most: int) -> int:
        return int.from_bytes(self(48), "big") % most

    def key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self(32))


@contextmanager
def repeatable(monkeypatch: pytest.MonkeyPatch, seed: int) -> Iterator[None]:
    """Every secret of the block follows from the seed."""
    drawn = Bytes(seed)
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", drawn)
        patch.setattr(secrets, "randbelow", drawn.below)
        patch.setattr(X25519PrivateKey, "generate", drawn.key)
        yield


def uniform_p(view: bytes) -> float:
    """Pearson's chi-squared of the 256 values of a byte."""
    return float(stats.chisquare(np.bincount(np.frombuffer(view, np.uint8), minlength=256)).pvalue)


def serial_p(view: bytes, lag: int) -> float:
    """Whether bytes at this distance are correlated."""
    values = np.frombuffer(view, np.uint8).astype(float)
    return correlation_p(values[:-lag], values[lag:])


def correlation_p(first: np.ndarray, second: np.ndarray) -> float:
    """The normal approximation of the p-value of Pearson's correlation; constant values count as correlated."""
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(2 * stats.norm.sf(abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(len(first))))


def same_p(first: bytes, second: bytes) -> float:
    """Whether two views have bytes of one distribution: chi-squared of their contingency table."""
    counts = np.stack([np.bincount(np.frombuffer(view, np.uint8), minlength=256) for view in (first, second)])
    counts = counts[:, counts.any(axis=0)]
    return float(stats.chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else float(first == second)


def rejected(view: bytes, secret: np.ndarray | None = None) -> bool:
    """Whether a view is told from uniformly random bytes, or has to do with the secret, entry by entry."""
    found = [uniform_p(view), serial_p(view, 1), serial_p(view, 4)]
    if secret is not None:
        found.append(correlation_p(np.frombuffer(view, np.uint32).astype(float), secret.astype(float)))
    return min(found) < LEVEL
