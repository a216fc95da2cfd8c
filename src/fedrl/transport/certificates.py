"""Certificates of a federation: an authority in a folder, which signs those of the coordinator and of the agents.

    FOLDER/ca.pem, ca.key             the authority: whoever has ca.key may make certificates
    FOLDER/enrolment.json             numbers and revoked certificates of agents, for the coordinator
    FOLDER/issued/NAME/               what NAME needs: ca.pem, certificate.pem, key.pem

Keys are elliptic (P-256). A certificate says in its extended key usage whether it is of a coordinator or of an agent,
and neither end accepts the other role. If a site makes its own request (`request`), its key never leaves it.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import ConfigError
from fedrl.transport.credentials import CA, CERTIFICATE, KEY
from fedrl.transport.enrolment import Enrolment, check_name, hex_of
from fedrl.transport.private_files import make_folder, read_file, read_key, write_private
from fedrl.transport.x509_parts import (
    Role,
    authority_extensions,
    common_name,
    hosts_of,
    leaf_extensions,
    pem,
    pem_of_key,
    read_certificate,
    role_of,
    signed,
    subject_of,
)

AUTHORITY_DAYS, LEAF_DAYS, MOST_DAYS = 3650, 365, 36_500
ISSUED, REQUEST = "issued", "request.pem"


class Issued(NamedTuple):
    """A certificate of a folder.

    Attributes:
        name: The name that it certifies.
        role: "coordinator" or "agent".
        seat: The agent's number; None for a coordinator.
        hosts: Host names and addresses at which the coordinator may be reached; () for an agent.
        serial: Serial number, hexadecimal.
        expires: End of its validity.
        state: "valid", "expired" or "revoked".
        folder: Where it is.
    """

    name: str
    role: Role
    seat: int | None
    hosts: tuple[str, ...]
    serial: str
    expires: datetime.datetime
    state: str
    folder: Path


def enrolment_of(folder: Path) -> Enrolment:
    """Return the enrolment table of an authority."""
    return Enrolment(folder / "enrolment.json")


def init(folder: Path, days: int = AUTHORITY_DAYS) -> None:
    """Make an authority in a folder.

    Args:
        folder: Where; it is made if it is missing.
        days: Validity.

    Raises:
        ConfigError: There is one already, or the folder can't be written to.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "certs"
    >>> init(folder)
    >>> issue(folder, "site-1").seat, issue(folder, "hub", "coordinator", hosts=["localhost"]).hosts
    (0, ('localhost',))
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    if (folder / CA).exists() or (folder / "ca.key").exists():
        raise ConfigError(f"{folder} has an authority already. Name another folder, or delete this one first.")
    make_folder(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = signed(
        key.public_key(), subject_of("fedrl authority"), key, None, _days(days), authority_extensions()
    )
    write_private(folder / "ca.key", pem_of_key(key))
    write_private(folder / CA, pem(certificate), 0o644)


def issue(folder: Path, name: str, role: Role = "agent", hosts: Sequence[str] = (), days: int = LEAF_DAYS) -> Issued:
    """Make a key and a certificate for a name.

    Args:
        folder: The authority.
        name: Whom it certifies.
        role: "coordinator" or "agent".
        hosts: Host names and addresses at which a coordinator may be reached.
        days: Validity; it ends with that of the authority at the latest.

    Raises:
        ConfigError: The name is taken, the hosts don't fit the role, or the authority is missing or has expired.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    _check_free(folder, name)
    key = ec.generate_private_key(ec.SECP256R1())
    return _issued(folder, name, role, hosts, days, key.public_key(), key)


def request(name: str, to: Path) -> Path:
    """Make a key at a site and the request for its certificate, and return the path of the request.

    Args:
        name: Whom it is to certify.
        to: The folder, at the site; the key stays in it.

    Raises:
        ConfigError: A key is there already, or the folder can't be written to.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    check_name(name)
    if (to / KEY).exists():
        raise ConfigError(f"{to / KEY} exists, and would be replaced. Name another folder, or delete it first.")
    make_folder(to)
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(subject_of(name)).sign(key, hashes.SHA256())
    write_private(to / KEY, pem_of_key(key))
    write_private(to / REQUEST, pem(made), 0o644)
    return to / REQUEST


def sign(
    folder: Path,
    path: Path,
    role: Role = "agent",
    hosts: Sequence[str] = (),
    days: int = LEAF_DAYS,
    name: str | None = None,
) -> Issued:
    """Sign a request that a site has made; only its name and its public key are taken from it.

    Args:
        folder: The authority.
        path: The request.
        role: "coordinator" or "agent".
        hosts: Host names and addresses at which a coordinator may be reached.
        days: Validity; it ends with that of the authority at the latest.
        name: The name that the request has to have; any name without it.

    Raises:
        ConfigError: The file is no request or its signature is wrong, its name is another or taken, or the authority
            is missing or has expired.
    """
    from cryptography import x509

    try:
        made = x509.load_pem_x509_csr(read_file(path))
        proven = made.is_signature_valid
        asked = common_name(made.subject)
    except ConfigError:
        raise
    except Exception as fault:  # the package has errors of its own, of which some are links to its pages
        raise ConfigError(
            f"{path} is no certificate request, or a damaged one. Make one with: fedrl certs request NAME"
        ) from fault
    if not proven:
        raise ConfigError(f"{path} isn't signed with its own key: it was damaged or forged. Ask for it again.")
    _check_key(made.public_key(), path)
    if name is not None and asked != name:
        raise ConfigError(f"{path} asks for the name {asked!r}, and {name!r} was expected. Ask the site whose it is.")
    _check_free(folder, asked)
    return _issued(folder, asked, role, hosts, days, made.public_key(), None)


def renew(folder: Path, name: str, days: int = LEAF_DAYS) -> Issued:
    """Issue a certificate again, with the same key, role and hosts, and a later end; the key is not needed.

    Args:
        folder: The authority.
        name: Whom it certifies.
        days: Validity; it ends with that of the authority at the latest.

    Raises:
        ConfigError: There is no certificate of this name, or it was revoked.
    """
    place = _folder_of(folder, name)
    if not (place / CERTIFICATE).exists():
        raise ConfigError(f"{name!r} has no certificate in {folder}. `fedrl certs list` shows all names.")
    old, public = _listed(folder, place), read_certificate(place / CERTIFICATE)
    if old.state == "revoked":
        raise ConfigError(f"The certificate of {name!r} was revoked. Issue another: fedrl certs issue {name}")
    return _issued(folder, name, old.role, old.hosts, days, public.public_key(), None, renews=True)


def revoke(folder: Path, name: str) -> None:
    """Revoke all certificates of an agent; its name may be issued again afterwards, with another key.

    Args:
        folder: The authority.
        name: Whom they certify.

    Raises:
        ConfigError: The name is not enrolled, is revoked already, or is a coordinator's.
    """
    place = _folder_of(folder, name)
    if (place / CERTIFICATE).exists() and _listed(folder, place).role == "coordinator":
        raise ConfigError(
            f"{name!r} is a coordinator, and agents have no list of revoked certificates. Make a new authority with "
            "fedrl certs init, and give all of them new certificates."
        )
    enrolment_of(folder).revoke(name)


def issued(folder: Path) -> list[Issued]:
    """Return the certificates of a folder, by name.

    Raises:
        ConfigError: The folder has no authority, or a certificate can't be read.
    """
    read_certificate(folder / CA)
    return [_listed(folder, path.parent) for path in sorted((folder / ISSUED).glob(f"*/{CERTIFICATE}"))]


def _issued(
    folder: Path, name: str, role: Role, hosts: Sequence[str], days: int, public: Any, key: Any, renews: bool = False
) -> Issued:
    if (role == "coordinator") != bool(hosts):
        cure = "Give at least one with --host" if not hosts else "Leave --host out"
        raise ConfigError(
            f"{name!r} is to be certified as {role} with {len(hosts)} hosts. Only coordinators have hosts, and need "
            f"them: agents compare them with the address that they dial. {cure}."
        )
    authority, signer = _authority(folder)
    until = min(_days(days), authority.not_valid_after_utc)
    if until <= datetime.datetime.now(datetime.UTC):
        raise ConfigError(f"The authority in {folder} has expired. Make a new one with fedrl certs init.")
    certificate = signed(public, subject_of(name), signer, authority, until, leaf_extensions(role, hosts))
    place = folder / ISSUED / name
    make_folder(place)
    if role == "agent":  # before the certificate exists, so that none is without a number
        enrolment_of(folder).add(name, certificate.serial_number)
    if key is not None:
        write_private(place / KEY, pem_of_key(key))
    elif (place / KEY).exists() and not renews:
        (place / KEY).unlink()  # of an earlier certificate, which was revoked
    write_private(place / CA, pem(authority), 0o644)
    write_private(place / CERTIFICATE, pem(certificate), 0o644)
    return _listed(folder, place)


def _authority(folder: Path) -> tuple[Any, Any]:
    """Return the certificate of an authority and its key.

    Raises:
        ConfigError: One of them is missing or damaged, or they are of two authorities.
    """
    from cryptography.hazmat.primitives import serialization

    authority, path = read_certificate(folder / CA), folder / "ca.key"
    content = read_key(path)
    try:
        signer: Any = serialization.load_pem_private_key(content, None)
    except Exception as fault:  # what it raises depends on the damage
        raise ConfigError(f"{path} is no key that can be read. Restore it from a backup of the folder.") from fault
    if signer.public_key() != authority.public_key():
        raise ConfigError(
            f"{path} is not the key of {folder / CA}, so no end would accept what it signs. Restore both from one "
            "backup of the folder."
        )
    return authority, signer


def _listed(folder: Path, place: Path) -> Issued:
    certificate, name, table = read_certificate(place / CERTIFICATE), place.name, enrolment_of(folder).table()
    role, entry, serial = role_of(certificate, place / CERTIFICATE), table.get(name), hex_of(certificate.serial_number)
    if role == "agent" and not enrolment_of(folder).path.exists():
        raise ConfigError(
            f"{enrolment_of(folder).path} is missing, and {name!r} has a certificate, so its number is not known. "
            "Restore enrolment.json from a backup, or issue the certificates again in a new folder."
        )
    state = "expired" if certificate.not_valid_after_utc < datetime.datetime.now(datetime.UTC) else "valid"
    if role == "agent" and (entry is None or serial not in entry.serials):
        state = "revoked"
    seat = None if entry is None or role == "coordinator" else entry.seat
    return Issued(name, role, seat, hosts_of(certificate), serial, certificate.not_valid_after_utc, state, place)


def _check_key(public: Any, path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        kind = type(public).__name__
        raise ConfigError(f"{path} has a key of kind {kind}, not P-256. Make the request with fedrl certs request.")


def _check_free(folder: Path, name: str) -> None:
    """Refuse a name that has a certificate: whoever else asks for it would become the agent of that name."""
    check_name(name)
    place = folder / ISSUED / name
    issued(folder)  # a table that was lost would give away numbers that are taken
    old = _listed(folder, place) if (place / CERTIFICATE).exists() else None
    if old is not None and old.state != "revoked":
        # Nobody keeps a list of revoked coordinators.
        first = f"delete {place}" if old.role == "coordinator" else f"fedrl certs revoke {name}"
        raise ConfigError(
            f"{name!r} has a certificate already. To prolong it: fedrl certs renew {name}. To replace it and its key: "
            f"{first} first."
        )


def _folder_of(folder: Path, name: str) -> Path:
    return folder / ISSUED / check_name(name)


def _days(days: int) -> datetime.datetime:
    if not 1 <= days <= MOST_DAYS:
        raise ConfigError(f"A validity of {days} days is none. Give a number of days from 1 to {MOST_DAYS:,}.")
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
