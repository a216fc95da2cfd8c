"""`fedrl evaluate`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedrl.cli.devices import use_devices

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedrl.core.measures import Measure


def evaluate_command(
    path: Path,
    episodes: int | None,
    film: Path | None,
    agent: int,
    seed: int | None,
    trust: bool,
    devices: int | None,
    as_json: bool,
) -> None:
    """Evaluate the final policies of each seed, print their greedy returns, and film one episode if `film` is set."""
    use_devices(devices)
    from rich.console import Console

    from fedrl.cli.only_json import only_json
    from fedrl.core.errors import ConfigError, nearest
    from fedrl.records.notices import named
    from fedrl.runs.evaluate import evaluated, played
    from fedrl.runs.measuring import agent_values
    from fedrl.runs.reading import trained
    from fedrl.runs.session import mean_returns

    with only_json(as_json):
        run = trained(path, trust)
    experiment = run.experiment
    agents = experiment.config.federation.agents
    count = experiment.config.evaluation.episodes if episodes is None else episodes
    if not 0 <= agent < agents:
        raise ConfigError(f"--agent is {agent}. The run has agents 0 to {agents - 1}.")
    chosen = next(iter(run.params)) if seed is None else seed
    if chosen not in run.params:
        raise ConfigError(f"--seed is {chosen}. {nearest(str(chosen), map(str, run.params))}")
    if film is not None:
        from fedrl.runs.policy import policy_of, setting_of
        from fedrl.runs.rendering import render

        policy = policy_of(experiment, run.params[chosen], chosen, agent)
        made = render(policy.actor, experiment.environment, setting_of(experiment, agent), chosen, film)
        if not as_json:
            typer.echo(f"{film}: agent {agent}, seed {chosen}, return {made.returned:g} in {made.steps} steps")
    returns: dict[str, list[float | None]] = {}
    declared = evaluated(experiment.learner)
    measures: dict[str, dict[str, list[float | None]]] = {name: {} for name in declared}
    left_out: dict[int, str] = {}
    for s, params in run.params.items():
        with only_json(as_json):
            found = played(
                experiment.learner, experiment.fleet, params, count, s, run.stacked, experiment.config.restarts
            )
        left_out |= {
            each.agent: f"{each.reason}\n{each.traceback}".rstrip() for each in found.failures if not each.repeated
        }
        # JSON has no NaN and no infinity.
        returns[str(s)] = [float(value) if math.isfinite(value) else None for value in mean_returns(found.returns)]
        for name, values in agent_values(experiment.learner, found.sums).items():
            measures[name][str(s)] = values
    sys.stderr.writelines(f"warning: agent {k} left out: {why}\n" for k, why in left_out.items())
    if as_json:
        text = {"episodes": count, "seeds": returns} | ({"measures": measures} if measures else {})
        typer.echo(json.dumps(text))
        return
    console = Console(highlight=False)
    console.print(seeds_table(f"Greedy return, {count} episodes each", returns))
    for name, measure in declared.items():
        console.print(_measured(name, measure, measures[name]))
    # A single episode with a return that is not finite leaves no mean return, so the cell is a dash: say why.
    missing = [i for i in range(agents) if any(values[i] is None for values in returns.values())]
    if missing:
        print(f"{named(missing)}: a return is not finite, so there is none.", file=sys.stderr)


def seeds_table(title: str, found: Mapping[str, Sequence[float | None]], unit: str = "") -> RenderableType:
    """Return a table with a row for each agent and a column for each seed.

    Args:
        title: Its title.
        found: The value of each agent, by seed.
        unit: Unit of the values.
    """
    from rich.console import Group
    from rich.text import Text

    from fedrl.records.formatting import with_unit
    from fedrl.sinks.fitting import Column, ColumnTable, FirstFitting, in_parts, printable, swapped

    agents = max(map(len, found.values()), default=0)
    columns = [Column("agent", [Text(str(i)) for i in range(agents)])]
    columns += [Column(f"seed {s}", [Text(with_unit(x, unit)) for x in values]) for s, values in found.items()]
    forms = [ColumnTable(columns), swapped(columns), *in_parts(columns, None, "")]
    return Group(printable(title, "italic"), FirstFitting(forms), Text())


def _measured(name: str, measure: Measure, found: Mapping[str, Sequence[float | None]]) -> RenderableType:
    """Return the table of one measure: a row for each agent, a column for each seed."""
    from fedrl.records.measured import title_of, unsummarised

    title = title_of(name, {**unsummarised(), "per": measure.per, "unit": measure.unit})
    return seeds_table(title[:1].upper() + title[1:], found, measure.unit)
