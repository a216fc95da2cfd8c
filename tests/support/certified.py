"""A federation's certificates, for tests, and certificates that `fedrl certs` would not make."""

from __future__ import annotations

import datetime
from pathlib import Path

from fedrl.transport.certificates import init, issue
from fedrl.transport.credentials import Credentials
from fedrl.transport.private_files import read_key
from fedrl.transport.x509_parts import (
    Role,
    leaf_extensions,
    pem,
    pem_of_key,
    read_certificate,
    signed,
    subject_of,
)


def authority(folder: Path, *agents: str) -> Path:
    """Make an authority with a coordinator "hub", for localhost, and agents."""
    init(folder)
    issue(folder, "hub", "coordinator", hosts=["localhost", "127.0.0.1"])
    for name in agents:
        issue(folder, name)
    return folder


def credentials(folder: Path, name: str) -> Credentials:
    """The credentials of a name, without the checks of `load`."""
    place = folder / "issued" / name
    return Credentials(*((place / file).read_bytes() for file in ("ca.pem", "certificate.pem", "key.pem")))


def made(folder: Path, name: str, role: Role, hosts: tuple[str, ...] = (), ends_in_s: float = 3600.0) -> Credentials:
    """Credentials that an authority has signed, with any end of validity and no entry in the table."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, ca = ec.generate_private_key(ec.SECP256R1()), read_certificate(folder / "ca.pem")
    signer = serialization.load_pem_private_key(read_key(folder / "ca.key"), None)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ends_in_s)
    extensions = leaf_extensions(role, hosts)
    certificate = signed(key.public_key(), subject_of(name), signer, ca, until, extensions)
    return Credentials(pem(ca), pem(certificate), pem_of_key(key))
