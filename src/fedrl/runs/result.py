"""The result of a run in Python: its summary as a mapping, its curves, its chart and its policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrl.core.errors import RunError
from fedrl.records import End, Summary
from fedrl.records.folder import REPORT, open_folder
from fedrl.records.formatting import short
from fedrl.records.measured import RETURN
from fedrl.records.result_mapping import ResultMapping
from fedrl.records.table import frame_of, table_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fedrl.runs.policy import TrainedPolicy


@dataclass(frozen=True, eq=False, repr=False)
class RunResult(ResultMapping):
    """The result of a run, and of what its folder contains.

    It is the mapping of `summary.json`: `result["final_return"]["mean"]`. A notebook shows it as the tables with which
    `fedrl run` ends.

    Attributes:
        folder: The run folder.
        summary: The content of `summary.json`, as a dictionary.
    """

    folder: Path
    summary: Summary = field(repr=False)

    @classmethod
    def read(cls, path: Path | str) -> RunResult:
        """Return the result of an earlier run from its folder.

        Raises:
            RunError: It is no run folder, or its run has not ended.
        """
        summary = open_folder(Path(path)).summary()
        if not summary:
            raise RunError(f"{path} has no summary: its run has not ended. Continue it with fedrl run --resume {path}.")
        return cls(Path(path), summary)  # type: ignore[arg-type]

    @property
    def content(self) -> Mapping[str, Any]:
        """The same as a mapping."""
        return cast(Mapping[str, Any], self.summary)

    def __repr__(self) -> str:
        found = self.summary["final_return"]
        return f"<RunResult of {self.folder}: return {short(found['mean'])}>"

    def curves(self) -> pd.DataFrame:
        """Return the rounds as a data frame of pandas (extra `pandas`), a row for each method, seed and round.

        The columns are "method", "seed", "round", "environment_steps" (of all agents, since the seed of the method
        began), "seconds" (of the round), "return" (mean training return of the episodes that ended in the round), then
        the loss, "greedy" (mean greedy return over agents, in rounds that evaluate), every other measure, those of
        greedy episodes with "greedy_" in front, and "bytes_up" and "bytes_down" of the round. NaN stands for what was
        not measured. A baseline without rounds of its own, such as "average_once", has one row for each seed.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame_of(table_of(open_folder(self.folder).read()))

    def plot(self, measure: str = RETURN) -> go.Figure:
        """Return a chart of training as a figure of plotly: a line for each method, with an interval over seeds.

        Args:
            measure: Name of the measure, by default the return.

        Raises:
            ConfigError: The run has no measure of this name, or no round has a value of it.
        """
        from fedrl.report.plot import plot_of
        from fedrl.report.run import read_run

        run = read_run(self.folder)
        return plot_of([(run, method, method.replace("_", " ")) for method in run.methods], measure, methods=True)

    def policy(self, seed: int | None = None, agent: int | None = None, trust: bool = False) -> TrainedPolicy:
        """Return the trained policy: `fedrl.load` of the folder.

        Args:
            seed: The seed of the run; the first by default.
            agent: The agent, where each has a policy of its own; the server's policy by default, if there is one.
            trust: Whether to import components of one's own that the folder names.

        Raises:
            ConfigError: There is no such seed or agent.
            RunError: The folder has no parameters.
        """
        from fedrl.runs.policy import load

        return load(self.folder, seed=seed, agent=agent, trust=trust)

    def _repr_html_(self) -> str:
        from fedrl.sinks.final_summary import final_summary
        from fedrl.sinks.notebook import html_of

        report = self.folder / REPORT
        page = str(report) if report.is_file() else None
        return html_of(final_summary(End(event="end", summary=self.summary, folder=str(self.folder), report=page)))
