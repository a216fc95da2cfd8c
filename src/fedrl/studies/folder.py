"""A study folder: readable at any time, and sufficient to resume the study.

study.toml     the configuration and the grid; `fedrl sweep study.toml` runs the study again
study.json     the results of each setting so far
report.html    the report page
1-agents-10/   the run folder of each setting, as `fedrl run` makes it
.lock          the process that runs the study; removed when it ends
"""

from __future__ import annotations

import contextlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path

from fedrl.core import durable
from fedrl.core.errors import RunError
from fedrl.core.imports import importing, search_beside
from fedrl.records.files import read_json, write_atomically
from fedrl.records.folder import ELSEWHERE, REPORT, Claim, RunFolder, claimed
from fedrl.records.lock import hold
from fedrl.studies.plan import StudyPlan, StudySetting, plan_of
from fedrl.studies.records import Study

PLAN, STUDY = "study.toml", "study.json"


@dataclass(frozen=True)
class StudyFolder:
    """A study folder and its plan; for writing it is used in a `with`, which releases its lock.

    Attributes:
        path: Path of the folder.
        plan: The plan of the study.
        claim: The right of this process to write to it; None for reading only.
    """

    path: Path
    plan: StudyPlan
    claim: Claim | None = field(default=None, repr=False, compare=False)

    def __enter__(self) -> StudyFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.claim is None:
            return
        # A study that failed before its first `study.json` leaves no plan, so that the path can be used again.
        if kind is not None and self.claim.fresh and not (self.path / STUDY).exists():
            with contextlib.suppress(OSError):
                (self.path / PLAN).unlink(missing_ok=True)
        self.claim.release(failed=kind is not None)

    def run_folder(self, setting: StudySetting) -> RunFolder:
        """Return the run folder of a setting, whether or not it exists."""
        return RunFolder(self.path / setting.folder)

    def write(self, study: Study) -> None:
        """Write `study.json`."""
        write_atomically(self.path / STUDY, (json.dumps(study, indent=2, allow_nan=False) + "\n").encode())

    def read(self) -> Study | None:
        """Read `study.json`; None before it was first written.

        Raises:
            RunError: The file is damaged.
        """
        found = read_json(self.path / STUDY, "Delete it: it is written again from the run folders inside the study's.")
        return typing.cast(Study | None, found)

    @property
    def report(self) -> Path:
        """Path of the report page."""
        return self.path / REPORT


def create(path: Path | None, plan: StudyPlan) -> StudyFolder:
    """Make the folder of a new study, for use in a `with`; by default `runs/<name>-study-<time>`.

    Raises:
        RunError: The folder already contains a study, another process writes to it, or it can't be made.
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
    """Return whether a folder contains a study."""
    return (path / PLAN).is_file()


def open_folder(path: Path) -> StudyFolder:
    """Open the folder of an earlier study for reading.

    Raises:
        RunError: It is not a study folder.
        ConfigError: Its plan is damaged.
    """
    if not is_study(path):
        raise RunError(f"{path} is not a study folder: it has no {PLAN}. Give the folder that fedrl sweep printed.")
    with importing(False):  # a plan is read without what it names
        return StudyFolder(path, plan_of(path / PLAN))


def reopen_folder(path: Path) -> StudyFolder:
    """Open the folder of an earlier study for writing, in a `with`.

    Raises:
        RunError: It is not a study folder, another process writes to it, or it is not writable.
        ConfigError: Its plan is damaged.
    """
    plan = open_folder(path).plan
    search_beside(path)
    claim = Claim(path, hold(path, "study"), made=False, fresh=False)
    durable.tidy(path)
    return StudyFolder(path, plan, claim)
