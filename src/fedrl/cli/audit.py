"""`fedrl audit`, with its command; it imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrl.cli.completion import CONFIG, experiments

if TYPE_CHECKING:
    from fedrl.audit.mechanism import MechanismAudit
    from fedrl.audit.one_run import WholeAudit
    from fedrl.config.objects import Experiment

NOT_SHOWN = 3
"""Exit code of an audit that refutes the claim, or that has no power to refute anything."""
DELTA = 1e-5
"""The delta at which epsilon is stated, if neither the command nor the configuration has one."""
WIDTH = 12
"""Width of the longest name of a line."""

audit = typer.Typer(
    name="audit",
    help="Test with measurements what a configuration claims.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@audit.callback()
def audits() -> None:
    """Test with measurements what a configuration claims."""


@audit.command("privacy", no_args_is_help=True)
def privacy_command(
    config: Annotated[Path, typer.Argument(help=CONFIG, autocompletion=experiments)],
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", help="Repetitions with the canary, and as many without.")
    ] = 8000,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", help="Rounds of a repetition; as configured, at most 10, by default."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="The delta at which epsilon is stated; 1e-5 by default.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all noise.")] = 0,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Instead, train once with half of the agents and guess which: a smoke test of the whole pipeline.",
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the configuration; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Test a claim of differential privacy with the functions that a run uses, and an agent made to be found out.

    The claimed curve of epsilon and delta is tested as a whole, in both directions. Exit code 3: the claim is refuted,
    or there are too few repetitions to refute anything.
    """
    import json

    from fedrl.cli.examples import say_which
    from fedrl.launch import configure_jax

    say_which(config, quiet=as_json)
    configure_jax()
    from fedrl.cli.only_json import only_json
    from fedrl.config import load
    from fedrl.config.build import build

    with only_json(as_json):
        experiment = build(load(config, settings or []))
        stated = _delta_of(experiment) if delta is None else delta
        found = (
            whole_of(experiment, rounds, stated, seed)
            if whole
            else mechanism_of(experiment, rounds, stated, seed, runs)
        )
    if as_json:
        typer.echo(json.dumps(as_table(experiment.config.name, found), indent=2))
    else:
        write_lines(experiment.config.name, found)
    if found.verdict != "not refuted":
        raise typer.Exit(NOT_SHOWN)


def mechanism_of(experiment: Experiment, rounds: int | None, delta: float, seed: int, runs: int) -> MechanismAudit:
    """Audit the noise of an experiment's federation."""
    from fedrl.audit.canary import audited
    from fedrl.audit.mechanism import MOST_ROUNDS, audit_mechanism

    where = experiment.coordination
    mechanism = audited(experiment.federation, experiment.fleet, where.scheduler, where.topology)
    wanted = min(experiment.config.rounds, MOST_ROUNDS) if rounds is None else rounds
    return audit_mechanism(mechanism, wanted, delta, runs=runs, seed=seed)


def whole_of(experiment: Experiment, rounds: int | None, delta: float, seed: int) -> WholeAudit:
    """Audit one run of an experiment, training included."""
    from fedrl.audit.one_run import audit_whole

    where = experiment.coordination
    return audit_whole(
        experiment.federation,
        experiment.fleet,
        experiment.config.rounds if rounds is None else rounds,
        delta,
        scheduler=where.scheduler,
        topology=where.topology,
        clock=where.clock,
        seed=seed,
    )


def as_table(name: str, found: MechanismAudit | WholeAudit) -> dict[str, Any]:
    """Return the output of `--json`."""
    table = {"name": name, "audit": "mechanism" if hasattr(found, "checks") else "whole", **found._asdict()}
    if "checks" in table:
        table["checks"] = [check._asdict() for check in table["checks"]]
    return table


def write_lines(name: str, found: MechanismAudit | WholeAudit) -> None:
    """Print a result as lines of a name and a sentence."""
    from rich.console import Console

    from fedrl.audit.sentences import lines
    from fedrl.sinks.fitting import name_values, printable, write

    console = Console(highlight=False)
    write(console, printable(f"Audit of {name}", "italic"))
    write(console, name_values([(title, printable(text)) for title, text in lines(found)], WIDTH))


def _delta_of(experiment: Experiment) -> float:
    section = getattr(experiment.config.federation, "privacy", None)
    found = section.get("delta") if isinstance(section, dict) else getattr(section, "delta", None)
    return DELTA if found is None else float(found)
