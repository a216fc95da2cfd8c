"""Certified keys: in secure sums agents know each other by keys that the authority of the federation stands behind.

    authority  --signs-->  certificate of an agent  --its key signs-->  run, number, name, X25519 key,
                                                                        fingerprint of the key of encrypted sums

A coordinator passes credentials on and can make none without the key of the authority, so it can't be the neighbours of
an agent. Certificates are those of `fedrl.transport`; the X25519 key is drawn each time that an agent
opens a run, and is in no file.
"""

from __future__ import annotations

import copy
import datetime
import struct
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import ConfigError, SecureSumError
from fedrl.secure.ckks import EncryptionKey
from fedrl.secure.extra import check_cryptography
from fedrl.secure.identity import Directory, Identity
from fedrl.transport.credentials import Credentials
from fedrl.transport.x509_parts import common_name, role_of

PURPOSE = b"fedrl sum key 3"
LENGTH = struct.Struct("<H")
MOST_BYTES = 4096
"""The largest credential."""


class SumCredential(NamedTuple):
    """By which key an agent is known in the sums of a run.

    Attributes:
        certificate: Its certificate, DER.
        key: Its public X25519 key, 32 bytes.
        signature: ECDSA signature by the key of the certificate, under run, number, name, key and fingerprint.
        fingerprint: Of the key that all agents share in encrypted sums: `EncryptionKey.fingerprint`; else empty.
    """

    certificate: bytes
    key: bytes
    signature: bytes
    fingerprint: bytes = b""

    def encoded(self) -> bytes:
        """Return the credential as bytes."""
        return b"".join(LENGTH.pack(len(part)) + part for part in self)


def decoded(data: bytes) -> SumCredential:
    """Return the credential of these bytes.

    Raises:
        SecureSumError: They are none.

    >>> decoded(SumCredential(b"abc", b"de", b"f").encoded())
    SumCredential(certificate=b'abc', key=b'de', signature=b'f', fingerprint=b'')
    """
    parts, at = [], 0
    while at + LENGTH.size <= len(data) <= MOST_BYTES:
        (size,) = LENGTH.unpack_from(data, at)
        parts.append(data[at + LENGTH.size : at + LENGTH.size + size])
        at += LENGTH.size + size
    if at != len(data) or len(parts) != len(SumCredential._fields):
        raise SecureSumError(f"{len(data)} bytes came that are no credential for secure sums: they were cut off.")
    return SumCredential(*parts)


class SumSigner:
    """An agent's key for secure sums, drawn when it is made, and the certificate by which others trust it.

    Args:
        credentials: The certificate of the agent, and its key.
        encryption_key: The key that all agents share in encrypted sums; None for other protocols.

    Raises:
        ConfigError: The certificate or its key can't be read.
    """

    def __init__(self, credentials: Credentials, encryption_key: EncryptionKey | None = None) -> None:
        check_cryptography()
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        try:
            certificate = x509.load_pem_x509_certificate(credentials.certificate)
            self._certified: Any = serialization.load_pem_private_key(credentials.key, None)
        except Exception as fault:  # what it raises depends on the damage
            raise ConfigError("The certificate or the key of this agent can't be read. Copy both again.") from fault
        self._certificate, self._name = _der(certificate), common_name(certificate.subject)
        self._key: Any = X25519PrivateKey.generate()
        self.encryption_key = encryption_key

    def renewed(self) -> SumSigner:
        """Return a signer with another key: an `Identity` remembers its sums, and a new one may not have its key."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        found = copy.copy(self)
        found._key = X25519PrivateKey.generate()
        return found

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint of the key of encrypted sums; empty without one."""
        return b"" if self.encryption_key is None else self.encryption_key.fingerprint

    def __repr__(self) -> str:
        return "SumSigner(...)"  # never a key

    def credential(self, run: str, number: int) -> bytes:
        """Return the agent's credential as agent `number` of a run, encoded."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        public = self._key.public_key().public_bytes_raw()
        text = certified_text(run, number, self._name, public, self.fingerprint)
        signature = self._certified.sign(text, ec.ECDSA(hashes.SHA256()))
        return SumCredential(self._certificate, public, signature, self.fingerprint).encoded()

    def identity(self, number: int, directory: Directory) -> Identity:
        """Return the agent's identity in the sums of a run."""
        return Identity(number, self._key, directory)


class KnownSigners:
    """The certified keys of the agents of a run, by their numbers.

    Args:
        authority: Certificate of the authority, PEM, as this end has it.
        run: Identity of the run.
        fingerprint: That of the key of encrypted sums, which all agents have to have; None: that of any other agent.

    Attributes:
        directory: The keys.

    Raises:
        ConfigError: The certificate of the authority can't be read.
    """

    def __init__(self, authority: bytes, run: str, fingerprint: bytes | None = None) -> None:
        check_cryptography()
        from cryptography import x509

        try:
            self._authority = x509.load_pem_x509_certificate(authority)
        except ValueError as fault:
            raise ConfigError("The certificate of the authority can't be read. Copy ca.pem again.") from fault
        self._run, self._names, self._seen = run, dict[int, str](), dict[int, bytes]()
        self._fingerprint, self._fingerprints = fingerprint, dict[int, bytes]()
        self.directory = Directory({})

    def __contains__(self, number: int) -> bool:
        return number in self._names

    def credential(self, number: int) -> bytes:
        """Return the credential of an agent, encoded."""
        return self._seen[number]

    def add(self, number: int, data: bytes, name: str = "") -> None:
        """Check the credential of an agent, and take its key in place of an earlier one.

        Args:
            number: Number of the agent.
            data: Its credential, encoded.
            name: Name that the agent has to have; any name that no other agent of the run has without it.

        Raises:
            SecureSumError: It is forged, expired, of another authority, role, run or agent, the name is another
                agent's, or the agent has another key for encrypted sums.
        """
        if self._seen.get(number) == data:
            return
        credential = decoded(data)
        found = self._certified_name(credential, number)
        if name and found != name:
            raise SecureSumError(f"The credential of agent {number} is of {found!r}, and the agent is {name!r}.")
        if self._names.get(number, found) != found:
            raise SecureSumError(
                f"Agent {number} was {self._names[number]!r} and is now said to be {found!r}: in a run, a number stays "
                "with its name, or one agent could be several."
            )
        other = next((each for each, known in self._names.items() if known == found and each != number), None)
        if other is not None:
            raise SecureSumError(f"Agents {other} and {number} are both {found!r}, so one agent would count twice.")
        self._check_fingerprint(number, credential.fingerprint)
        self.directory.add(number, credential.key)
        self._names[number], self._seen[number] = found, data
        self._fingerprints[number] = credential.fingerprint

    def _check_fingerprint(self, number: int, found: bytes) -> None:
        """Refuse an agent whose vector nobody else could decrypt."""
        known = {agent: each for agent, each in self._fingerprints.items() if agent != number}
        whose, expected = next(iter(known.items()), (None, found))
        if self._fingerprint is not None:
            whose, expected = None, self._fingerprint
        if found != expected:
            other = "this agent" if whose is None else f"agent {whose}"
            raise SecureSumError(
                f"Agent {number} has another key for encrypted sums than {other}, or one of both has none, so nobody "
                "could open their sum. Give all agents the same file, made by `fedrl certs encryption-key`."
            )

    def _certified_name(self, credential: SumCredential, number: int) -> str:
        from cryptography import x509
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        who = f"The credential of agent {number}"
        try:
            certificate = x509.load_der_x509_certificate(credential.certificate)
            certificate.verify_directly_issued_by(self._authority)
            name, role = common_name(certificate.subject), role_of(certificate, Path("certificate"))
            public: Any = certificate.public_key()
        except Exception as fault:  # whoever sends it chooses each byte, and what is raised depends on them
            raise SecureSumError(f"{who} has no certificate of this federation's authority: it was forged.") from fault
        now = datetime.datetime.now(datetime.UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SecureSumError(
                f"{who} is not valid now: its certificate is from {certificate.not_valid_before_utc} to "
                f"{certificate.not_valid_after_utc}."
            )
        if role != "agent" or not isinstance(public, ec.EllipticCurvePublicKey):
            raise SecureSumError(f"{who} has the certificate of a {role}, and agents alone take part in sums.")
        try:
            text = certified_text(self._run, number, name, credential.key, credential.fingerprint)
            public.verify(credential.signature, text, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise SecureSumError(
                f"{who} is not signed with the key of its certificate for this run and number: it was forged, or made "
                "for another run."
            ) from None
        return name


def certified_text(run: str, number: int, name: str, key: bytes, fingerprint: bytes = b"") -> bytes:
    """Return what the key of an agent's certificate signs."""
    parts = [PURPOSE, run.encode(), struct.pack("<I", number), name.encode(), key, fingerprint]
    return b"".join(LENGTH.pack(len(part)) + part for part in parts)


def _der(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return bytes(certificate.public_bytes(serialization.Encoding.DER))
