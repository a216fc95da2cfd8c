"""Find the largest number of agents that fits on this machine: one process for each number of agents.

configuration --scalable--> tables --search: Prober(K)--> probes --cost model--> scale.json, report.html
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.config import Config, parse, tables_of
from fedrl.config.overrides import override
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.processors import usable
from fedrl.records.files import write_atomically
from fedrl.records.folder import CONFIG, ELSEWHERE, REPORT, Claim, claimed
from fedrl.runs.interruption import interruptible
from fedrl.studies.folder import PLAN
from fedrl.studies.scaling.cost_model import beside, costs_of, extrapolated, lines_of
from fedrl.studies.scaling.limits import Limit, limit_of
from fedrl.studies.scaling.memory import machine_bytes
from fedrl.studies.scaling.prober import Prober
from fedrl.studies.scaling.progress import ScaleDisplay, scale_progress
from fedrl.studies.scaling.records import Probe, Scale
from fedrl.studies.scaling.scalable import scalable
from fedrl.studies.scaling.scale_result import SCALE, ScaleResult
from fedrl.studies.scaling.search import bracket_of, search
from fedrl.studies.surroundings import named_in

STEPS = (1, 4, 16)
"""Numbers of agents that are measured without a limit, as multiples of that of the configuration."""


def scale(
    source: Config | Mapping[str, Any] | Path | str,
    limit: str | None = None,
    out: Path | str | None = None,
    *,
    agents: Sequence[int] = (),
    overrides: Sequence[str] = (),
    devices: int | None = None,
    timeout_s: float = 600.0,
    most_probes: int = 16,
    most_agents: int = 1_000_000,
    stop: threading.Event | None = None,
    verbose: int = 1,
) -> ScaleResult:
    """Find the largest number of agents that keeps a limit on this machine, and measure what a round costs.

    Each number of agents is measured in a process of its own: rounds of the federation, without baselines and
    evaluation. A process that runs out of memory or time breaks the limit, and the search continues. Ctrl-C and SIGTERM
    end it early, and what was measured is written.

    Args:
        source: A configuration, a dictionary of its tables, or the path of an `experiment.toml`.
        limit: "round <= 1 s", "memory <= 8 GB" or "bytes <= 50 MB" (a round, up and down); None to measure only.
        out: The folder to make; `runs/<name>-scale-<time>` by default.
        agents: Numbers of agents to measure first; by default that of the configuration, and without a limit also 4 and
            16 times as many.
        overrides: Changes of the configuration, such as "learner.num_steps=64".
        devices: Number of devices of the processor; one per core by default.
        timeout_s: Seconds after which the process of one number of agents is ended.
        most_probes: Number of measurements after which the search ends.
        most_agents: The largest number of agents to try.
        stop: An event that ends the measurement early when it is set, as Ctrl-C does.
        verbose: 1 to show progress, 0 to show nothing.

    Returns:
        The content of `scale.json` as a mapping.

    Raises:
        ConfigError: The configuration or the limit is wrong, or the number of agents can't change.
        RunError: The folder already contains something, or is not writable.
    """
    wanted = None if limit is None else limit_of(limit)
    tables, configured = _tables(source, overrides)
    names, first = named_in(tables | {"name": ""}), _first(agents, configured, wanted, most_agents)
    stop = stop or threading.Event()
    beside_file = str(Path(source).parent) if isinstance(source, Path | str) else None
    _check_positive(timeout_s=timeout_s, most_probes=most_probes, most_agents=most_agents)
    if verbose not in (0, 1):
        raise ConfigError(f"verbose is {verbose!r}, which is not known. Set 0 to show nothing, or 1 to show progress.")
    with interruptible(stop), scale_progress(quiet=not verbose) as shown:
        claim = _claimed(out, str(tables["name"]))
        try:
            prober = Prober(tables, beside_file, devices, wanted, timeout_s, stop, shown.doing, names)
            found = _conduct(claim.path, prober, first, most_probes, most_agents, shown)
        except BaseException:
            _discard(claim)
            raise
        claim.release(failed=False)
    return ScaleResult(claim.path, found)


def _tables(source: Any, overrides: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Return the tables to measure, and the number of agents in the configuration."""
    tables = tables_of(source)
    for text in overrides:
        override(tables, text)
    # Before the rest is checked: a fleet of lists may be all that says how many agents there are.
    wanted = scalable(tables)
    agents = parse(wanted).federation.agents
    # Other processes get it as JSON, which has no numbers of NumPy.
    plain: dict[str, Any] = json.loads(json.dumps(wanted, default=_plain))
    return plain, agents


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise ConfigError(f"{value!r} has no place in a configuration file. Give a name, a number or a component.")


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"{name} is {value}. Nothing can be measured with it. Give a number above 0.")


def _first(agents: Sequence[int], configured: int, limit: Limit | None, most_agents: int) -> list[int]:
    """Return the numbers of agents that are measured first."""
    wrong = [k for k in agents if isinstance(k, bool) or not 1 <= k <= most_agents]
    if wrong:
        raise ConfigError(
            f"agents has {wrong[0]!r}. Each is a whole number from 1 to {most_agents:,}. Give, for example, "
            "10,100,1000."
        )
    if agents:
        return sorted(set(agents))
    steps = STEPS if limit is None else STEPS[:1]
    return [min(configured * step, most_agents) for step in steps]


def _conduct(
    place: Path, prober: Prober, first: Sequence[int], most_probes: int, most_agents: int, shown: ScaleDisplay
) -> Scale:
    """Measure one number of agents after another; `scale.json` is written after each."""
    from fedrl.studies.scaling.page import write_scale_report

    name, probes = str(prober.tables["name"]), list[Probe]()
    found = scale_of(name, prober.limit, probes, prober.machine)
    for probe in search(prober, prober.limit, first, most_probes, most_agents):
        probes = sorted([*probes, probe], key=lambda each: each["agents"])
        _check_refused(probes, prober.limit)
        shown.probed(probe)
        found = scale_of(name, prober.limit, probes, prober.machine)
        _write(place, found)
    if prober.interrupted:
        found["state"] = "interrupted"
    elif found["state"] == "open":
        found["notes"] = [*found["notes"], *_reasons(probes, most_probes, most_agents)]
    _write(place, found)
    report = str(write_scale_report(found, place / REPORT))
    shown.ended(found, str(place), report)
    return found


def scale_of(name: str, limit: Limit | None, probes: Sequence[Probe], machine: Mapping[str, Any]) -> Scale:
    """Return the content of `scale.json` for some probes.

    Args:
        name: Name of the experiment.
        limit: The limit; None if only given numbers were measured.
        probes: What was measured.
        machine: What the processes said of the machine.
    """
    lines, bracket = lines_of(probes), bracket_of(probes)
    kept = None if limit is None else bracket.kept
    state: Any = "measured"
    if limit is not None:
        state = "none" if kept is None else "found" if bracket.narrow else "open"
    told = [probe | {"model": beside(probe, lines)} if probe["state"] == "measured" else probe for probe in probes]
    return Scale(
        name=name,
        limit=None if limit is None else {"quantity": limit.quantity, "most": limit.most, "text": str(limit)},
        state=state,
        agents=kept,
        broken=None if limit is None else bracket.broken,
        notes=[],
        machine={"cores": usable().number, "memory_bytes": machine_bytes(), **machine},
        model=costs_of(lines),
        probes=told,
        extrapolated=extrapolated(lines),
    )


def _check_refused(probes: Sequence[Probe], limit: Limit | None) -> None:
    """Refuse a configuration that can't be built with any other number of agents than one, or with none.

    Raises:
        ConfigError: With the reason of the first number that was refused.
    """
    refused = [probe for probe in probes if probe["state"] == "refused"]
    if not refused:
        return
    if len(refused) == len(probes) and (limit is not None or len(probes) == 1):
        raise ConfigError(refused[0]["reason"])
    if limit is not None and len(probes) == 2 and probes[0]["holds"]:
        raise ConfigError(
            f"federation.agents = {refused[0]['agents']}: {refused[0]['reason']} So the number of agents of this "
            "experiment can't grow: change that part, or measure the numbers that it allows, with --agents."
        )


def _reasons(probes: Sequence[Probe], most_probes: int, most_agents: int) -> list[str]:
    """Return why a search ended before its bracket was narrow."""
    if any(probe["state"] == "refused" for probe in probes):
        return ["The search ended at a number of agents with which the experiment can't be built."]
    if len(probes) >= most_probes:
        return [f"The search ended after {most_probes} measurements."]
    return [f"The search ended at the largest number of agents, {most_agents:,}."]


def _claimed(out: Path | str | None, name: str) -> Claim:
    """Make the folder of a measurement.

    Raises:
        RunError: It holds a run or a study, another process writes to it, or it can't be made.
    """
    path = None if out is None else Path(out)
    if path is not None and any((path / each).exists() for each in (CONFIG, PLAN)):
        raise RunError(f"{path} already holds a run or a study. {ELSEWHERE}")
    return claimed(path, f"{name}-scale", SCALE, "scale")


def _discard(claim: Claim) -> None:
    """Remove what a measurement that failed has written, and release its folder."""
    (claim.path / SCALE).unlink(missing_ok=True)
    claim.release(failed=True)


def _write(place: Path, scale: Scale) -> None:
    write_atomically(place / SCALE, (json.dumps(scale, indent=2, allow_nan=False) + "\n").encode(), ELSEWHERE)
