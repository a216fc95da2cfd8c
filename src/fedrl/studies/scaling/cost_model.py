"""The cost model: a line for each quantity, `fixed + per_agent K`, by least squares without negative numbers.

    round = a + b K        memory = m0 + m1 K        bytes = c0 + c1 K

Residuals are relative to the measured values: of rounds that take from milliseconds to minutes, absolute ones would
count only the longest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from fedrl.records.formatting import with_unit
from fedrl.studies.scaling.limits import QUANTITIES
from fedrl.studies.scaling.records import Cost, Extrapolated, Predicted, Probe, value_in

FAR = (100_000, 1_000_000)
"""Numbers of agents for which the model is shown beside the measured ones."""


NEGLIGIBLE = 1e-9
"""A coefficient is zero if it contributes a smaller part than this to the largest measured value."""


class CostLine(NamedTuple):
    """A line `fixed + per_agent K`, neither negative."""

    fixed: float
    per_agent: float

    def at(self, agents: float) -> float:
        """Return its value for a number of agents."""
        return self.fixed + self.per_agent * agents

    def most_agents(self, most: float) -> float:
        """Return the number of agents at which the line has this value; infinite if it never has.

        >>> CostLine(1.0, 0.5).most_agents(3.0), CostLine(1.0, 0.0).most_agents(3.0)
        (4.0, inf)
        """
        if self.fixed >= most:
            return 0.0
        return (most - self.fixed) / self.per_agent if self.per_agent > 0 else math.inf


def line_through(agents: Sequence[float], values: Sequence[float]) -> CostLine | None:
    """Return the line with the smallest sum of squared relative errors; None with fewer than two numbers of agents.

    Args:
        agents: Numbers of agents.
        values: The measured values, none negative.

    >>> line = line_through([10, 100, 1000], [3.0, 12.0, 102.0])
    >>> round(line.fixed, 6), round(line.per_agent, 6)
    (2.0, 0.1)
    """
    if len(set(agents)) < 2:
        return None
    k, y = np.asarray(agents, float), np.asarray(values, float)
    if not y.max() > 0:
        return CostLine(0.0, 0.0)
    weight = 1.0 / np.maximum(y, 1e-9 * y.max())
    columns = np.stack([weight, weight * k], axis=1)
    # Columns of one length: the two coefficients may differ by many orders of magnitude.
    lengths = np.linalg.norm(columns, axis=0)
    found, _ = nnls(columns / lengths, weight * y)
    fixed, per_agent = found / lengths
    # What rounding leaves of a coefficient that is zero would be shown as a cost.
    small = NEGLIGIBLE * float(y.max())
    return CostLine(*(float(x) if x * times > small else 0.0 for x, times in ((fixed, 1.0), (per_agent, k.max()))))


def lines_of(probes: Sequence[Probe]) -> dict[str, CostLine]:
    """Return the line of each quantity through all measured probes; empty with fewer than two numbers of agents."""
    measured = [probe for probe in probes if probe["state"] == "measured"]
    agents = [probe["agents"] for probe in measured]
    found = {name: line_through(agents, [value_in(probe, name) for probe in measured]) for name in QUANTITIES}
    return {name: line for name, line in found.items() if line is not None}


def beside(probe: Probe, lines: dict[str, CostLine]) -> dict[str, Predicted]:
    """Return what the lines say of the numbers of a probe."""
    said: dict[str, Predicted] = {}
    for name, line in lines.items():
        value, measured = line.at(probe["agents"]), value_in(probe, name)
        said[name] = {"value": value, "error": (value - measured) / measured if measured else None}
    return said


def costs_of(lines: dict[str, CostLine]) -> dict[str, Cost]:
    """Return the lines as records of `scale.json`."""
    return {name: {"fixed": line.fixed, "per_agent": line.per_agent} for name, line in lines.items()}


def extrapolated(lines: dict[str, CostLine]) -> list[Extrapolated]:
    """Return what the lines say of numbers of agents far beyond the measured ones."""
    if not lines:
        return []
    return [{"agents": k, **{name: line.at(k) for name, line in lines.items()}} for k in FAR]  # type: ignore[typeddict-item]


def formula(name: str, cost: Cost) -> str:
    """Return a line of the model as a formula with units.

    >>> formula("round", {"fixed": 0.012, "per_agent": 0.00041})
    'round = 12 ms + 0.41 ms K'
    """
    unit = QUANTITIES[name].unit
    return f"{name} = {with_unit(cost['fixed'], unit)} + {with_unit(cost['per_agent'], unit)} K"
