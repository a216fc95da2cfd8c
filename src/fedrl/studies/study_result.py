"""The result of a study in Python: `study.json` as a mapping, the curves of all settings, their chart, their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrl.core.errors import ConfigError
from fedrl.records import StudyEnd
from fedrl.records.folder import REPORT, RunFolder
from fedrl.records.measured import RETURN
from fedrl.records.result_mapping import ResultMapping
from fedrl.records.table import FIRST, NAMES, RoundTable, frame_of, table_of, with_columns
from fedrl.runs.result import RunResult
from fedrl.studies.folder import open_folder
from fedrl.studies.grid import in_words
from fedrl.studies.records import Study
from fedrl.studies.result import study_in

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fedrl.runs.policy import TrainedPolicy

SETTING = "setting"


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult(ResultMapping):
    """The result of a study, and of what its folder contains.

    It is the mapping of `study.json`: `result["settings"][0]["final_return"]`. A notebook shows it as the table with
    which `fedrl sweep` ends.

    Attributes:
        folder: The study folder.
        study: The content of `study.json`, as a dictionary.
    """

    folder: Path
    study: Study = field(repr=False)

    @classmethod
    def read(cls, path: Path | str) -> StudyResult:
        """Return the result of an earlier study, so far, from its folder.

        Raises:
            RunError: It is no study folder.
        """
        return cls(Path(path), study_in(open_folder(Path(path))))

    @property
    def content(self) -> Mapping[str, Any]:
        """The same as a mapping."""
        return cast(Mapping[str, Any], self.study)

    def __repr__(self) -> str:
        finished = sum(result["state"] == "finished" for result in self.study["settings"])
        return f"<StudyResult of {self.folder}: {finished} of {len(self.study['settings'])} settings finished>"

    def run(self, setting: int) -> RunResult:
        """Return the result of the run of a setting.

        Args:
            setting: Number of the setting, from 1, as in tables and reports.

        Raises:
            ConfigError: There is no such setting.
            RunError: It has not ended.
        """
        settings = self.study["settings"]
        if setting not in range(1, len(settings) + 1):
            raise ConfigError(f"setting is {setting!r}, and the study has settings 1 to {len(settings)}. Give one.")
        return RunResult.read(self.folder / settings[setting - 1]["folder"])

    def curves(self) -> pd.DataFrame:
        """Return the rounds of all settings as a data frame of pandas (extra `pandas`).

        The columns are the number of the setting, from 1, its value of each key of the grid, and those of
        `RunResult.curves`. Values that are lists or tables are in words.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame_of(study_table(self.folder), (SETTING, *self.study["grid"], *NAMES))

    def plot(self, measure: str = RETURN) -> go.Figure:
        """Return a chart of training as a figure of plotly: a line for the federation of each setting.

        Args:
            measure: Name of the measure, by default the return.

        Raises:
            ConfigError: The settings have no measure of this name, or no round has a value of it.
        """
        from fedrl.report.plot import plot_of
        from fedrl.report.run import read_run

        places = [(self.folder / result["folder"], result["label"]) for result in self.study["settings"]]
        runs = [(read_run(path), label) for path, label in places if RunFolder(path).records()]
        return plot_of([(run, "federated", label) for run, label in runs], measure, methods=False)

    def policy(
        self, setting: int, seed: int | None = None, agent: int | None = None, trust: bool = False
    ) -> TrainedPolicy:
        """Return the trained policy of a setting: see `RunResult.policy`.

        Args:
            setting: Number of the setting, from 1.
            seed: The seed of its run; the first by default.
            agent: The agent, where each has a policy of its own.
            trust: Whether to import components of one's own that the folder names.
        """
        return self.run(setting).policy(seed, agent, trust)

    def _repr_html_(self) -> str:
        from fedrl.studies.progress import study_html

        report = self.folder / REPORT
        page = str(report) if report.is_file() else None
        end = StudyEnd(event="study", study=cast(Mapping[str, Any], self.study), folder=str(self.folder), report=page)
        return study_html(end)


def study_table(path: Path) -> RoundTable:
    """Return the table of all rounds of a study, the settings one after the other.

    Raises:
        RunError: It is no study folder.
    """
    place = open_folder(path)
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for setting in place.plan.settings:
        values = {key: _value(value) for key, value in setting.values.items()}
        found = table_of(place.run_folder(setting).read())
        rows += [{SETTING: setting.number, **values, **row} for row in found.rows]
        notes += [f"{setting.folder}: {note}" for note in found.notes]
    return with_columns(rows, (SETTING, *place.plan.grid, *FIRST))._replace(notes=notes)


def _value(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else in_words(value)
