"""`fedrl export`."""

from __future__ import annotations

from pathlib import Path

import typer


def export_command(path: Path, to: str, seed: int | None, agent: int | None, out: Path | None, trust: bool) -> None:
    """Write the policy of a run to a file, and print the difference from the policy."""
    from fedrl.core.checks import check_one_of
    from fedrl.runs.export import ENDINGS
    from fedrl.runs.policy import load

    check_one_of(to, tuple(ENDINGS), "--to")
    policy = load(path, seed=seed, agent=agent, trust=trust)
    home = path if path.is_dir() else path.parent
    written = policy.export(home / f"policy{ENDINGS[to]}" if out is None else out, to)
    whose = f"seed {policy.seed}" + ("" if policy.agent is None else f", agent {policy.agent}")
    typer.echo(
        f"{written.path}: {whose}; compared with the policy on {written.observations:,} observations: "
        f"they differ by at most {written.difference:.1e} of the largest output"
    )
