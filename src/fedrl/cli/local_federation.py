"""A whole federation on one machine: certificates, a site per agent, and a process for each.

    folder/certs/...            the authority, the coordinator's certificate, one per site
    folder/experiment.toml      the experiment, as every party has it
    folder/sites/encryption.key the key that the sites share, for encrypted sums alone
    folder/sites/site-K.toml    the files of the sites;  folder/sites/site-K.log   what its agent printed
    folder/run                  the run folder of the coordinator

The first agent compiles the programs, and the others find them in the cache of programs on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedrl.cli.conducting import conduct, prepare_process, seats_of, transport_of
from fedrl.core.errors import ConfigError, RunError
from fedrl.core.processors import VARIABLE

if TYPE_CHECKING:
    from fedrl.config import Config
    from fedrl.network.bridge import Bridge

PATIENCE_S = 10.0
WARM_S = 120.0
"""Seconds for which the others wait for the first agent's programs."""
END_S = 20.0


def local_federation(
    config: Path,
    agents: int | None,
    state: Path | None,
    changes: Sequence[str],
    *,
    replayable: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run an experiment with a process for the coordinator, which is this one, and for each agent."""
    from fedrl.config import load, tables_of
    from fedrl.runs.coordinate import for_sites

    prepare_process()
    changes = [*changes, *([f"federation.agents={agents}"] if agents is not None else [])]
    loaded = load(for_sites(tables_of(config)), changes)
    folder = state or Path("runs") / f"{loaded.name}-up-{time.strftime('%Y%m%d-%H%M%S')}"
    if not (folder / "sites").exists():
        laid_out(folder, loaded, replayable)
    else:
        check_unchanged(folder, changes)
    table = folder / "certs" / "enrolment.json"
    fleet = Fleet(folder, loaded.federation.agents)
    with fleet.ending():
        conduct(
            folder / "experiment.toml",
            folder / "run",
            transport_of(folder / "certs" / "issued" / "hub", table),
            "localhost:0",
            (),
            quiet=quiet,
            as_json=as_json,
            watch=fleet.watch,
            seat_of=seats_of(table),
            patience_s=PATIENCE_S,
            replayable=replayable,
        )


def laid_out(folder: Path, config: Config, replayable: bool) -> None:
    """Make the folder of a federation: experiment, certificates, and a file for each site."""
    from fedrl.config import dump
    from fedrl.config.build import build
    from fedrl.secure.ckks import make_key_file
    from fedrl.sites.policy import needed
    from fedrl.transport.certificates import init, issue

    experiment = build(config)
    seeds = config.seed_list
    if len(seeds) != 1:
        experiment = build(config_of_one_seed(config))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.toml").write_text(dump(experiment.config))
    init(folder / "certs")
    issue(folder / "certs", "hub", "coordinator", ["localhost", "127.0.0.1"])
    (folder / "sites").mkdir()
    encrypts = experiment.federation.summation.protocol == "ckks"
    if encrypts:
        make_key_file(folder / "sites" / "encryption.key")
    # The narrowest policy with which this federation works: a site of one's own writes what it allows itself.
    bids = None if experiment.upload_budget is None else experiment.upload_budget.requested
    found = dataclasses.asdict(needed(experiment.federation, bids))
    allowed = [f"{key} = {json.dumps(value)}" for key, value in found.items() if value is not None]
    for k in range(config.federation.agents):
        name = f"site-{k}"
        issue(folder / "certs", name)
        lines = [
            'coordinator = "@ADDRESS@"',
            f'certificates = "../certs/issued/{name}"',
            'experiment = "../experiment.toml"',
            f'folder = "{name}"',
            f"seed = {experiment.config.seed_list[0]}" if replayable else "",
            'encryption_key = "encryption.key"' if encrypts else "",
            "[may_leave]",
            *allowed,
        ]
        (folder / "sites" / f"{name}.template").write_text("\n".join(line for line in lines if line) + "\n")


def check_unchanged(folder: Path, changes: Sequence[str]) -> None:
    """Refuse changes of a federation that has its folder already.

    Raises:
        ConfigError: Its experiment would be another one.
    """
    from fedrl.config import load, tables_of

    tables = tables_of(folder / "experiment.toml")
    if config_of_one_seed(load(tables, changes)) != config_of_one_seed(load(tables)):
        raise ConfigError(
            f"The federation in {folder} has its own experiment, and {', '.join(changes)} would change it. Leave the "
            "change out to continue the federation, or name a new folder with --state."
        )


def config_of_one_seed(config: Config) -> Config:
    """Return the configuration with its first seed alone: agents at other sites train once."""
    from dataclasses import replace

    return replace(config, seeds=(config.seed_list[0],))


class Fleet:
    """The processes of the agents.

    Args:
        folder: The folder of the federation.
        agents: Number of agents.
    """

    def __init__(self, folder: Path, agents: int) -> None:
        self._folder, self._agents = folder, agents
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._stop = threading.Event()

    def watch(self, bridge: Bridge) -> None:
        """Begin the agents, now that the coordinator listens, and end it if one of them ends in error."""
        self._stop = bridge.stopping
        threading.Thread(target=self._run, args=(bridge,), daemon=True).start()

    def _run(self, bridge: Bridge) -> None:
        began = time.monotonic()
        for k in range(self._agents):
            self._start(k, bridge.address)
            while k == 0 and not self._first_is_ready(bridge) and time.monotonic() - began < WARM_S:
                if self._ended.is_set() or self._failed():
                    break
                time.sleep(0.1)
        while not self._ended.is_set():
            if self._failed():
                self._stop.set()
                return
            time.sleep(0.2)

    def _first_is_ready(self, bridge: Bridge) -> bool:
        sessions = bridge.sessions
        return sessions is not None and any(seat.ready for seat in sessions.seats)

    def _failed(self) -> bool:
        return any(process.poll() not in (None, 0) for process in self._processes)

    def _start(self, number: int, address: str) -> None:
        sites = self._folder / "sites"
        text = (sites / f"site-{number}.template").read_text().replace("@ADDRESS@", address)
        file = sites / f"site-{number}.toml"
        file.write_text(text)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        command = [sys.executable, "-m", "fedrl", "agent", str(file)]
        with (sites / f"site-{number}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | {VARIABLE: "1"}
            )
        if cores:
            # A process of JAX has a thread for each core it may use, whatever it is told otherwise.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(process.pid, {cores[number % len(cores)]})
        self._processes.append(process)

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """End all processes when the run has ended, and say which of them failed."""
        try:
            yield
        finally:
            self._ended.set()
            deadline = time.monotonic() + END_S
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline - time.monotonic(), 0.1))
                if process.poll() is None:
                    process.kill()
            failed = [k for k, process in enumerate(self._processes) if process.poll() not in (None, 0)]
        if failed:
            log = self._folder / "sites" / f"site-{failed[0]}.log"
            last = log.read_text().strip().splitlines()[-1:] or ["it printed nothing"]
            raise RunError(f"The agent site-{failed[0]} ended with an error: {last[0]} Its output is in {log}.")
