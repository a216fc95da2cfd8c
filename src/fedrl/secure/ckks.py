"""Encryption of integers that can be added without the key: CKKS in SEAL, by TenSEAL's binding `tenseal.sealapi`.

    agent:    numbers --two a slot, times 2^20--> polynomial --secret key--> ciphertext      7.6 bytes a number
    adder:    ciphertext + ciphertext                                          no key, public parameters alone
    agent:    sum --secret key--> polynomial --slots, divided by 2^20--> numbers + noise --rounded--> integers

CKKS adds noise to what it encrypts; here the sum is an integer, and the noise of up to 2^14 ciphertexts stays below a
quarter of a unit except with a probability of 2^-128 a number. So rounding gives the sum exactly.

Why not `tenseal.ckks_vector`: it encrypts with the public key, one number a slot, and sends both polynomials of a
ciphertext: four times the bytes and eight times the noise. Whoever holds the secret key may encrypt with it, and sends
the seed of the second polynomial instead of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.core.errors import ConfigError, SecureSumError
from fedrl.secure.extra import check_tenseal
from fedrl.transport.private_files import read_key, write_private

DEGREE = 4096
"""Coefficients of a polynomial, which holds as many numbers: two in each of 2,048 complex slots."""
MODULUS_BITS = 54
"""With 58 bits or fewer at this degree the key is as hard to find as one of 256 bits (HomomorphicEncryption.org, 2018).

A sum of 31 bits and a sign, times 2^20, in a complex number of two of them, is below 2^51.5: half the modulus is 2^53.
"""
SCALE = 2.0**20
NOISE_VARIANCE = 10.5 + 0.25
"""Of a coefficient of a new ciphertext: SEAL's centred binomial noise of 42 coins, and rounding to an integer."""
MOST_AGENTS = 2**14
"""For which a quarter of a unit is enough for the noise: `chance_of_noise`."""
VECTOR_BYTES, SUM_BYTES = 31_200, 62_000
"""Of a ciphertext with a seed, and of a sum. SEAL needs 215 and 278 fewer, give or take 14; zeros follow."""


def chance_of_noise(agents: int, units: float) -> float:
    """Return a bound of the probability that the noise in one number of a sum exceeds so many units.

        2 exp(-(2^20 units)^2 / (N agents v)),    v the variance of a coefficient: noise is sub-Gaussian

    >>> chance_of_noise(MOST_AGENTS, 0.25) < 2.0**-128
    True
    """
    return 2.0 * math.exp(-((SCALE * units) ** 2) / (DEGREE * agents * NOISE_VARIANCE))


class EncryptionKey:
    """The secret key that all agents share and the coordinator must not have: it decrypts every vector.

    Args:
        content: The key, as `EncryptionKey.content` has it.

    Raises:
        ConfigError: These bytes are no key, or the package of the extra `he` is missing.

    >>> key = new_encryption_key()
    >>> total = added([], encrypted(key, np.array([3, -5], np.int32)), size=2)
    >>> np.rint(decrypted(key, serialised(total), size=2)).tolist()
    [3.0, -5.0]
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        seal, context = _seal(), _context()
        key = seal.SecretKey()
        with _private_file() as file:
            file.write_bytes(content)
            try:
                key.load(context, str(file))
            except (RuntimeError, ValueError) as fault:
                raise ConfigError(
                    f"{len(content)} bytes are no key of encrypted sums ({fault}). Make one with new_encryption_key()."
                ) from None
        self.encryptor = seal.Encryptor(context, key)
        self.decryptor = seal.Decryptor(context, key)

    @property
    def fingerprint(self) -> bytes:
        """32 bytes by which agents see that they have the same key; they say nothing about it."""
        return hashlib.sha256(b"fedrl key of encrypted sums" + self.content).digest()

    def __repr__(self) -> str:
        return "EncryptionKey(...)"  # never the key

    def write(self, path: Path) -> None:
        """Write the key to a file of mode 0600."""
        write_private(path, self.content)

    @staticmethod
    def read(path: Path) -> EncryptionKey:
        """Return the key in a file, which its owner alone may read.

        Raises:
            ConfigError: It is missing, others may read it, or it is no key.
        """
        return EncryptionKey(read_key(path))


def new_encryption_key() -> EncryptionKey:
    """Return a key that one agent makes and gives to the others, past the coordinator."""
    key = _seal().KeyGenerator(_context()).secret_key()
    with _private_file() as file:
        key.save(str(file))
        return EncryptionKey(file.read_bytes())


def make_key_file(path: Path) -> None:
    """Make a key in a file of mode 0600, which did not exist.

    Raises:
        ConfigError: There is a file, it can't be written, or the package of the extra `he` is missing.
    """
    if os.path.lexists(path):  # also a link to nothing; and False where `exists` raises, as for a name that is too long
        raise ConfigError(
            f"{path} exists. Agents with another key could not open sums with those that have it. Remove the file "
            "first if no site uses it, or name another one."
        )
    new_encryption_key().write(path)


def encrypted(key: EncryptionKey, values: np.ndarray) -> bytes:
    """Return the ciphertexts of a vector of int32, one after the other."""
    seal = _seal()
    encoder, plain = seal.CKKSEncoder(_context()), seal.Plaintext()
    numbers = np.zeros((ciphertexts_of(values.size), 2, DEGREE // 2))
    numbers.reshape(-1)[: values.size] = values
    found = []
    with _private_file() as file:
        for real, imaginary in numbers:
            encoder.encode((real + 1j * imaginary).tolist(), SCALE, plain)
            # What `encrypt_symmetric` returns, other than what it fills in, is saved with a seed for one polynomial.
            found.append(_saved(key.encryptor.encrypt_symmetric(plain), file, VECTOR_BYTES))
    return b"".join(found)


def added(total: Sequence[Any], content: bytes, size: int) -> list[Any]:
    """Return the ciphertexts of a sum and of one more vector; those of the vector if there is no sum yet.

    Args:
        total: Ciphertexts of the sum so far, which stays as it is.
        content: Ciphertexts of the vector.
        size: Entries of the vector.

    Raises:
        SecureSumError: The bytes are no ciphertexts with these parameters, or of another size.
    """
    terms = _ciphertexts(content, size, VECTOR_BYTES)
    if not total:
        return terms
    seal, found = _seal(), []
    evaluator = seal.Evaluator(_context())
    for one, other in zip(total, terms, strict=True):
        both = seal.Ciphertext()
        try:
            evaluator.add(one, other, both)
        except (RuntimeError, ValueError) as fault:
            raise SecureSumError(f"A ciphertext can't be added to the others ({fault}).") from None
        found.append(both)
    return found


def serialised(total: Sequence[Any]) -> bytes:
    """Return the ciphertexts of a sum as bytes."""
    with _private_file() as file:
        return b"".join(_saved(each, file, SUM_BYTES) for each in total)


def decrypted(key: EncryptionKey, content: bytes, size: int) -> np.ndarray:
    """Return what was encrypted, with the noise of the encryption, float64 `[size]`.

    Noise gives the key away little by little: round the numbers before anybody else gets them.

    Raises:
        SecureSumError: The bytes are no ciphertexts with these parameters, or of another size.
    """
    seal = _seal()
    encoder, plain, found = seal.CKKSEncoder(_context()), seal.Plaintext(), []
    for each in _ciphertexts(content, size, SUM_BYTES):
        key.decryptor.decrypt(each, plain)
        slots = np.array(encoder.decode_complex(plain))
        found += [slots.real, slots.imag]
    return np.concatenate(found)[:size]


def ciphertexts_of(size: int) -> int:
    """Return how many ciphertexts a vector takes."""
    return -(-size // DEGREE)


def _saved(ciphertext: Any, file: Path, size_bytes: int) -> bytes:
    """Return the bytes of a ciphertext, with zeros up to a size that all have."""
    ciphertext.save(str(file))
    content = file.read_bytes()
    if len(content) > size_bytes:
        raise ConfigError(
            f"SEAL made {len(content)} bytes of a ciphertext, and {size_bytes} are enough where it compresses with "
            "Zstandard. Install tenseal as it is on PyPI."
        )
    return content.ljust(size_bytes, b"\0")


def _ciphertexts(content: bytes, size: int, size_bytes: int) -> list[Any]:
    """Return the ciphertexts of a vector, checked as far as somebody without the key can."""
    seal, context, found = _seal(), _context(), []
    expected = ciphertexts_of(size) * size_bytes
    if len(content) != expected:
        raise SecureSumError(f"{len(content)} bytes are no ciphertexts of {size} entries, which have {expected}.")
    with _private_file() as file:
        for start in range(0, expected, size_bytes):
            file.write_bytes(content[start : start + size_bytes])
            ciphertext = seal.Ciphertext()
            try:
                ciphertext.load(context, str(file))
            except (RuntimeError, ValueError) as fault:
                raise SecureSumError(f"The bytes are no ciphertext with these parameters ({fault}).") from None
            fits = ciphertext.size() == 2 and ciphertext.is_ntt_form() and ciphertext.scale == SCALE
            if not fits or ciphertext.is_transparent() or ciphertext.parms_id() != context.first_parms_id():
                raise SecureSumError("A ciphertext is one of a product, in the clear, or on another scale.")
            found.append(ciphertext)
    return found


@functools.cache
def _seal() -> Any:
    check_tenseal()
    from tenseal import sealapi

    return sealapi


@functools.cache
def _context() -> Any:
    """Return SEAL's tables for the parameters, which are public and the same for all."""
    seal = _seal()
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    # One prime: a second one is for multiplications, which sums don't need.
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(DEGREE, [MODULUS_BITS]))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC256)
    if not context.parameters_set():
        raise ConfigError(
            f"This version of SEAL refuses the parameters of encrypted sums ({context.parameters_error_message()}). "
            "Install tenseal 0.3.18."
        )
    return context


@contextlib.contextmanager
def _private_file() -> Iterator[Path]:
    """Yield a path in a folder of this process alone: SEAL's binding knows objects in files, and none in bytes."""
    with tempfile.TemporaryDirectory(prefix="fedrl-") as folder:
        yield Path(folder) / "object"
