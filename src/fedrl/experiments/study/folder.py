"""A study folder: readable at any moment, and enough to go on from.

study.toml     the configuration and the grid; `fedrl sweep study.toml` runs the study again
study.json     what has come of each setting so far
report.html    the same for people
1-agents-10/   the run folder of each setting, as `fedrl run` makes it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fedrl.core.errors import RunError
from fedrl.experiments.folder import REPORT, RunFolder, default_path, write_atomically
from fedrl.experiments.study.plan import Plan, Setting, plan_of
from fedrl.experiments.study.result import Study

PLAN, STUDY = "study.toml", "study.json"


@dataclass(frozen=True)
class StudyFolder:
    """A folder and the plan in it."""

    path: Path
    plan: Plan

    def run_folder(self, setting: Setting) -> RunFolder:
        """Of a setting, whether or not it is there."""
        return RunFolder(self.path / setting.folder)

    def write(self, study: Study) -> None:
        """Write `study.json`."""
        write_atomically(self.path / STUDY, (json.dumps(study, indent=2, allow_nan=False) + "\n").encode())

    def read(self) -> Study | None:
        """Read `study.json`; None before it was first written."""
        try:
            found: Study = json.loads((self.path / STUDY).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    @property
    def report(self) -> Path:
        """Where the page about the study is."""
        return self.path / REPORT


def create(path: Path | None, plan: Plan) -> StudyFolder:
    """Make the folder of a new study; by default `runs/<name>-study-<time>`.

    Raises:
        RunError: The folder holds a study already, or can't be made.
    """
    place = default_path(f"{plan.name}-study") if path is None else path
    if (place / PLAN).exists():
        raise RunError(
            f"{place} already holds a study. Choose another folder, or continue that study with "
            f"fedrl sweep --resume {place}."
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomically(place / PLAN, plan.dump().encode())
    except OSError as fault:
        raise RunError(f"{place} can't be written to ({fault}). Choose another folder with --out.") from None
    return StudyFolder(place, plan)


def is_study(path: Path) -> bool:
    """Whether a folder holds a study."""
    return (path / PLAN).is_file()


def opened(path: Path) -> StudyFolder:
    """The folder of an earlier study.

    Raises:
        RunError: It holds none.
    """
    if not is_study(path):
        raise RunError(f"{path} is not a study folder: it has no {PLAN}. Give the folder that fedrl sweep printed.")
    return StudyFolder(path, plan_of(path / PLAN))
