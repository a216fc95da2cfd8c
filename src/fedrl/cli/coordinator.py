"""`fedrl coordinator` and `fedrl up`; they import what they need when they are called."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrl.cli.completion import CONFIG, experiments

if TYPE_CHECKING:
    from fedrl.cli.resuming import FolderListener
    from fedrl.runs.coordinate import Coordinator

SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the configuration; may be repeated."),
]
ROUNDS = Annotated[int | None, typer.Option("--rounds", metavar="N", help="Versions of the parameters to merge.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")]
JSON = Annotated[bool, typer.Option("--json", help="Print summary.json to stdout, and nothing else.")]
REPLAYABLE = Annotated[
    bool,
    typer.Option(
        "--replayable",
        help="Let all keys follow from the seed: the run can be repeated bit for bit, and agents can derive each "
        "other's randomness. For tests, and where all sites trust each other.",
    ),
]


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
    wait_for: Annotated[
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
    from fedrl.transport.extra import check_installed

    check_installed()
    table = enrolment_table(certificates, enrolment)
    changes = [*(settings or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    conduct(
        config,
        state,
        _transport(certificates, table),
        listen,
        changes,
        quiet=quiet,
        as_json=as_json,
        seat_of=_seats(table),
        gather=wait_for,
        patience_s=patience_s,
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


def _transport(certificates: Path, table: Path) -> Any:
    from fedrl.transport.credentials import load
    from fedrl.transport.enrolment import Enrolment
    from fedrl.transport.grpc_transport import GrpcTransport

    return GrpcTransport(load(certificates, "coordinator"), Enrolment(table))


def _seats(table: Path) -> Any:
    from fedrl.core.errors import ConfigError
    from fedrl.transport.enrolment import Enrolment

    enrolled = Enrolment(table)

    def seat_of(name: str) -> int | str:
        try:
            return enrolled.seat(name)
        except ConfigError as fault:
            return str(fault)

    return seat_of


def conduct(
    config: Path,
    state: Path,
    transport: Any,
    listen: str,
    changes: Sequence[str],
    *,
    quiet: bool,
    as_json: bool,
    watch: Any = None,
    **options: Any,
) -> None:
    """Coordinate a run with progress on the terminal, and end with the exit code of a run."""
    from fedrl.cli.devices import use_devices
    from fedrl.cli.examples import say_which
    from fedrl.cli.only_json import only_json
    from fedrl.cli.resuming import FolderListener, leave_early, leave_unmerged

    say_which(config, quiet=quiet or as_json)
    use_devices(1)  # the server's half computes on one
    from fedrl.records.folder import RunFolder
    from fedrl.records.notices import ended_in, unmerged_in
    from fedrl.runs.coordinate import coordinate
    from fedrl.sinks.display import progress, warnings_only

    listener = FolderListener()

    def watching(coordinator: Coordinator) -> None:
        def told() -> None:
            coordinator.listening.set()
            address = coordinator.exchange.address
            if not quiet:
                print(f"Agents may connect to {address}.", file=sys.stderr, flush=True)

        coordinator.exchange.on_listening = told
        if watch is not None:
            watch(coordinator)

    with only_json(as_json), warnings_only() if as_json and not quiet else progress(quiet=quiet) as show:
        result = coordinate(
            config,
            state,
            transport,
            listen,
            overrides=changes,
            sinks=[listener, show],
            watch=watching,
            verbose=0,
            **options,
        )
    if as_json:
        typer.echo(json.dumps(result.summary, indent=2))
    if not RunFolder(result.folder).complete:
        _leave_stopped(state, listener)
    for sentence in ended_in(result):
        leave_early(sentence)
    for sentence in unmerged_in(result):
        leave_unmerged(sentence)


def _leave_stopped(state: Path, listener: FolderListener) -> None:
    import signal

    from fedrl.cli.resuming import INTERRUPTED, TERMINATED

    print(f"Stopped. The same command goes on with the run in {state}.", file=sys.stderr)
    raise typer.Exit(TERMINATED if listener.signal == signal.SIGTERM else INTERRUPTED)


def up(
    config: Annotated[Path, typer.Argument(help=CONFIG, autocompletion=experiments)],
    agents: Annotated[
        int | None, typer.Option("--agents", metavar="N", help="Number of agents; that of the experiment by default.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="DIR", help="Folder of certificates, sites and run; runs/NAME-up-TIME by default."
        ),
    ] = None,
    settings: SET = None,
    rounds: ROUNDS = None,
    replayable: REPLAYABLE = False,
    quiet: QUIET = False,
    as_json: JSON = False,
) -> None:
    """Run a whole federation on this machine: a coordinator and agents as processes, over mutual TLS.

    The same programs, certificates and messages as between machines, to try an experiment before it goes to its sites.
    """
    from fedrl.transport.extra import check_installed

    check_installed()
    from fedrl.cli.local_federation import local_federation

    changes = [*(settings or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    local_federation(config, agents, state, changes, replayable=replayable, quiet=quiet, as_json=as_json)
