"""`fedrl scale`, with its options; it imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrl.cli.completion import CONFIG, experiments
from fedrl.cli.executor import ADDRESS, EXECUTOR, WORKERS, executor_of
from fedrl.core.errors import ConfigError

NOTHING_KEPT = 3
"""Exit code of a command that completed, with no number of agents that keeps the limit."""


def scale(
    config: Annotated[Path, typer.Argument(help=CONFIG, autocompletion=experiments)],
    limit: Annotated[
        str | None,
        typer.Option(
            "--limit",
            metavar='"QUANTITY <= NUMBER UNIT"',
            help='What a round may cost: "round <= 1 s", "memory <= 8 GB", or "bytes <= 50 MB" up and down. '
            "Without a limit, only the numbers of --agents are measured.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the configuration; may be repeated."),
    ] = None,
    agents: Annotated[
        str | None,
        typer.Option(
            "--agents", metavar="N,N,...", help="Numbers of agents to measure first; from the configuration by default."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder; runs/NAME-scale-TIME by default.")
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option("--devices", metavar="N", help="Compute on N devices of the processor; one per core by default."),
    ] = None,
    executor: Annotated[str | None, typer.Option(metavar="process|ray", help=EXECUTOR)] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help=WORKERS)] = None,
    address: Annotated[str | None, typer.Option(metavar="auto|HOST:PORT", help=ADDRESS)] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="End a number of agents that takes longer.")
    ] = 600.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print scale.json to stdout, and nothing else.")] = False,
) -> None:
    """Find the largest number of agents that keeps a limit on this machine, and what a round costs against it.

    Each number of agents is measured in a process of its own. The folder contains scale.json and report.html, with the
    cost model beside the measured seconds, memory and bytes. Ctrl-C keeps what was measured.
    """
    import json
    import signal
    import sys
    import threading

    from fedrl.cli.examples import say_which
    from fedrl.cli.only_json import only_json
    from fedrl.cli.resuming import FAILED, INTERRUPTED, TERMINATED

    numbers, placed = numbers_of(agents), executor_of(executor, workers, address)
    given = "" if placed is None else ", ".join(f"{key} = {json.dumps(value)}" for key, value in placed.items())
    say_which(config, quiet=quiet or as_json)
    from fedrl.runs.interruption import interruptible
    from fedrl.studies.scaling import scale as measured
    from fedrl.studies.scaling.sentences import headline

    stop = threading.Event()
    with only_json(as_json), interruptible(stop) as heard:
        found = measured(
            config,
            limit,
            out,
            agents=numbers,
            overrides=[*(settings or []), *([f"executor={{{given}}}"] if given else [])],
            devices=devices,
            timeout_s=timeout_s,
            stop=stop,
            verbose=0 if quiet or as_json else 1,
        )
    if as_json:
        typer.echo(json.dumps(found.scale, indent=2))
    sentence = headline(found.scale)
    if found["state"] == "interrupted":
        print(f"{sentence} It is in {found.folder}.", file=sys.stderr)
        raise typer.Exit(TERMINATED if heard.signal == signal.SIGTERM else INTERRUPTED)
    if found["state"] == "none":
        if quiet or as_json:  # else it was shown
            print(sentence, file=sys.stderr)
        raise typer.Exit(NOTHING_KEPT)
    if not any(probe["state"] == "measured" for probe in found["probes"]):
        print(f"error: {found['probes'][0]['reason']}", file=sys.stderr)
        raise typer.Exit(FAILED)


def numbers_of(text: str | None) -> list[int]:
    """Return the numbers of agents in a text such as "10,100,1000"; none without a text.

    Raises:
        ConfigError: One is no whole number.
    """
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdecimal()):
            raise ConfigError(
                f"--agents is {text!r}, and {part!r} is no whole number. Write, for example, --agents 10,100,1000."
            )
    return [int(part) for part in parts]
