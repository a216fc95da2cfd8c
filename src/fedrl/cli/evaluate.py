"""`fedrl evaluate`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import typer


def evaluate_command(
    path: Path, episodes: int | None, film: Path | None, agent: int, seed: int | None, as_json: bool
) -> None:
    """Evaluate what the agents of each seed ended with, and film one episode if asked to."""
    from fedrl.launch import prepare

    prepare()
    import jax
    from rich.console import Console
    from rich.table import Table

    from fedrl.core.errors import ConfigError, nearest
    from fedrl.core.keys import Purpose, run_key
    from fedrl.experiments.evaluate import returns_of
    from fedrl.experiments.notices import named
    from fedrl.experiments.reading import trained
    from fedrl.experiments.session import mean_returns

    run = trained(path)
    experiment = run.experiment
    agents = experiment.config.federation.agents
    count = experiment.config.evaluation.episodes if episodes is None else episodes
    if not 0 <= agent < agents:
        raise ConfigError(f"--agent is {agent}. The run has agents 0 to {agents - 1}.")
    chosen = next(iter(run.params)) if seed is None else seed
    if chosen not in run.params:
        raise ConfigError(f"--seed is {chosen}. {nearest(str(chosen), map(str, run.params))}")
    if film is not None:
        from fedrl.experiments.rendering import render

        setting = jax.tree.map(lambda leaf: leaf[agent], experiment.fleet)
        policy = run.params[chosen]
        policy = jax.tree.map(lambda leaf: leaf[agent], policy) if run.stacked else policy
        earned = render(experiment.learner, setting, policy, run_key(chosen, Purpose.EVALUATION), film)
        if not as_json:
            typer.echo(f"{film}: agent {agent}, seed {chosen}, return {earned:g}")
    returns: dict[str, list[float | None]] = {}
    for s, params in run.params.items():
        played = returns_of(experiment.learner, experiment.fleet, params, count, s, run.stacked)
        returns[str(s)] = [float(value) if math.isfinite(value) else None for value in mean_returns(played)]
    if as_json:
        typer.echo(json.dumps({"episodes": count, "seeds": returns}))
        return
    table = Table("agent", *(f"seed {s}" for s in returns), title=f"Greedy return, {count} episodes each")
    for column in table.columns[1:]:
        column.justify = "right"
    for i in range(agents):
        table.add_row(str(i), *(_shown(values[i]) for values in returns.values()))
    Console().print(table)
    missing = [i for i in range(agents) if any(values[i] is None for values in returns.values())]
    if missing:
        print(f"{named(missing)}: a return is not finite, so there is none.", file=sys.stderr)


def _shown(value: float | None) -> str:
    from fedrl.experiments.quantities import NOTHING

    return NOTHING if value is None else f"{value:.1f}"
