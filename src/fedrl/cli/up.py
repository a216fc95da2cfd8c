"""`fedrl up`; it imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrl.cli.completion import CONFIG, experiments
from fedrl.cli.conducting import JSON, QUIET, REPLAYABLE, ROUNDS, SET


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
