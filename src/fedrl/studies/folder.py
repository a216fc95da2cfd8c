"""A study folder: readable at any moment, and enough to go on from.

study.toml     the configuration and the grid; `fedrl sweep study.toml` runs the study again
study.json     what has come of each setting so far
report.html    the same for people
1-agents-10/   the run folder of each setting, as `fedrl run` makes it
.lock          who runs the study; gone when nobody does
"""

from __future__ import annotations

import contextlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from fedrl.core.errors import RunError
from fedrl.records.files import read_json, tidy, write_atomically
from fedrl.records.folder import ELSEWHERE, REPORT, Claim, RunFolder, claimed
from fedrl.records.lock import hold
from fedrl.studies.plan import StudyPlan, StudySetting, plan_of
from fedrl.studies.records import Study

PLAN, STUDY = "study.toml", "study.json"


@dataclass(frozen=True)
class StudyFolder:
    """A folder and the plan in it; one that is written to is used in a `with`, which gives its lock back.

    Attributes:
        path: Where it is.
        plan: The study.
        claim: What this process may do with it; None to read only.
    """

    path: Path
    plan: StudyPlan
    claim: Claim | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> StudyFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.claim is None:
            return
        if kind is not None and self.claim.fresh and not (self.path / STUDY).exists():
            with contextlib.suppress(OSError):
                (self.path / PLAN).unlink(missing_ok=True)
        self.claim.release(failed=kind is not None)

    def run_folder(self, setting: StudySetting) -> RunFolder:
        """Of a setting, whether or not it is there."""
        return RunFolder(self.path / setting.folder)

    def write(self, study: Study) -> None:
        """Write `study.json`."""
        write_atomically(self.path / STUDY, (json.dumps(study, indent=2, allow_nan=False) + "\n").encode())

    def read(self) -> Study | None:
        """Read `study.json`; None before it was first written.

        Raises:
            RunError: It is damaged.
        """
        found = read_json(self.path / STUDY, "Delete it: it is written anew from the run folders in the study's.")
        return typing.cast(Study | None, found)

    @property
    def report(self) -> Path:
        """Where the page about the study is."""
        return self.path / REPORT


def create(path: Path | None, plan: StudyPlan) -> StudyFolder:
    """Make the folder of a new study, for use in a `with`; by default `runs/<name>-study-<time>`.

    Raises:
        RunError: The folder holds a study already, another process writes to it, or it can't be made.
    """
    claim = claimed(path, f"{plan.name}-study", PLAN, "study")
    place = StudyFolder(claim.path, plan, claim)
    try:
        write_atomically(claim.path / PLAN, plan.dump().encode(), ELSEWHERE)
    except BaseException as fault:
        place.__exit__(type(fault))
        raise
    return place


def is_study(path: Path) -> bool:
    """Whether a folder holds a study."""
    return (path / PLAN).is_file()


def open_folder(path: Path) -> StudyFolder:
    """The folder of an earlier study, to read.

    Raises:
        RunError: It holds none.
        ConfigError: Its plan is damaged.
    """
    if not is_study(path):
        raise RunError(f"{path} is not a study folder: it has no {PLAN}. Give the folder that fedrl sweep printed.")
    return StudyFolder(path, plan_of(path / PLAN))


def reopen_folder(path: Path) -> StudyFolder:
    """The folder of an earlier study, to go on writing in it; for use in a `with`.

    Raises:
        RunError: It holds none, another process writes to it, or it can't be written to.
        ConfigError: Its plan is damaged.
    """
    plan = open_folder(path).plan
    claim = Claim(path, hold(path, "study"), made=False, fresh=False)
    tidy(path)
    return StudyFolder(path, plan, claim)
