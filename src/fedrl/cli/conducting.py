"""What `fedrl coordinator` and `fedrl up` have in common: options, and a run with progress on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedrl.cli.resuming import FolderListener
    from fedrl.network.bridge import Bridge

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


def transport_of(certificates: Path, table: Path) -> Any:
    """Return the transport of a coordinator, with its certificate and the table of who may take part."""
    from fedrl.transport.credentials import load
    from fedrl.transport.enrolment import Enrolment
    from fedrl.transport.grpc_transport import GrpcTransport

    return GrpcTransport(load(certificates, "coordinator"), Enrolment(table))


def seats_of(table: Path) -> Any:
    """Return `name -> number`, or why the name has none, by an enrolment table that is read again when it changes."""
    from fedrl.core.errors import ConfigError
    from fedrl.transport.enrolment import Enrolment

    enrolled = Enrolment(table)

    def seat_of(name: str) -> int | str:
        try:
            return enrolled.seat(name)
        except ConfigError as fault:
            return str(fault)

    return seat_of


def prepare_process() -> None:
    """Prepare the process of a coordinator; call it before anything is computed.

    Flags that come after the first array have no effect, and with other flags than those of the agents the bits of the
    run are others than those of a simulation.
    """
    from fedrl.cli.devices import use_devices
    from fedrl.core.arenas import use_one_arena

    use_one_arena()
    use_devices(1)  # the server's half computes on one


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
    from fedrl.cli.examples import say_which
    from fedrl.cli.only_json import only_json
    from fedrl.cli.resuming import FolderListener, leave_early, leave_unmerged

    say_which(config, quiet=quiet or as_json)
    prepare_process()
    from fedrl.records.folder import RunFolder
    from fedrl.records.notices import ended_in, unmerged_in
    from fedrl.runs.coordinate import coordinate
    from fedrl.sinks.display import progress, warnings_only

    listener = FolderListener()

    def watching(bridge: Bridge) -> None:
        if not quiet:
            print(f"Agents may connect to {bridge.address}.", file=sys.stderr, flush=True)
        if watch is not None:
            watch(bridge)

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
