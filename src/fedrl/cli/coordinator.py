"""`fedrl coordinator`; it imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrl.cli.completion import CONFIG, experiments
from fedrl.cli.conducting import JSON, QUIET, REPLAYABLE, ROUNDS, SET


def coordinator(
    config: Annotated[Path, typer.Argument(help=CONFIG, autocompletion=experiments)],
    state: Annotated[
        Path, typer.Option("--state", metavar="DIR", help="The run folder: a new one, or one to go on with.")
    ],
    certificates: Annotated[
        Path,
        typer.Option(
            "--certificates", metavar="DIR", help="Folder of the coordinator's certificate, as `fedrl certs` makes it."
        ),
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where agents connect to; this machine alone can.")
    ] = "127.0.0.1:7500",
    enrolment: Annotated[
        Path | None,
        typer.Option(
            "--enrolment",
            metavar="FILE",
            help="The table of agents that may take part; by default the enrolment.json in the folder of the "
            "certificate or of its authority.",
        ),
    ] = None,
    gather: Annotated[
        int | None,
        typer.Option("--wait-for", metavar="N", help="Begin when N agents are ready; by default, all of them."),
    ] = None,
    patience_s: Annotated[
        float,
        typer.Option(
            "--patience",
            metavar="SECONDS",
            help="How long an agent without a connection keeps its job.",
        ),
    ] = 30.0,
    hang_s: Annotated[
        float,
        typer.Option(
            "--hang",
            metavar="SECONDS",
            help="After how long without progress the job of a connected agent is dropped.",
        ),
    ] = 600.0,
    health: Annotated[
        int | None, typer.Option("--health", metavar="PORT", help="Serve /healthz and /readyz on 127.0.0.1:PORT.")
    ] = None,
    settings: SET = None,
    rounds: ROUNDS = None,
    replayable: REPLAYABLE = False,
    quiet: QUIET = False,
    as_json: JSON = False,
) -> None:
    """Coordinate agents at other sites, and write a run folder.

    Every version of the parameters is on disk before agents receive it. Called again with the same --state, the run
    goes on from the last one, also after a power failure. Ctrl-C stops it in order; agents then wait for its return.
    """
    from fedrl.cli.conducting import conduct, seats_of, transport_of
    from fedrl.transport.extra import check_installed

    check_installed()
    table = enrolment_table(certificates, enrolment)
    changes = [*(settings or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    conduct(
        config,
        state,
        transport_of(certificates, table),
        listen,
        changes,
        quiet=quiet,
        as_json=as_json,
        seat_of=seats_of(table),
        gather=gather,
        patience_s=patience_s,
        hang_s=hang_s,
        replayable=replayable,
        health=health,
    )


def enrolment_table(certificates: Path, given: Path | None) -> Path:
    """Return the enrolment table that was given, or that of a certificate.

    Raises:
        ConfigError: There is none, so every agent would be sent away.
    """
    from fedrl.core.errors import ConfigError

    if given is not None:
        if not given.is_file():
            raise ConfigError(
                f"{given} does not exist, so every agent would be refused. Name the enrolment.json in the folder of "
                "the authority."
            )
        return given
    # In the folder of the certificate, where both were copied to; or in that of `fedrl certs`, which has issued/NAME.
    for place in (certificates, certificates.parent, certificates.parent.parent):
        if (place / "enrolment.json").is_file():
            return place / "enrolment.json"
    raise ConfigError(
        f"There is no enrolment.json in {certificates}, nor in the two folders above it, so every agent would be "
        "refused. Copy it from the folder of the authority into this one, or name it with --enrolment."
    )
