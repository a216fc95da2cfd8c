"""The result of a scale measurement in Python: `scale.json` as a mapping, and its charts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedrl.core.errors import ConfigError, RunError, nearest
from fedrl.records.files import read_json
from fedrl.records.folder import REPORT
from fedrl.records.result_mapping import ResultMapping
from fedrl.studies.scaling.limits import QUANTITIES
from fedrl.studies.scaling.records import Scale

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCALE = "scale.json"
AGAIN = "Measure again in another folder."


@dataclass(frozen=True, eq=False, repr=False)
class ScaleResult(ResultMapping):
    """The result of a scale measurement, and of what its folder contains.

    It is the mapping of `scale.json`: `result["agents"]` is the largest number of agents that keeps the limit. A
    notebook shows it as the table with which `fedrl scale` ends.

    Attributes:
        folder: The folder.
        scale: The content of `scale.json`, as a dictionary.
    """

    folder: Path
    scale: Scale = field(repr=False)

    @classmethod
    def read(cls, path: Path | str) -> ScaleResult:
        """Return the result of an earlier measurement from its folder.

        Raises:
            RunError: It is no folder of a measurement, or its file is damaged.
        """
        found = read_json(Path(path) / SCALE, AGAIN)
        if found is None:
            raise RunError(f"{path} has no {SCALE}: it is no folder of fedrl scale. Give the folder that it printed.")
        missing = sorted(Scale.__required_keys__ - found.keys())
        if missing:
            raise RunError(f"{Path(path) / SCALE} is damaged: it has no {missing[0]}. {AGAIN}")
        return cls(Path(path), cast(Scale, found))

    @property
    def content(self) -> Mapping[str, Any]:
        """The same as a mapping."""
        return cast(Mapping[str, Any], self.scale)

    def __repr__(self) -> str:
        agents = "no number of agents found" if self.scale["agents"] is None else f"{self.scale['agents']:,} agents"
        return f"<ScaleResult of {self.folder}: {agents}>"

    def plot(self, quantity: str = "round") -> go.Figure:
        """Return the chart of a quantity against the number of agents as a figure of plotly.

        Args:
            quantity: "round", "memory" or "bytes".

        Raises:
            ConfigError: There is no such quantity.
        """
        from fedrl.report.plot import as_plotly
        from fedrl.studies.scaling.figures import scale_figure

        if quantity not in QUANTITIES:
            raise ConfigError(f"quantity is {quantity!r}, which is not measured. {nearest(quantity, QUANTITIES)}")
        return as_plotly(scale_figure(self.scale, quantity))

    def _repr_html_(self) -> str:
        from fedrl.studies.scaling.progress import scale_html

        report = self.folder / REPORT
        return scale_html(self.scale, str(self.folder), str(report) if report.is_file() else "")


def is_scale(path: Path) -> bool:
    """Return whether a folder contains a scale measurement."""
    return (path / SCALE).is_file()
