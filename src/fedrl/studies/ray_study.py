"""The driver of a study on Ray: which worker runs which setting, and what happens when one ends.

    settings --waiting--> worker 0: setting 1, setting 4, ... --news--> events --> sinks
                          worker 1: setting 2, setting 3, ...       +-> outcomes --> study.json

A worker is an actor (`ray_worker`). It gets one setting after the other, first those whose programs it has compiled. A
worker whose process ends is replaced, and its setting is resumed from its last checkpoint, after all others.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fedrl.config.loading import as_dict
from fedrl.core.errors import FedrlError, RunError
from fedrl.core.ray_cluster import START_S, cause_of, not_started
from fedrl.core.versions import COMPUTING, versions
from fedrl.records import Notice, Sink
from fedrl.records.files import write_atomically
from fedrl.runs.session import reason_of
from fedrl.studies.folder import StudyFolder
from fedrl.studies.one_setting import SettingOutcome
from fedrl.studies.plan import StudySetting
from fedrl.studies.ray_worker import METHODS, Prepared, ProbeFile, StudyWorker
from fedrl.studies.surroundings import Surroundings

RETRIES = 2
"""How often a setting is resumed after its worker process has ended."""
ASKED_S = 0.2


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: The module.
        workers: The largest number of workers.
        environment: The environment variables with which workers start.
        surroundings: What each worker is told first.
        groups: The settings, in groups with equal programs.
        local: Whether it is one of this machine alone, which ends with the study.
    """

    ray: ModuleType
    workers: int
    environment: Mapping[str, str]
    surroundings: Surroundings
    groups: Sequence[Sequence[StudySetting]]
    local: bool

    @contextmanager
    def running(
        self,
        place: StudyFolder,
        settings: Sequence[StudySetting],
        begin: Callable[[StudySetting], None],
        tell: Sink,
        stop: threading.Event,
    ) -> Iterator[Iterator[SettingOutcome]]:
        """Start workers, and yield the outcomes of settings in the order in which they end.

        Args:
            place: The study folder.
            settings: The settings to run, in the order in which they should start.
            begin: Function that is called when a setting starts.
            tell: Sink of the events.
            stop: An event that ends all of them after their rounds.

        Raises:
            RunError: No worker can run settings.
        """
        groups = {each.number: i for i, group in enumerate(self.groups) for each in group}
        probe = ProbeFile(str(place.path / f".{secrets.token_hex(8)}.draft"), secrets.token_hex(16))
        write_atomically(Path(probe.path), probe.content.encode())
        study = _RayStudy(self, place, begin, tell, stop, groups, probe, list(settings))
        try:
            study.start()
            yield study.outcomes()
        finally:
            study.close()
            Path(probe.path).unlink(missing_ok=True)


@dataclass(eq=False)
class _Worker:
    """A worker as this process sees it.

    Attributes:
        actor: The actor.
        answer: What it was last asked for: its preparation, or news of its setting; None while it has nothing to do.
        since: When it was asked to start.
        prepared: What it said when it had started; None before.
        setting: What it runs.
        groups: Numbers of the groups of equal programs of which it has compiled one.
        fault: The reason and the traceback of a sink that failed with an event of its setting.
    """

    actor: Any
    answer: Any
    since: float
    prepared: Prepared | None = None
    setting: StudySetting | None = None
    groups: set[int] = field(default_factory=set)
    fault: SettingOutcome | None = None


@dataclass
class _RayStudy:
    """The settings of a study and the workers that run them."""

    cluster: Cluster
    place: StudyFolder
    begin: Callable[[StudySetting], None]
    tell: Sink
    stop: threading.Event
    groups: Mapping[int, int]
    probe: ProbeFile
    waiting: list[StudySetting]
    workers: list[_Worker] = field(default_factory=list)
    deaths: dict[int, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    asked_to_stop: bool = False
    begun: bool = False

    @property
    def ray(self) -> ModuleType:
        return self.cluster.ray

    def start(self) -> None:
        """Start the workers, and wait for the first of them."""
        for _ in range(min(self.cluster.workers, len(self.waiting))):
            self._add_worker()
        while self.waiting and not self.stop.is_set() and not any(each.prepared for each in self.workers):
            self._hear()
            self._check_usable()

    def outcomes(self) -> Iterator[SettingOutcome]:
        """Yield the outcomes of settings as they end."""
        while True:
            if self.stop.is_set():
                yield from self._ask_to_stop()
            else:
                self._hand_out()
            if not self.waiting and not any(each.setting for each in self.workers):
                return
            self._check_usable()
            yield from self._hear()

    def close(self) -> None:
        """End all worker processes."""
        for worker in self.workers:
            self._end(worker)

    def _add_worker(self) -> None:
        actor = self.ray.remote(StudyWorker).options(
            num_cpus=1, max_concurrency=METHODS, runtime_env={"env_vars": dict(self.cluster.environment)}
        )
        made = actor.remote()
        asked = made.set_up.remote(self.cluster.surroundings, self.probe)
        self.workers.append(_Worker(made, asked, time.monotonic()))

    def _hand_out(self) -> None:
        """Give each worker that has nothing to do the next setting."""
        for worker in self.workers:
            if worker.prepared and worker.setting is None and self.waiting:
                self._give(worker, self._next_for(worker))

    def _next_for(self, worker: _Worker) -> StudySetting:
        """Return the next setting: one whose programs the worker has, else one whose programs no worker has.

        Where all have been compiled, programs of others are read from their cache on disk.
        """
        # What a process died of may end others with it, as for lack of memory, so it comes last.
        sound = [each for each in self.waiting if each.number not in self.deaths] or self.waiting
        taken = set().union(*(each.groups for each in self.workers))
        wishes = (
            [each for each in sound if self.groups[each.number] in worker.groups],
            [each for each in sound if self.groups[each.number] not in taken],
            sound,
        )
        return next(found[0] for found in wishes if found)

    def _give(self, worker: _Worker, setting: StudySetting) -> None:
        self.waiting.remove(setting)
        worker.setting, worker.fault = setting, None
        worker.groups.add(self.groups[setting.number])
        self.begin(setting)
        self.begun = True
        tables = as_dict(self.place.plan.config(setting))
        worker.actor.begin.remote(setting.number, tables, str(self.place.path / setting.folder))
        worker.answer = worker.actor.news.remote()

    def _ask_to_stop(self) -> list[SettingOutcome]:
        """Let the runs end after their round, once; return the outcomes of those that wait to be resumed."""
        if self.asked_to_stop:
            return []
        self.asked_to_stop = True
        for worker in self.workers:
            if worker.setting is not None:
                worker.actor.stop.remote()
        begun = [SettingOutcome(each.number, {}) for each in self.waiting if each.number in self.deaths]
        self.waiting.clear()
        return begun

    def _check_usable(self) -> None:
        """Refuse to go on without a worker.

        Raises:
            RunError: There is none, and settings wait for one.
        """
        if self.waiting and not self.workers:
            further = f" Continue with fedrl sweep --resume {self.place.path}." if self.begun else ""
            raise RunError(f"{self.troubles[0]}{further}")

    def _hear(self) -> list[SettingOutcome]:
        """Handle what workers have answered; return the outcomes of settings that have ended."""
        asked = {worker.answer: worker for worker in self.workers if worker.answer is not None}
        ready, _ = self.ray.wait(list(asked), num_returns=1, timeout=ASKED_S)
        if ready:  # one of them has something to say: hear all that have
            ready, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)
        found = [self._answered(asked[answer]) for answer in ready]
        late = time.monotonic() - START_S
        for worker in [each for each in self.workers if not each.prepared and each.since < late]:
            if self.waiting:
                self._leave_out(worker, not_started(self.ray, 1, START_S))
        return [outcome for outcome in found if outcome is not None]

    def _answered(self, worker: _Worker) -> SettingOutcome | None:
        answer, worker.answer = worker.answer, None
        try:
            said = self.ray.get(answer)
        except self.ray.exceptions.RayError as fault:
            return self._died(worker, fault)
        if worker.prepared is None:
            self._started(worker, said)
            return None
        for event in said.events:
            if worker.fault is None:
                self._tell(worker, event)
        if said.ended is None:
            worker.answer = worker.actor.news.remote()
            return None
        return self._over(worker, said.ended)

    def _over(self, worker: _Worker, outcome: SettingOutcome) -> SettingOutcome:
        """Let a worker go from its setting."""
        assert worker.setting is not None
        # Listing a folder of NFS lets this machine see the files that another one has made in it.
        for path in (self.place.path, self.place.path / worker.setting.folder):
            with contextlib.suppress(OSError):
                os.listdir(path)
        worker.setting = None
        return outcome if worker.fault is None else worker.fault._replace(programs=outcome.programs)

    def _tell(self, worker: _Worker, event: Any) -> None:
        """Pass an event to the sinks; a sink that fails ends the setting, as it does in one process."""
        assert worker.setting is not None
        try:
            self.tell(event)
        except Exception as fault:
            trace = "" if isinstance(fault, FedrlError) else "".join(traceback.format_exception(fault))
            worker.fault = SettingOutcome(worker.setting.number, {}, reason_of(fault), trace)
            worker.actor.stop.remote(worker.setting.number)

    def _started(self, worker: _Worker, said: Prepared) -> None:
        here = versions(COMPUTING)
        differ = {name: version for name, version in said.versions.items() if version != here.get(name)}
        fault = said.fault
        if not fault and differ:
            theirs = ", ".join(f"{name} {version}" for name, version in differ.items())
            ours = ", ".join(f"{name} {here.get(name, 'unknown')}" for name in differ)
            fault = (
                f"The worker on {said.host} has {theirs}, and this process {ours}, so results would depend on the "
                "machine. Install the same versions."
            )
        if fault:
            self._leave_out(worker, fault)
            return
        worker.prepared = said
        for trouble in self.troubles:
            self.tell(Notice(event="notice", text=f"{trouble} The study goes on without this worker."))
        self.troubles.clear()

    def _leave_out(self, worker: _Worker, sentence: str) -> None:
        """Do without a worker, and say so; if it was the last one, `_check_usable` does."""
        self._end(worker)
        self.workers.remove(worker)
        self.troubles.append(sentence)
        if any(each.prepared for each in self.workers):
            self.tell(Notice(event="notice", text=f"{self.troubles.pop()} The study goes on without this worker."))

    def _died(self, worker: _Worker, fault: Exception) -> SettingOutcome | None:
        """Handle the end of a worker process: its setting is resumed by another one, or has failed."""
        cause, said, setting = cause_of(fault), worker.prepared, worker.setting
        if said is None or setting is None:
            self._leave_out(worker, f"A worker process could not start ({cause}).")
            return None
        self._end(worker)
        self.workers.remove(worker)
        if self.stop.is_set():
            return self._over(worker, SettingOutcome(setting.number, {}))
        if worker.fault is not None:  # it was about to end
            if self.waiting:
                self._add_worker()
            return self._over(worker, SettingOutcome(setting.number, {}))
        self.deaths[setting.number] = self.deaths.get(setting.number, 0) + 1
        what = f"The worker process {said.process} on {said.host} ended during setting {setting.number} ({cause})."
        failed = self.deaths[setting.number] > RETRIES
        if not failed:
            self.waiting.append(setting)
            self.tell(Notice(event="notice", text=f"{what} The setting is resumed from its last checkpoint."))
        if self.waiting:
            self._add_worker()
        if not failed:
            return None
        return self._over(worker, SettingOutcome(setting.number, {}, f"{what} It was tried {RETRIES + 1} times."))

    def _end(self, worker: _Worker) -> None:
        with contextlib.suppress(Exception):  # it has ended, or the cluster has
            self.ray.kill(worker.actor)
            # Ray asks the process, which can't answer if it is stopped or waits for a disk.
            if self.cluster.local and worker.prepared is not None:
                os.kill(worker.prepared.process, signal.SIGKILL)
