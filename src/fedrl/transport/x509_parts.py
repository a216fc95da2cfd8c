"""Making and reading single certificates (X.509), with the package cryptography."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fedrl.core.errors import ConfigError
from fedrl.transport.enrolment import check_name
from fedrl.transport.private_files import read_file

Role: TypeAlias = Literal["coordinator", "agent"]
HOST = re.compile(r"(?=.{1,253}$)(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
"""A name of a host, as certificates have it; "*." in front stands for any name below the rest."""
CLOCK_SKEW = datetime.timedelta(minutes=5)
"""Certificates are valid from so long ago, for sites whose clocks are late."""


def signed(public: Any, subject: Any, signer: Any, authority: Any, until: Any, extensions: list[Any]) -> Any:
    """Return a certificate of a public key, signed by the key `signer` of an authority; by itself if that is None."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime.now(datetime.UTC) - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension, critical in extensions:
        made = made.add_extension(extension, critical=critical)
    return made.sign(signer, hashes.SHA256())


def authority_extensions() -> list[Any]:
    """Return the extensions of an authority, and whether each is critical."""
    from cryptography import x509

    return [(x509.BasicConstraints(ca=True, path_length=0), True), (_usage(signs_certificates=True), True)]


def leaf_extensions(role: Role, hosts: Sequence[str]) -> list[Any]:
    """Return the extensions of a certificate of this role, and whether each is critical."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    use = ExtendedKeyUsageOID.SERVER_AUTH if role == "coordinator" else ExtendedKeyUsageOID.CLIENT_AUTH
    found = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([use]), False),
    ]
    if hosts:
        found.append((x509.SubjectAlternativeName([_alternative(host) for host in hosts]), False))
    return found


def _usage(signs_certificates: bool) -> Any:
    from cryptography import x509

    signs = dict.fromkeys(("key_cert_sign", "crl_sign"), signs_certificates)
    rest = (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(digital_signature=not signs_certificates, **signs, **dict.fromkeys(rest, False))


def _alternative(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not HOST.fullmatch(host):
        raise ConfigError(
            f"{host!r} is neither an address nor a host name, so no agent could dial it. Write it without scheme, port "
            "and path, such as fed.example.org or 192.0.2.7, and a name with other letters as its ASCII form (xn--...)."
        )
    return x509.DNSName(host)


def hosts_of(certificate: Any) -> tuple[str, ...]:
    """Return the host names and addresses of a certificate."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in found)


def role_of(certificate: Any, path: Path) -> Role:
    """Return the role that a certificate of `leaf_extensions` has; `path` is its file.

    Raises:
        ConfigError: It has none.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        raise ConfigError(
            f"{path} doesn't say whether it is of a coordinator or of an agent. Use a certificate of fedrl certs."
        ) from None
    return "coordinator" if ExtendedKeyUsageOID.SERVER_AUTH in uses else "agent"


def subject_of(name: str) -> Any:
    """Return the subject with a common name."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def common_name(subject: Any) -> str:
    """Return the common name of a subject, if it has one that a certificate may have."""
    from cryptography.x509.oid import NameOID

    names = [str(each.value) for each in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        raise ConfigError(f"A certificate has the common names {names}, and must have one. Issue it with fedrl certs.")
    return check_name(names[0])


def end_of_validity(pem: bytes) -> datetime.datetime:
    """Return when a certificate in PEM expires."""
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def name_and_serial(pem: bytes) -> tuple[str, int]:
    """Return the common name and the serial number of a certificate in PEM.

    Raises:
        ConfigError: It has none, or several.
    """
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(pem)
    return common_name(certificate.subject), certificate.serial_number


def read_certificate(path: Path) -> Any:
    """Return the certificate of a file."""
    from cryptography import x509

    content = read_file(path)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as fault:
        raise ConfigError(f"{path} is no certificate, or it is damaged. Copy it again.") from fault


def pem(made: Any) -> bytes:
    """Return a certificate or a request as text."""
    from cryptography.hazmat.primitives import serialization

    return bytes(made.public_bytes(serialization.Encoding.PEM))


def pem_of_key(key: Any) -> bytes:
    """Return a key as text."""
    from cryptography.hazmat.primitives import serialization

    plain = serialization.NoEncryption()
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
