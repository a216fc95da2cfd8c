"""Read a run folder, also of an interrupted or damaged run."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrl.core.errors import ConfigError, RunError
from fedrl.records import METHODS, WITHOUT_ROUNDS, MeasureResult, Range, RejectedUpdates
from fedrl.records.files import read_json, read_records
from fedrl.records.formatting import NOTHING, ends, number
from fedrl.records.measured import OWN_KEYS, RETURN, unsummarised, value_in
from fedrl.records.notices import notices_of
from fedrl.records.rejections import rejections_of
from fedrl.records.statistics import Interval, interval, seed_means, shared_by_all

NAMES_OF_TIME = ("virtual time", "time of the run")
"""What the seconds on the clock are called: where time is simulated, and where it is real."""


@dataclass(frozen=True)
class Run:
    """The content of a run folder.

    Attributes:
        folder: Path of the folder.
        config: The text of its configuration.
        settings: The same, parsed; empty if it is not valid TOML.
        records: The record of each round; of a round that was run twice, as after resuming, the later one.
        summary: The summary; empty if the run has not written it.
        notes: Missing or damaged content, a sentence each.
    """

    folder: Path
    config: str
    settings: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    notes: list[str]

    @property
    def name(self) -> str:
        """Name of the experiment, or else of the folder."""
        return str(self.summary.get("name") or self.settings.get("name") or self.folder.name)

    @property
    def real_time(self) -> bool:
        """Whether the agents were at other sites, so that the clock was a real one."""
        # Without a summary, as of a coordinator that was killed, its log tells.
        return bool(self.summary.get("real_time")) or (self.folder / "events.jsonl").exists()

    @property
    def name_of_time(self) -> str:
        """What the seconds on the clock are called, one of `NAMES_OF_TIME`."""
        return NAMES_OF_TIME[self.real_time]

    @property
    def methods(self) -> list[str]:
        """Methods with a record, the federated one first."""
        seen = dict.fromkeys(str(record.get("method")) for record in self.records)
        return [m for m in METHODS if m in seen] + [m for m in seen if m not in METHODS]

    @property
    def seeds(self) -> list[int]:
        """Seeds with a record."""
        return sorted({int(record["seed"]) for record in self.records})

    @property
    def agents(self) -> int:
        """Number of agents."""
        # From the longest list, as the records of the centralised method have one agent.
        lengths = [len(record[key]) for record in self.records for key in ("agents", "greedy") if record.get(key)]
        return max([len(self.summary.get("agents") or ()), *lengths])

    def of(self, method: str) -> list[dict[str, Any]]:
        """Return the records of one method."""
        return [record for record in self.records if record.get("method") == method]

    def final_returns(self, method: str) -> np.ndarray:
        """Return the last greedy returns, `[seeds, agents]`; NaN where there is none."""
        last = {
            record["seed"]: [number(value) for value in record["greedy"]]
            for record in self.of(method)
            if record.get("greedy")
        }
        table = np.full((len(last), self.agents), np.nan)
        for row, seed in enumerate(sorted(last)):
            table[row, : len(last[seed])] = last[seed]
        return table

    def seed_returns(self, method: str) -> np.ndarray:
        """Return the final greedy return of each seed, the mean over its agents; see `seed_means`."""
        means = seed_means(self.final_returns(method))
        return means[np.isfinite(means)]

    def compared_returns(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the final returns of federation and baseline, over the agents for which both have a return."""
        tables = [self.final_returns(name) for name in ("federated", method)]
        # Otherwise the methods would be compared over different agents.
        both = np.all([shared_by_all(table)[1] for table in tables], axis=0)
        ours, theirs = (seed_means(table[:, both]) for table in tables)
        return ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]

    @property
    def rejections(self) -> dict[str, RejectedUpdates]:
        """Rejected updates of each method, from the records, so that an interrupted run has them, too."""
        return rejections_of(self.records)

    @property
    def notices(self) -> list[str]:
        """Sentences about rejected updates and agents that are left out."""
        return notices_of({"seeds": self.seeds, **self.summary, "rejections": self.rejections})

    def agent_returns(self, method: str) -> dict[int, float]:
        """Return the final greedy return of each agent, from the summary, or else the mean over seeds."""
        if method == "federated":
            listed = self.summary.get("agents")
        else:
            listed = (self.summary.get("baseline_agents") or {}).get(method)
        if listed:
            return {int(agent["id"]): number(agent.get("return")) for agent in listed}
        table = self.final_returns(method)
        seeds, agents = shared_by_all(table)
        means = table[seeds].mean(0) if seeds.any() else np.full(table.shape[1], np.nan)
        return {i: float(means[i]) if known else math.nan for i, known in enumerate(agents)}

    @property
    def measures(self) -> dict[str, MeasureResult]:
        """Measures from the summary; for a run without one, the names of those in its records."""
        summarised = self.summary.get("measures") or {}
        text = dict.fromkeys(name for r in self.records for name in (*(r.get("measures") or {}), *OWN_KEYS))
        known = [name for name in text if any(value_in(r, name) is not None for r in self.records) and name != RETURN]
        return {name: summarised.get(name) or unsummarised() for name in dict.fromkeys((*summarised, *known))}

    def spread(self, method: str) -> str:
        """Return the ends of the interval of the final return in words; a dash with one seed."""
        seeds = len(self.seed_returns(method)) or len(self.seeds)
        found = self.final_range(method)
        return ends(found["low"], found["high"]) if seeds > 1 else NOTHING

    @property
    def costs(self) -> dict[str, Any]:
        """Time, steps and bytes from the summary; without one, from sums over the records."""
        last = {(r["method"], r["seed"]): number(r.get("environment_steps")) for r in self.records}
        last = {key: steps for key, steps in last.items() if key[0] not in WITHOUT_ROUNDS}
        seeds = max(len({r["seed"] for r in self.of("federated")}), 1)
        sent = ("bytes_up", "bytes_down", "messages_up", "messages_down")
        # Bytes of records are those of a round, while steps are cumulative.
        added = {name: sum(number(r.get(name)) for r in self.of("federated")) / seeds for name in sent}
        added["environment_steps"] = sum(last.values())
        return added | {name: value for name, value in self.summary.items() if value is not None}

    def final_range(self, method: str) -> Range:
        """Return the final greedy return with its interval, from the summary, or else computed from the records."""
        summary = self.summary
        found = summary.get("final_return") if method == "federated" else (summary.get("baselines") or {}).get(method)
        if found:
            return Range(mean=found.get("mean"), low=found.get("low"), high=found.get("high"))
        values = self.seed_returns(method)
        return (interval(values) if values.size else Interval(np.nan, np.nan, np.nan)).as_range()


def read_run(folder: Path) -> Run:
    """Return the content of a run folder, also of an interrupted run.

    Raises:
        ConfigError: The folder has no records.
    """
    path = folder / "records.jsonl"
    if not path.is_file():
        raise ConfigError(f"{folder} has no records.jsonl, so it is no run folder. Give the folder of a run.")
    found = read_records(path)
    # Seeds run in parallel, so their lines are interleaved in the file.
    records = sorted(found.records, key=lambda r: (str(r["method"]), int(r["seed"]), int(r["round"])))
    config, settings = _config(folder / "config.toml")
    summary = _summary(folder / "summary.json")
    run = Run(folder, config, settings, records, summary or {}, [])
    notes = [*found.notes(torn=True), *(summary or {}).get("notes", ())]
    run.notes.extend(dict.fromkeys(notes))
    # The text is shown anyway: a person may still read what a parser can't.
    if config and not settings:
        run.notes.append("config.toml is damaged; the configuration is left out.")
    if summary is None:
        run.notes.append("summary.json is damaged; all numbers are computed from the records.")
    if run.summary.get("failure"):
        run.notes.append(f"This run was ended by an error: {run.summary['failure']}")
    run.notes.extend(_interruptions(run))
    return run


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        return "", {}
    text = path.read_text("utf-8", errors="replace")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return text, {}


def _summary(path: Path) -> dict[str, Any] | None:
    """Return the summary; empty if there is none, None if it is damaged."""
    try:
        return read_json(path, "") or {}
    except RunError:
        return None


def _interruptions(run: Run) -> list[str]:
    """Return sentences on where the run was interrupted, from its summary and its records."""
    if not run.records:
        early = not run.summary.get("ended")
        return ["This run was interrupted before its first round ended."] if early else []
    notes = [] if run.summary else ["This run has no summary: it was interrupted, or is still running."]
    planned, seeds = run.summary.get("rounds"), run.summary.get("seeds") or []
    if not isinstance(planned, int) or not isinstance(seeds, list):
        return notes
    for method in run.methods:
        last = {record["seed"]: int(record["round"]) for record in run.of(method)}
        if method == "federated":  # these were not interrupted, and a notice says why they ended
            last |= {each["seed"]: planned for each in run.summary.get("ended") or ()}
        short = {seed: last.get(seed, 0) for seed in seeds if last.get(seed, 0) < planned}
        if short and method not in WITHOUT_ROUNDS:
            where = ", ".join(f"seed {seed} after round {done}" for seed, done in short.items() if done)
            never = ", ".join(str(seed) for seed, done in short.items() if not done)
            parts = [f"{where} of {planned}" if where else "", f"before seed {never} began" if never else ""]
            notes.append(f"This run was interrupted: {method} stopped {' and '.join(filter(None, parts))}.")
    wanted = run.settings.get("baselines")
    # A baseline that never started has no record: only the configuration shows that it was planned.
    never_ran = [m for m in METHODS if isinstance(wanted, dict) and wanted.get(m) is True and m not in run.methods]
    if never_ran:
        notes.append(f"This run was interrupted before {', '.join(never_ran)} began.".replace("_", " "))
    return notes
