"""`fedrl export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import typer

from fedrl.core.errors import ConfigError


def export_command(
    path: Path, to: str | None, seed: int | None, agent: int | None, out: Path | None, trust: bool
) -> None:
    """Write the policy of a run to a file, and print the difference from the policy."""
    from fedrl.core.checks import check_one_of
    from fedrl.runs.export import ENDINGS
    from fedrl.runs.policy import load

    if to is None:
        raise ConfigError(f"Say what to write: --to {', --to '.join(ENDINGS)} for the policy, or --csv for the rounds.")
    check_one_of(to, tuple(ENDINGS), "--to")
    policy = load(path, seed=seed, agent=agent, trust=trust)
    home = path if path.is_dir() else path.parent
    written = policy.export(home / f"policy{ENDINGS[to]}" if out is None else out, to)
    whose = f"seed {policy.seed}" + ("" if policy.agent is None else f", agent {policy.agent}")
    typer.echo(
        f"{written.path}: {whose}; compared with the policy on {written.observations:,} observations: "
        f"they differ by at most {written.difference:.1e} of the largest output"
    )


def export_curves_command(path: Path, given: Mapping[str, object], out: Path | None, trust: bool) -> None:
    """Write the rounds of a run or of a study as CSV, and print how many there are, and what was left out.

    Args:
        path: A run or study folder.
        given: The options that are about policies, by name.
        out: The file; DIR/curves.csv by default.
        trust: Whether to import components of one's own that a study names.
    """
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"--csv writes the rounds of all seeds and methods, and {name} is about a policy. Leave it out."
            )
    from fedrl.core.errors import RunError
    from fedrl.core.imports import importing
    from fedrl.records.files import OTHER_FILE, write_atomically
    from fedrl.records.folder import open_folder
    from fedrl.records.table import table_of, text_of
    from fedrl.studies.folder import is_study
    from fedrl.studies.study_result import study_table

    with importing(trust):
        table = study_table(path) if is_study(path) else table_of(open_folder(path).read())
    if not table.rows:
        raise RunError(
            f"{path} has no round yet, so there is nothing to write. Wait for the first one, or continue it with "
            "--resume."
        )
    file = path / "curves.csv" if out is None else out
    write_atomically(file, text_of(table).encode(), OTHER_FILE)
    for note in table.notes:
        typer.echo(f"warning: {note}", err=True)
    typer.echo(f"{file}: {len(table.rows):,} rounds, {len(table.columns)} columns")
