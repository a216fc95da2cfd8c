"""`fedrl certs`, with its commands; they import what they need when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedrl.transport.certificates import Issued
    from fedrl.transport.x509_parts import Role

NAME = "Whom the certificate is for: letters, digits, '.', '-' and '_'."
FOLDER = Annotated[Path, typer.Option("--folder", metavar="DIR", help="The folder of the authority.")]
ROLE = Annotated[str, typer.Option("--role", metavar="agent|coordinator", help="What the certificate may be used for.")]
HOSTS = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="HOST", help="A host name or address at which agents reach a coordinator; may be repeated."
    ),
]
DAYS = Annotated[int, typer.Option("--days", metavar="N", help="Days until the certificate expires.")]
DEFAULT, YEAR, TEN_YEARS = Path("certs"), 365, 3650

certs = typer.Typer(
    name="certs",
    help="Make, renew and revoke the certificates of a federation on a network.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@certs.command("init")
def init_command(folder: FOLDER = DEFAULT, days: DAYS = TEN_YEARS) -> None:
    """Make an authority, which signs all certificates of a federation.

    Whoever has its key, ca.key, can make certificates: keep it on a machine of its own, with a backup.
    """
    _check()
    from fedrl.transport.certificates import init

    init(folder, days)
    typer.echo(f"The authority is in {folder}. Keep {folder / 'ca.key'} secret, and make a backup of the folder.")
    typer.echo("Next: fedrl certs issue hub --role coordinator --host HOST, and fedrl certs issue NAME for each site.")


@certs.command("issue", no_args_is_help=True)
def issue_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME)],
    role: ROLE = "agent",
    host: HOSTS = None,
    folder: FOLDER = DEFAULT,
    days: DAYS = YEAR,
) -> None:
    """Make a key and a certificate for a coordinator or an agent.

    An agent gets the next free number of the federation. With `request` and `sign` a site makes its key itself.
    """
    _check()
    from fedrl.transport.certificates import issue

    made = issue(folder, name, _role(role), host or [], days)
    typer.echo(_sentence(made))
    typer.echo(
        f"Copy {made.folder} to the machine of {name} over a safe channel, such as scp, then delete its key.pem here."
    )


@certs.command("request", no_args_is_help=True)
def request_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=NAME)],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where, at the site; a folder NAME by default.")
    ] = None,
) -> None:
    """At a site: make a key, and a request for its certificate. The key never leaves the site."""
    _check()
    from fedrl.transport.certificates import request

    path = request(name, to or Path(name))
    typer.echo(f"Send {path} to the coordinator's operator, who runs: fedrl certs sign {path.name}")
    typer.echo(f"Copy the ca.pem and certificate.pem that come back into {path.parent}, beside key.pem.")


@certs.command("sign", no_args_is_help=True)
def sign_command(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The request.pem of a site.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Sign only if the request asks for this name.")
    ] = None,
    role: ROLE = "agent",
    host: HOSTS = None,
    folder: FOLDER = DEFAULT,
    days: DAYS = YEAR,
) -> None:
    """Make a certificate from the request of a site. Role and hosts are those given here."""
    _check()
    from fedrl.transport.certificates import sign

    made = sign(folder, request, _role(role), host or [], days, name)
    typer.echo(_sentence(made))
    typer.echo(f"Send ca.pem and certificate.pem of {made.folder} to the site; neither is secret.")


@certs.command("revoke", no_args_is_help=True)
def revoke_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose certificates.")], folder: FOLDER = DEFAULT
) -> None:
    """Revoke all certificates of an agent: a coordinator ends its session within two seconds.

    The coordinator has to read the enrolment.json of this folder, or a copy that is replaced with it.
    """
    _check()
    from fedrl.transport.certificates import revoke

    revoke(folder, name)
    typer.echo(
        f"The certificates of {name} are revoked. Its number stays its own: fedrl certs issue {name} readmits it."
    )


@certs.command("renew", no_args_is_help=True)
def renew_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose certificate.")],
    folder: FOLDER = DEFAULT,
    days: DAYS = YEAR,
) -> None:
    """Issue a certificate again, with the same key and a later end. The old one stays valid until its own end."""
    _check()
    from fedrl.transport.certificates import renew

    made = renew(folder, name, days)
    typer.echo(_sentence(made))
    typer.echo(f"Replace certificate.pem at {name} with that of {made.folder}; the key stays.")


@certs.command("encryption-key")
def encryption_key_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where; it may not exist.")] = Path("encryption.key"),
) -> None:
    """At one site: make the key that all agents share in encrypted sums, and the coordinator must not have.

    Whoever has it reads the update of every agent from what the coordinator receives.
    """
    from fedrl.secure.ckks import make_key_file

    make_key_file(file)
    typer.echo(f"The key is in {file}. Copy it to the other sites over a safe channel, such as scp, and never to the")
    typer.echo(f'coordinator or the authority. Each site.toml names it: encryption_key = "{file.name}"')


@certs.command("list")
def list_command(
    folder: FOLDER = DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificates as JSON, and nothing else.")] = False,
) -> None:
    """List the certificates of an authority: name, role, number, end and state."""
    _check()
    import json

    from rich.console import Console
    from rich.table import Table

    from fedrl.transport.certificates import issued

    found = issued(folder)
    if as_json:
        typer.echo(json.dumps([_as_json(each) for each in found], indent=2))
        return
    table = Table("name", "role", "number", "hosts", "expires", "state", box=None, header_style="bold")
    for each in found:
        seat = "" if each.seat is None else str(each.seat)
        table.add_row(each.name, each.role, seat, " ".join(each.hosts), f"{each.expires:%Y-%m-%d}", each.state)
    Console(highlight=False).print(table)


def _check() -> None:
    from fedrl.transport.extra import check_installed

    check_installed()


def _role(role: str) -> Role:
    from fedrl.core.errors import ConfigError

    roles: dict[str, Role] = {"agent": "agent", "coordinator": "coordinator"}
    if role not in roles:
        raise ConfigError(f"--role is {role!r}. Write agent or coordinator.")
    return roles[role]


def _sentence(made: Issued) -> str:
    what = f"at {', '.join(made.hosts)}" if made.seat is None else f"number {made.seat}"
    return f"{made.name} is certified as {made.role}, {what}, until {made.expires:%Y-%m-%d}, in {made.folder}."


def _as_json(each: Issued) -> dict[str, object]:
    found = {**each._asdict(), "hosts": list(each.hosts), "folder": str(each.folder)}
    return {**found, "expires": each.expires.isoformat(timespec="seconds")}
