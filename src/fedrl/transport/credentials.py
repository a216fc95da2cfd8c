"""The credentials of one end of a connection, read from its folder and checked before it connects."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import ConfigError
from fedrl.transport.private_files import read_file, read_key
from fedrl.transport.x509_parts import Role, read_certificate, role_of

CA, CERTIFICATE, KEY = "ca.pem", "certificate.pem", "key.pem"


class Credentials(NamedTuple):
    """What an end needs to prove who it is, and to check who the other is; all in PEM.

    Attributes:
        ca: Certificate of the authority.
        certificate: Its own certificate.
        key: The key of its certificate.
    """

    ca: bytes
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Credentials(...)"  # never the key


def load(folder: Path, role: Role) -> Credentials:
    """Read the credentials of an end from its folder, and check all that it can check by itself.

    Args:
        folder: The folder with ca.pem, certificate.pem and key.pem.
        role: The role that the certificate has to have.

    Raises:
        ConfigError: A file is missing or damaged, the key may be read by others or is another's, the certificate has
            expired, is of another authority or role.
    """
    from cryptography.hazmat.primitives import serialization

    ca, own, key = read_certificate(folder / CA), read_certificate(folder / CERTIFICATE), read_key(folder / KEY)
    try:
        public = serialization.load_pem_private_key(key, None).public_key()
    except Exception as fault:  # what it raises depends on the damage
        raise ConfigError(f"{folder / KEY} is no key. Copy the folder of the certificate again.") from fault
    if public != own.public_key():
        raise ConfigError(f"{folder / KEY} is not the key of {folder / CERTIFICATE}. Copy both from one folder.")
    try:
        own.verify_directly_issued_by(ca)
    except Exception as fault:
        raise ConfigError(
            f"{folder / CERTIFICATE} was not signed by {folder / CA}. Copy both from one folder."
        ) from fault
    _check_time(ca, folder / CA, "Make a new authority with `fedrl certs init`")
    _check_time(own, folder / CERTIFICATE, "Renew it with `fedrl certs renew`")
    found = role_of(own, folder / CERTIFICATE)
    if found != role:
        raise ConfigError(
            f"{folder / CERTIFICATE} is of the role {found}, not {role}. Use a certificate with the role {role}."
        )
    return Credentials(read_file(folder / CA), read_file(folder / CERTIFICATE), key)


def _check_time(certificate: Any, path: Path, cure: str) -> None:
    """Refuse a certificate that is not valid now, which is as often the fault of a clock.

    Raises:
        ConfigError: It is not valid yet, or no more.
    """
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.datetime.now(datetime.UTC)
    if begin <= now <= end:
        return
    cure = "Set the clock of this machine" if now < begin else f"{cure}, or set the clock"
    raise ConfigError(
        f"{path} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and now it is {now:%Y-%m-%d %H:%M}. "
        f"{cure}."
    )
