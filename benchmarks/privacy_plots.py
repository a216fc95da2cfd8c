"""The curves of return against epsilon, from the results of `benchmarks.privacy_utility`, as one SVG file.

    python -m benchmarks.privacy_plots privacy_utility.jsonl docs/privacy-utility.svg

Each point is the interquartile mean over seeds with its 95 % bootstrap interval.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import private_tables
from benchmarks.privacy_utility import EPSILONS, Results, fraction
from fedrl.records.statistics import interval

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 360, 250, 46, 30, 12, 40
COLOURS = ("#0067a8", "#c4561a", "#2e8540", "#7a4fa3")


class Line(NamedTuple):
    """A curve: its name, and the values of all seeds at each epsilon; infinity is a run without noise."""

    name: str
    points: Sequence[tuple[float, list[float]]]


class Chart(NamedTuple):
    """A chart with a logarithmic axis of epsilon."""

    title: str
    unit: str
    top: float
    lines: Sequence[Line]


def charts(results: Results) -> list[Chart]:
    """The charts of what was measured; curves without results are left out."""

    def poles(part: str, **setting: str) -> list[tuple[float, list[float]]]:
        each = ((epsilon, results.values(part, {**setting, "epsilon": epsilon})) for epsilon in (0.25, 0.5, *EPSILONS))
        plain = results.values(part, {**setting, "trust": "central", "epsilon": None})
        return [(epsilon, values) for epsilon, values in each if values] + ([(math.inf, plain)] if plain else [])

    def tables(slips: str, trust: str, noise: str, agents: int) -> list[tuple[float, list[float]]]:
        setting = {"agents": agents, "trust": trust, "noise": noise, "slips": slips}
        each = ((epsilon, fraction(results, setting | {"epsilon": epsilon})) for epsilon in private_tables.EPSILONS)
        return [(epsilon, values) for epsilon, values in each if values]

    network = {"small": "small network, noise at the server", "default": "default network, noise at the server"}
    agent = [Line(words, poles("agent", network=name, trust="central")) for name, words in network.items()]
    agent.append(Line("small network, noise at each agent", poles("agent", network="small", trust="local")))
    trajectory = [Line(f"noise at {where}", poles("trajectory", trust=trust)) for trust, where in WHERE.items()]
    found = [
        Chart("CartPole, unit agent, 100 agents", "greedy return", 500.0, agent),
        Chart("CartPole, unit trajectory, 20 x 32 episodes", "return", 500.0, trajectory),
    ]
    for slips in private_tables.SLIPS:
        lines = [
            Line(f"K = {agents}, noise at {WHERE[trust]}", tables(slips, trust, "gaussian", agents))
            for trust, sizes in (("central", private_tables.AGENTS), ("local", (100,)))
            for agents in sizes
        ]
        found.append(Chart(f"Q-learning, {slips} floors", "fraction of the value", 1.0, lines))
    return [chart._replace(lines=[line for line in chart.lines if line.points]) for chart in found]


WHERE = {"central": "the server", "local": "each agent"}


def drawn(chart: Chart, left: float, top: float) -> str:
    """One chart at this place of the picture."""
    known = sorted({epsilon for line in chart.lines for epsilon, _ in line.points if epsilon < math.inf})
    ends = [*known, known[-1] * 2.0]
    low, high = math.log(ends[0]), math.log(ends[-1])

    def across(epsilon: float) -> float:
        share = (math.log(min(epsilon, ends[-1])) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT - 10) + 5

    def down(value: float) -> float:
        return TOP + (1.0 - min(max(value / chart.top, 0.0), 1.05)) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<g transform="translate({left},{top})">', text(WIDTH / 2, 16, chart.title, "middle", 13)]
    for i in range(5):
        value = chart.top * i / 4
        parts.append(f'<path d="M{LEFT} {down(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(text(LEFT - 5, down(value) + 4, f"{value:g}", "end"))
    shown = [(epsilon, f"{epsilon:g}") for epsilon in known]
    if any(epsilon == math.inf for line in chart.lines for epsilon, _ in line.points):
        shown.append((math.inf, "no noise"))
    parts += [text(across(epsilon), HEIGHT - BOTTOM + 15, label, "middle") for epsilon, label in shown]
    parts.append(text(WIDTH / 2, HEIGHT - 8, f"epsilon (curves: {chart.unit})", "middle"))
    for number, (line, colour) in enumerate(zip(chart.lines, COLOURS, strict=False)):
        measured = [(across(epsilon) + 2 * number, interval(values)) for epsilon, values in line.points]
        path = " ".join(f"{x:.1f},{down(found.mean):.1f}" for x, found in measured)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, found in measured:
            parts.append(f'<path d="M{x:.1f} {down(found.low):.1f}V{down(found.high):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{down(found.mean):.1f}" r="3" fill="{colour}"/>')
        parts.append(text(LEFT + 8, HEIGHT + 8 + 14 * number, line.name, "start", 11, colour))
    return "\n".join([*parts, "</g>"])


def text(x: float, y: float, words: str, anchor: str, size: int = 11, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{words}</text>'


def picture(found: Sequence[Chart]) -> str:
    """All charts in two columns, on white."""
    width, height = 2 * WIDTH + 20, HEIGHT + 75
    rows = math.ceil(len(found) / 2)
    parts = [drawn(chart, 10 + (i % 2) * WIDTH, (i // 2) * height) for i, chart in enumerate(found)]
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {rows * height}" font-family="sans-serif">'
    return "\n".join([begin, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def main(arguments: list[str]) -> None:
    source, target = map(Path, arguments)
    Path(target).write_text(picture([chart for chart in charts(Results(source)) if chart.lines]))


if __name__ == "__main__":
    main(sys.argv[1:])
