"""Contestants timed in turns, each in a process of its own that is compiled, warm, and waits while another one works.

Libraries that cannot share an environment, or want other flags of XLA, can so be compared in alternating runs.

parent: Contestant.turn --a line on stdin--> serve: work, timed --JSON on stdout--> Turn
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Introduction:
    """What a contestant says when it is ready: its versions, and the mean return before and after its warm-up."""

    versions: str
    before: float
    after: float


@dataclass(frozen=True)
class Turn:
    """Environment steps taken, wall seconds, and CPU seconds of all threads."""

    steps: int
    wall: float
    cpu: float

    @property
    def speed(self) -> float:
        """Steps per wall second."""
        return self.steps / self.wall


def serve(introduction: Introduction, work: Callable[[], object], steps: int) -> None:
    """The contestant's half: introduce yourself, then work once for each line read, until there are no more."""
    print(json.dumps(asdict(introduction)), flush=True)
    for _ in sys.stdin:
        begun, used = time.perf_counter(), time.process_time()
        work()
        turn = Turn(steps, time.perf_counter() - begun, time.process_time() - used)
        print(json.dumps(asdict(turn)), flush=True)


class Contestant:
    """The parent's half: a process that has introduced itself. Use it in a `with` statement, which ends it."""

    def __init__(self, python: Path, module: str, name: str) -> None:
        command = [str(python), "-m", module, name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.name = name
        self.introduction = Introduction(**self._told())

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *raised: Any) -> None:
        self.process.__exit__(*raised)  # closes its input, so that it ends

    def turn(self) -> Turn:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        return Turn(**self._told())

    def _told(self) -> dict:
        """The next message; what libraries print besides is not one."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}, see above.")
