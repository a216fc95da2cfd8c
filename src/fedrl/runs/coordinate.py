"""Coordinate agents at other sites: a run like any other, whose agents are not simulated.

experiment.toml --run--> run folder, with a checkpoint after every version, before the next one is announced
                  |
                  +-- executor --> Bridge <--transport--> agents at their sites

The coordinator may end at any time, also by `kill -9`. Called again with the same folder it continues from the last
version on disk; agents that have an update for it send the same bytes again.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrl.config import Config, load, tables_of
from fedrl.config.build import build
from fedrl.core.errors import ConfigError, FedrlError, RunError
from fedrl.core.imports import is_reference
from fedrl.network.bridge import AGAIN, Bridge
from fedrl.network.choices import HANG_S, PATIENCE_S, sites
from fedrl.network.clock import RealClock
from fedrl.network.log import line_of
from fedrl.network.membership import SeatOf
from fedrl.network.observer import Observer
from fedrl.records import Event, Notice, Sink, folder
from fedrl.records.files import write_atomically
from fedrl.records.folder import EVENTS, RunFolder
from fedrl.runs.control import Control
from fedrl.runs.coordinator_log import LOG, CoordinatorLog, TransportMessages
from fedrl.runs.result import RunResult
from fedrl.runs.run import resume, run
from fedrl.transport.seam import Transport
from fedrl.wire.protocol import Stop

DONE = Stop("The run is complete.", "done", False)
KEYS = {True: "replayable", False: "each party's own"}
"""The two modes of keys, as the identity of a run names them."""
TRANSPORT = logging.getLogger("fedrl.transport")
"""Where a transport says whom it does not admit, and whose session it ends."""
FOR_PEOPLE = ("waiting", "ready", "disconnected", "left", "hung")
"""Events of which people are told at once; the others are in the log, and counted at the end."""
IDENTITY = "run_identity"
"""The file in a run folder with the identity of the run, under which agents keep their states."""


def coordinate(
    source: Config | Mapping[str, Any] | Path | str,
    state: Path | str,
    transport: Transport,
    address: str,
    *,
    overrides: Sequence[str] = (),
    seat_of: SeatOf | None = None,
    gather: int | None = None,
    patience_s: float = PATIENCE_S,
    hang_s: float = HANG_S,
    replayable: bool = False,
    sinks: Sequence[Sink] = (),
    stop: threading.Event | None = None,
    watch: Callable[[Bridge], object] | None = None,
    health: int | None = None,
    verbose: int = 1,
) -> RunResult:
    """Run an experiment whose agents are at other sites, or continue it, and write its run folder.

    A round is one version of the server's parameters. Baselines are left out, because they would need the environments
    of the sites; greedy returns are those of the environments that the configuration describes. The virtual clock of
    the configuration, if it has one, gives way to real time.

    Args:
        source: The experiment, as of `fedrl.run`. A run that is continued has its own in the folder, and another one
            than that is refused; one that is gone or can't be read is not looked at.
        state: The run folder, new or of this run.
        transport: How frames travel.
        address: Where to listen, HOST:PORT.
        overrides: Changes of the configuration.
        seat_of: `name -> number` of an agent, or why it has none; by default in the order in which they come.
        gather: Number of agents that have to be there before the first job is given; by default all seats.
        patience_s: Seconds for which an agent that has lost its connection keeps its job.
        hang_s: Seconds without progress after which the job of an agent that is connected counts as hung.
        replayable: Whether all agents derive their keys from the seed of the run, which makes the run repeatable to the
            last bit, and lets every agent derive the randomness of the others. By default each site draws its own.
        sinks: As of `fedrl.run`.
        stop: As of `fedrl.run`.
        watch: Called with the bridge, which has the address that was taken, as soon as agents may connect.
        health: Port of /healthz and /readyz on 127.0.0.1; by default there is none.
        verbose: As of `fedrl.run`.

    Raises:
        ConfigError: The configuration is wrong, has several seeds, or is another one than that of the run that is
            continued; an option is out of range; or the address is taken.
        UnsoundError: Its parts can't be combined.
        RunError: The folder is one of another run, or not writable.
    """
    place, stop = Path(state), threading.Event() if stop is None else stop
    again = (place / folder.CONFIG).exists()
    given, name, agents = _experiment(place, source, overrides)
    if again:
        _check_continued(place, replayable)
        _make_known(source)
    _check_waiting(agents, gather, patience_s, hang_s)
    bridge = Bridge(
        transport,
        address,
        stop=stop,
        run=lambda: _identity(place, replayable),
        name=name,
        replayable=replayable,
        observer=(watcher := Watcher(place, sinks, watch)),
    )
    watcher.control = Control(bridge, place, health)
    placement = sites(bridge, seat_of, gather, patience_s, hang_s)
    told: list[Sink] = [watcher.events, watcher.count, *sinks]
    farewell = AGAIN
    try:
        if again:
            result = resume(place, executor=placement, sinks=told, stop=stop, verbose=verbose)
        else:
            result = run(
                for_sites(given),
                place,
                overrides=overrides,
                executor=placement,
                sinks=told,
                stop=stop,
                verbose=verbose,
            )
        if not stop.is_set():
            farewell = DONE
        for sentence in watcher.left_out():
            watcher.say(sentence)
        return result
    finally:
        watcher.tell("ended", f"The coordinator ends: {farewell.why}")
        bridge.close(farewell)


def _experiment(
    place: Path, source: Config | Mapping[str, Any] | Path | str, overrides: Sequence[str]
) -> tuple[dict[str, Any], str, int]:
    """Return the tables, the name and the agents of an experiment: those in the run folder, if there is one.

    Raises:
        ConfigError: The overrides would change a run that is continued, or the experiment has several seeds.
    """
    again = (place / folder.CONFIG).exists()
    given = tables_of(place / folder.CONFIG if again else source)
    config = load(given, () if again else overrides)
    if again and load(given, overrides) != config:
        raise ConfigError(
            f"The run in {place} has its own configuration, and {', '.join(overrides)} would change it. Leave the "
            "change out to continue the run, or begin another one in a new folder."
        )
    if again:
        _check_same(place, config, source, overrides)
    seeds = config.seed_list
    if len(seeds) != 1:
        raise ConfigError(
            f"The experiment has {len(seeds)} seeds. Agents at other sites train once, so one run has one seed. Write "
            "seeds = 1, or seeds = [7] for a certain one."
        )
    return given, config.name, config.federation.agents


def _check_waiting(agents: int, gather: int | None, patience_s: float, hang_s: float) -> None:
    """Refuse to wait for more agents than there are, or for a time that is none.

    Raises:
        ConfigError: A number is out of range.
    """
    if gather is not None and not 0 < gather <= agents:
        raise ConfigError(
            f"The run would begin with {gather} agents, and the experiment has {agents}. Wait for a number from 1 to "
            f"{agents}."
        )
    for name, value in (("patience", patience_s), ("time without progress", hang_s)):
        if not value >= 0.0:  # NaN is not
            raise ConfigError(f"The {name} is {value:g} s, which is no time. Give 0 or more seconds.")


class Watcher(Observer):
    """Writes the log of the scheduler and the log of the coordinator, and tells people what concerns them.

    Args:
        place: The run folder.
        sinks: Who is told.
        watch: Called when agents may connect.

    Attributes:
        events: The log of the scheduler, a sink.
        control: The commands of the operator.
    """

    def __init__(self, place: Path, sinks: Sequence[Sink], watch: Callable[[Bridge], object] | None) -> None:
        self.events, self._log, self._sinks, self._watch = EventLog(place), CoordinatorLog(place / LOG), sinks, watch
        self.control: Control | None = None
        self._run, self._transport = "", TransportMessages(lambda text: self.tell("turned_away", text))

    async def begin(self) -> None:
        """Listen to commands."""
        if self.control is not None:
            await self.control.begin()
        TRANSPORT.addHandler(self._transport)

    async def end(self) -> None:
        """Listen to commands no more."""
        if self.control is not None:
            await self.control.end()
        TRANSPORT.removeHandler(self._transport)

    def listening(self, bridge: Bridge) -> None:
        """Note the identity of the run and the address."""
        self._run = bridge.run
        self.tell("listening", f"Agents may connect to {bridge.address}.")
        if self._watch is not None:
            self._watch(bridge)

    def follow(self, clock: RealClock) -> None:
        """Note the log of the scheduler, and what is known about agents."""
        self.events.follow(clock)
        if self.control is not None:
            self.control.roster = clock.roster

    def tell(self, event: str, text: str, agent: int | None = None, name: str = "", job: int | None = None) -> None:
        """Write an event to the log, and tell people if it is for them."""
        version = None if self.control is None else self.control.round or None  # not known before the first round
        self._log.write(event, text, run=self._run, version=version, agent=agent, name=name, job=job)
        if event in FOR_PEOPLE:
            self.say(text)

    def say(self, text: str) -> None:
        """Tell people a sentence."""
        for sink in self._sinks:
            sink(Notice(event="notice", text=text))

    def count(self, event: Event) -> None:
        """Note the end of a round."""
        if "event" in event or self.control is None:
            return
        self.control.round = int(event.get("round", self.control.round))
        self.control.privacy = event.get("privacy")
        self.tell("merged", f"Version {self.control.round} is complete and on the disk.")

    def left_out(self) -> list[str]:
        """Return sentences about what was received and not used, and about what is not in the logs."""
        again = f"{self._log.left_out} events came again within a minute and are not in {LOG}."
        found = [*self.events.left_out(), *([again] if self._log.left_out else [])]
        return [*found, *([self._log.fault] if self._log.fault else [])]


class EventLog:
    """Writes what the scheduler was told (`fedrl.network.log`), a line per round, into `EVENTS`.

    It is on the disk before the round's checkpoint is: `RunFolder.syncing` sees to it.

    Args:
        place: The run folder.
    """

    def __init__(self, place: Path) -> None:
        self._path, self._begun = place / EVENTS, False  # whether this process has written a line
        self._clock: RealClock | None = None

    def follow(self, clock: RealClock) -> None:
        """Take the entries of this clock."""
        self._clock = clock

    def left_out(self) -> list[str]:
        """Return sentences about what was received and not used."""
        if self._clock is None:
            return []
        roster, sessions = self._clock.roster, self._clock.bridge.sessions
        late, known = int(roster.late.sum()), int(roster.known.sum())
        sent_away = {} if sessions is None else sessions.refused
        found = []
        if late:
            found.append(f"{late} updates came after the end of their jobs, and were not merged.")
        if known:
            found.append(f"{known} updates came again, and were merged once.")
        if sent_away:
            told = ", ".join(f"{count} for {code}" for code, count in sorted(sent_away.items()))
            found.append(f"Connections were sent away: {told}.")
        return found

    def __call__(self, event: Event) -> None:
        """Write the entries of a round when its record comes."""
        if "event" in event or self._clock is None:
            return
        entries, number = list(self._clock.log), int(event.get("round", 0))
        self._clock.log.clear()
        lines = self._path.read_text().splitlines() if self._path.exists() and number > 1 and not self._begun else None
        if lines is not None:
            # A round that was computed and not stored is computed again, and told again.
            write_atomically(self._path, "".join(f"{line}\n" for line in lines[: number - 1]).encode())
        self._begun = True
        with self._path.open("a" if number > 1 else "w") as file:
            file.write(f"{line_of(number, entries)}\n")


def for_sites(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without baselines, in real time, with a checkpoint after every version."""
    section = dict(tables.get("federation", {}))
    if section.get("clock") is None:
        section["clock"] = {}
    return {**tables, "federation": section, "baselines": {}, "checkpoint_s": 0.0}


def _identity(place: Path, replayable: bool) -> str:
    """Return the identity of the run in a folder, which is drawn once and kept with the mode of its keys."""
    path = place / IDENTITY
    if not path.exists():
        write_atomically(path, f"{secrets.token_hex(16)} {KEYS[replayable]}\n".encode())
    return path.read_text().split()[0]


def _make_known(source: Config | Mapping[str, Any] | Path | str) -> None:
    """Import the components of the operator's own that their experiment names, if it is still there.

    A run folder may be someone else's, so nothing that only its own configuration names is imported.
    """
    try:
        tables = tables_of(source)
    except FedrlError:
        return
    if _names_own(tables):
        build(load(tables))


def _names_own(table: Any) -> bool:
    """Return whether tables name modules, or objects in them."""
    if isinstance(table, Mapping):
        return "imports" in table or any(map(_names_own, table.values()))
    if isinstance(table, list | tuple):
        return any(map(_names_own, table))
    return is_reference(table)


def _check_same(
    place: Path, config: Config, source: Config | Mapping[str, Any] | Path | str, overrides: Sequence[str]
) -> None:
    """Refuse to continue a run with another experiment, of which nothing would be used.

    Raises:
        ConfigError: The experiment is another one than that of the run.
    """
    try:
        now = build(load(for_sites(tables_of(source)), overrides)).config
    except FedrlError:
        return  # an experiment that is gone or can't be read changes nothing: the run has its own
    if now == config:
        return
    mine, theirs = _flat(tables_of(now)), _flat(tables_of(config))
    key = next((key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)), "configuration")
    raise ConfigError(
        f"{key} is {mine.get(key)!r} in this experiment, and {theirs.get(key)!r} in that of the run in {place}. Give "
        "the experiment of the run to continue it, or begin another one in a new folder."
    )


def _flat(tables: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found


def _check_continued(place: Path, replayable: bool) -> None:
    """Refuse to continue a run that is complete, or whose agents have the other kind of keys.

    Raises:
        RunError: It is complete, or its identity is damaged.
        ConfigError: Its keys are of the other kind.
    """
    if RunFolder(place).complete:
        raise RunError(f"The run in {place} is complete. Begin another one in a new folder.")
    if not (place / IDENTITY).exists():
        return  # it ended before anyone could connect
    _, _, keys = (place / IDENTITY).read_text().strip().partition(" ")
    if keys not in KEYS.values():
        raise RunError(f"{place / IDENTITY} is damaged. Restore it, or begin another run in a new folder.")
    if keys != KEYS[replayable]:
        cure = "Add --replayable" if keys == KEYS[True] else "Leave --replayable out"
        raise ConfigError(
            f"The run in {place} has begun with keys that are {keys}, and its agents keep to that. {cure} to "
            "continue it."
        )
