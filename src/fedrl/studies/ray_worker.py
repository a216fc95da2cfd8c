"""A worker process of a study: it runs one setting at a time, and keeps its compiled programs for the next.

    ray_study --set_up--> folders, modules, one device of JAX
              --begin---> run_setting in a thread --> events, outcome
              --news----> what has happened since the last call, a few times a second
              --stop----> the run ends after its round

Its methods are called by Ray, in threads. Everything that crosses is plain: texts, numbers, dictionaries. An exception
would arrive as one that may not be known where it is read, so reasons are texts.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import FedrlError
from fedrl.core.imports import imported, importing, named, search_beside
from fedrl.core.versions import COMPUTING, versions
from fedrl.launch import configure_jax
from fedrl.records import Event
from fedrl.studies.one_setting import SettingOutcome, run_setting
from fedrl.studies.surroundings import Surroundings

TOLD_S = 0.25
"""Seconds between two messages of a worker; a message for each round would slow short rounds."""
VISIBLE_S = 3.0
"""Seconds in which a file on a shared file system has to be seen by other machines."""
METHODS = 4
"""How many methods may run at the same time: one waits for news while another is told to stop."""


class ProbeFile(NamedTuple):
    """A file in the study folder, by which a worker knows that it sees this folder.

    Attributes:
        path: Path of the file, relative to the working directory or absolute.
        content: Its random content.
    """

    path: str
    content: str


class Prepared(NamedTuple):
    """What a worker says before its first setting.

    Attributes:
        host: Name of its machine.
        process: Number of its process.
        versions: Versions of Python and of packages.
        fault: Why it can't run settings, in a sentence; "" if it can.
    """

    host: str
    process: int
    versions: Mapping[str, str]
    fault: str = ""


class News(NamedTuple):
    """What a worker has done since it was last asked.

    Attributes:
        events: The events of its run.
        ended: The outcome of the setting, if it has ended.
    """

    events: list[Event]
    ended: SettingOutcome | None


class StudyWorker:
    """The actor of a worker process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._outcome: SettingOutcome | None = None
        self._stop = threading.Event()
        self._number = 0
        self._stopped = False
        self._trust = False

    def set_up(self, given: Surroundings, probe: ProbeFile) -> Prepared:
        """Take over the surroundings, and return what this process is."""
        here = Prepared(socket.gethostname(), os.getpid(), versions(COMPUTING))
        try:
            fault = _placed(given, probe, here.host)
            if not fault:
                for folder in given.beside:
                    search_beside(Path(folder))
                for module in given.modules:
                    imported(module, "The study")
                for reference in given.references:
                    named(reference, "The study")
                configure_jax(1)
                self._trust = given.trust
        except FedrlError as wrong:
            fault = f"The worker on {here.host}: {wrong}"
        return here._replace(fault=fault)

    def begin(self, number: int, config: Mapping[str, Any], folder: str) -> None:
        """Start to run a setting; `news` tells of it."""
        with self._changed:
            self._outcome, self._number = None, number
            self._stop = threading.Event()
            if self._stopped:  # a request to stop may be handled before one that came earlier
                self._stop.set()
        work = threading.Thread(target=self._work, args=(number, config, Path(folder), self._stop), daemon=True)
        try:
            work.start()
        except RuntimeError as fault:  # there can't be more threads
            self._end(SettingOutcome(number, {}, f"The worker can't start a thread ({fault})."))

    def news(self) -> News:
        """Return what has happened since the last call, after a moment or as soon as the setting has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None, TOLD_S)
            news = News(self._events, self._outcome)
            self._events, self._outcome = [], None
        return news

    def stop(self, number: int | None = None) -> None:
        """End the run of this setting after its round; without a number, that in progress and every later one."""
        with self._changed:
            self._stopped = self._stopped or number is None
            # A request about a setting may be handled when the next one has begun.
            if number in (None, self._number):
                self._stop.set()

    def _work(self, number: int, config: Mapping[str, Any], folder: Path, stop: threading.Event) -> None:
        try:
            with importing(self._trust):
                outcome = run_setting(number, lambda: config, folder, [self._tell], stop, trust=self._trust)
        except BaseException as fault:  # otherwise nobody would ever hear that the thread has ended
            outcome = SettingOutcome(number, {}, f"{type(fault).__name__}: {fault}")
        self._end(outcome)

    def _end(self, outcome: SettingOutcome) -> None:
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def _tell(self, event: Event) -> None:
        with self._changed:
            self._events.append(event)


def _placed(given: Surroundings, probe: ProbeFile, host: str) -> str:
    """Change to the working directory; return why the folders can't be used, if so."""
    cure = "All machines of the cluster need it under the same path. Put it on a file system that they share"
    try:
        os.chdir(given.folder)
    except OSError as fault:
        return f"The working directory {given.folder} is not visible on {host} ({fault.strerror}). {cure}."
    end = time.monotonic() + VISIBLE_S
    while not (seen := _content(Path(probe.path))) and time.monotonic() < end:
        time.sleep(0.1)
    if seen != probe.content:
        where = Path(probe.path).parent.resolve()
        return f"The study folder {where} is not visible on {host}. {cure}, with --out."
    return ""


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
