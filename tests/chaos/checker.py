"""An independent check of a run: what its coordinator and its sites left on their disks, and what an observer saw.

    events.jsonl, checkpoints, records   no version is lost, none is announced before it is on the disk, no update is
    sent.jsonl of the sites              merged twice or without having come, a stored update is sent as the same bytes
    transcript                           (code of its own, which reads files and entries and nothing of fedrl)
    events.jsonl --ReplayClock-->        the parameters, to the last bit

Each violation is one sentence that begins with the name of the invariant.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

ARRIVED = "arrived"
KINDS = {1: ARRIVED}
LOST, TWICE, UNSEEN, EARLY, BYTES, UNLOGGED, PARAMETERS, STUCK = (
    "version lost",
    "merged twice",
    "merged unseen",
    "announced early",
    "other bytes",
    "left unlogged",
    "other parameters",
    "stuck",
)
INVARIANTS = (LOST, TWICE, UNSEEN, EARLY, BYTES, UNLOGGED, PARAMETERS, STUCK)


def check(
    folder: Path, sites: Iterable[Path], entries: list[dict[str, Any]], tables: Mapping[str, Any], seed: int
) -> list[str]:
    """Return the violations of a run.

    Args:
        folder: Folder of the coordinator.
        sites: Folders of the sites.
        entries: The transcript.
        tables: The experiment.
        seed: Its seed.
    """
    if any(entry["what"] == "stuck" for entry in entries):
        last = max((entry["version"] for entry in entries if entry["what"] == "disk"), default=0)
        return [f"{STUCK}: nothing moved after version {last}.", *_before_the_end(folder, sites, entries)]
    found = _before_the_end(folder, sites, entries)
    return found + versions_kept(folder, entries, tables["rounds"]) + parameters(folder, tables, seed)


def _before_the_end(folder: Path, sites: Iterable[Path], entries: list[dict[str, Any]]) -> list[str]:
    return (
        announcements(entries)
        + merges(folder, entries)
        + bytes_sent(entries)
        + logged(sites, entries)
        + bytes_logged(sites, entries)
    )


def events_of(folder: Path) -> list[tuple[int, list[Any]]]:
    """Return the rounds of a coordinator's log with what its scheduler was told."""
    path = folder / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["round"], line["told"]) for line in lines]


def versions_kept(folder: Path, entries: list[dict[str, Any]], rounds: int) -> list[str]:
    """No version that was on the disk of the coordinator is missing in a later process of it, or at the end."""
    found, last = [], 0
    for entry in entries:
        if entry["what"] != "disk":
            continue
        # A process may write the version again that it began with, and the next one. Who only looks now and then may
        # see later ones.
        if entry["version"] < last or (entry["version"] > last + 1 and not entry.get("sampled")):
            found.append(f"{LOST}: version {entry['version']} was stored after version {last}.")
        last = entry["version"]
    told = [number for number, _ in events_of(folder)]
    if told != list(range(1, rounds + 1)):
        gap = next((i for i, number in enumerate(told, 1) if number != i), len(told) + 1)
        found.append(f"{LOST}: the log has {len(told)} of {rounds} rounds; the first that is missing is {gap}.")
    records = [json.loads(line)["round"] for line in (folder / "records.jsonl").read_text().splitlines()]
    if records != list(range(1, rounds + 1)):
        found.append(f"{LOST}: the records are those of {len(records)} of {rounds} rounds.")
    if last != rounds:
        found.append(f"{LOST}: version {last} is the last one on the disk, of {rounds}.")
    return found


def announcements(entries: list[dict[str, Any]]) -> list[str]:
    """Every version was on the disk before its first announcement, and is announced with the same bytes for ever."""
    found, stored, said = [], {0}, dict[int, str]()
    for entry in entries:
        if entry["what"] == "disk":
            stored.add(entry["version"])
        elif entry["what"] == "sent task":
            version = entry["version"]
            if version not in stored:
                found.append(f"{EARLY}: version {version} was sent to {entry['agent']} and is not on the disk.")
            if said.setdefault(version, entry["hash"]) != entry["hash"]:
                found.append(f"{LOST}: version {version} was announced with two contents.")
    return found


def merges(folder: Path, entries: list[dict[str, Any]]) -> list[str]:
    """Every update is merged once, and only if it came to the coordinator."""
    found, counted = [], dict[tuple[int, int], int]()
    came = {(entry["agent"], entry["job"]) for entry in entries if entry["what"] == "came update"}
    for number, told in events_of(folder):
        for agent, job in arrivals(told):
            if (agent, job) in counted:
                first = counted[agent, job]
                found.append(f"{TWICE}: job {job} of agent {agent}, in rounds {first} and {number}.")
            counted[agent, job] = number
            if came and (f"site-{agent}", job) not in came:
                found.append(f"{UNSEEN}: job {job} of agent {agent} in round {number}, which never came.")
    return found


def arrivals(told: list[Any]) -> list[tuple[int, int]]:
    """Return agent and job of the updates that a scheduler was told of."""
    found = []
    for entry in told:
        if "happened" in entry:
            kinds, agents, _, jobs, _ = entry["happened"]
            found += [(a, j) for kind, a, j in zip(kinds, agents, jobs, strict=True) if KINDS.get(kind) == ARRIVED]
    return found


def bytes_sent(entries: list[dict[str, Any]]) -> list[str]:
    """The update of a job from a version leaves its site as the same bytes, however often."""
    said, found = dict[tuple[str, int, int], str](), []
    for entry in entries:
        if entry["what"] == "left update":
            which = (entry["agent"], entry["job"], entry["version"])
            if said.setdefault(which, entry["hash"]) != entry["hash"]:
                found.append(f"{BYTES}: {which[0]} sent two updates of job {which[1]} from version {which[2]}.")
    return found


def sent_of(site: Path) -> list[dict[str, Any]]:
    """Return the lines of a site's log, without a last one that is cut off."""
    path = site / "sent.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def logged(sites: Iterable[Path], entries: list[dict[str, Any]]) -> list[str]:
    """The log of each site is an unbroken chain, and has every update that left."""
    found, left = [], defaultdict[str, set[str]](set)
    for entry in entries:
        if entry["what"] == "left update":
            left[entry["agent"]].add(entry["frame"])
    for site in sites:
        name, before = site.name.partition(".")[0], "0" * 64
        for line in (site / "sent.jsonl").read_bytes().split(b"\n")[:-1] if (site / "sent.jsonl").exists() else []:
            if json.loads(line)["before"] != before:
                found.append(f"{UNLOGGED}: the log of {name} is broken.")
                break
            before = hashlib.sha256(line).hexdigest()
        missing = left[name] - {line["hash"] for line in sent_of(site)}
        if missing:
            found.append(f"{UNLOGGED}: {len(missing)} updates left {name} without a line in its log.")
    return found


def bytes_logged(sites: Iterable[Path], entries: list[dict[str, Any]]) -> list[str]:
    """The logs of the sites say the same: within one life of the coordinator a job has one version."""
    begun, found = sorted(entry["time"] for entry in entries if entry["what"] == "started" and "time" in entry), []
    for site in sites if begun else ():
        said = dict[tuple[int, int], str]()
        for line in sent_of(site):
            if line["kind"] == "Sent":
                which = (bisect.bisect(begun, line["time"]), line["job"])
                if said.setdefault(which, line["hash"]) != line["hash"]:
                    found.append(f"{BYTES}: {site.name} sent two updates of job {line['job']}.")
    return found


def parameters(folder: Path, tables: Mapping[str, Any], seed: int) -> list[str]:
    """A simulation that is told what the scheduler was told has the parameters of the run."""
    from fedrl.config import load
    from fedrl.config.build import build
    from fedrl.core.errors import RunError
    from fedrl.engines.simulate import simulate
    from fedrl.network.log import ReplayClock, entries_of, replaying

    experiment = build(load(tables))
    try:
        clock = ReplayClock(entries_of((folder / "events.jsonl").read_text().splitlines()))
        again = simulate(
            experiment.federation,
            experiment.fleet,
            executor=replaying(clock),
            scheduler=experiment.coordination.scheduler,
            block=1,
            merges=1,
        )
        state = again.init(seed)
        for _ in range(tables["rounds"]):
            state, _ = again.round(state)
    except RunError as fault:
        return [f"{PARAMETERS}: the log can't be replayed: {fault}"]
    if not clock.finished:
        return [f"{PARAMETERS}: the log has more than {tables['rounds']} rounds."]
    stored = safetensors.numpy.load((folder / "params.safetensors").read_bytes())
    paths = jax.tree_util.tree_leaves_with_path(state.server.params)
    computed = {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(leaf) for p, leaf in paths}
    mine = {name.partition("/")[2]: array for name, array in stored.items() if name.startswith(f"seed{seed}/")}
    if mine.keys() != computed.keys():
        return [f"{PARAMETERS}: the run has {sorted(mine)}, and its replay {sorted(computed)}."]
    return [
        f"{PARAMETERS}: {name} differs in {int((mine[name] != computed[name]).sum())} of {mine[name].size} numbers."
        for name in sorted(mine)
        if mine[name].tobytes() != computed[name].tobytes()
    ]
