"""What `study.json` holds."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from fedrl.records import Range, Seeded


class Median(TypedDict):
    """Over seeds: the median, the smallest and the largest; None is never."""

    median: float | None
    low: float | None
    high: float | None


class Reached(TypedDict):
    """What it took to reach the target: the first round in which the return, the mean over agents, is at least as high.

    By another measure, it is the first round in which that is as good.

    Attributes:
        measure: "greedy" if the run evaluates it along the way, else "training": what it is while learning.
        seeds: How many seeds there are.
        reached: How many got there.
        rounds: How many.
        environment_steps: Of all agents.
        bytes_up: Of all agents.
        seconds: The rounds times the median time of a round; compilation and evaluation are left out.
        time_s: Seconds on the virtual clock; left out without one.
    """

    measure: Literal["greedy", "training"]
    seeds: int
    reached: int
    rounds: Median
    environment_steps: Median
    bytes_up: Median
    seconds: Median
    time_s: NotRequired[Median]


class Result(TypedDict):
    """A setting and what came of it; of one that never got through a round there is only its state, and the reason.

    Attributes:
        values: Of each key of the grid.
        label: The same in words.
        folder: The run folder, inside the study's.
        state: Whether it has run.
        reason: Of a setting that failed: the error.
        agents: K.
        rounds: Of the seed that got furthest.
        seed_returns: Final greedy return of each seed, the mean over agents.
        final_return: The interquartile mean of those with its interval.
        measures: What else the federation measured, as in `summary.json`.
        bytes_up: Sent by all agents, the mean over seeds.
        bytes_down: Sent to all agents, the mean over seeds.
        model_bytes: S, the size of the parameters that a round exchanges, uncompressed.
        cost_bytes: T K S.
        target: What it took to get to the study's target.
        steps_per_second: Of the environment, all agents.
        spent_s: The rounds of a seed times the median time of a round.
        virtual_s: Seconds on the virtual clock, if there is one, the mean over seeds.
        compile_s: Time spent compiling.
        wall_s: Time it took.
        programs: How often each program was compiled for it, one for each device.
        rejected: Updates of the federated method that were refused, over all seeds.
        notices: What the run had to say beside its numbers, a sentence each; left out if it had nothing.
        unmerged: Seeds in which nothing was ever merged; left out if there are none.
    """

    values: dict[str, Any]
    label: str
    folder: str
    state: Literal["waiting", "interrupted", "failed", "finished"]
    reason: NotRequired[str]
    agents: NotRequired[int]
    rounds: NotRequired[int]
    seed_returns: NotRequired[list[float]]
    final_return: NotRequired[Range]
    measures: NotRequired[dict[str, Seeded]]
    bytes_up: NotRequired[float]
    bytes_down: NotRequired[float]
    model_bytes: NotRequired[int | None]
    cost_bytes: NotRequired[int | None]
    target: NotRequired[Reached]
    steps_per_second: NotRequired[float | None]
    spent_s: NotRequired[float]
    virtual_s: NotRequired[float]
    compile_s: NotRequired[float | None]
    wall_s: NotRequired[float | None]
    programs: NotRequired[dict[str, int]]
    rejected: NotRequired[int]
    notices: NotRequired[list[str]]
    unmerged: NotRequired[list[int]]


class Study(TypedDict):
    """What `study.json` holds.

    Attributes:
        name: Of the experiment.
        grid: The values of each key that is varied.
        quantity: By which settings are compared; left out by earlier versions, which compared returns.
        target: What it has to come to for a setting to be timed, or None.
        complete: Whether every setting has run.
        settings: In the order of the product.
    """

    name: str
    grid: dict[str, list[Any]]
    quantity: NotRequired[Quantity]
    target: float | None
    complete: bool
    settings: list[Result]


class Quantity(TypedDict):
    """What is compared.

    Attributes:
        name: Of the measure.
        unit: Empty for a pure number.
        better: "lower" or "higher"; None if neither is.
        source: "greedy" or "training", as in `MeasureResult`.
    """

    name: str
    unit: str
    better: str | None
    source: Literal["greedy", "training"]
