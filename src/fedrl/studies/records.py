"""The records in `study.json`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from fedrl.records import Range, Seeded


class Median(TypedDict):
    """Median, smallest and largest value over seeds; None stands for never."""

    median: float | None
    low: float | None
    high: float | None


class Reached(TypedDict):
    """Costs to reach the target: until the first round in which the mean return over agents is at least as high.

    For another measure, until the first round in which it is at least as good.

    Attributes:
        measure: "greedy" if the run evaluates the measure during training, else "training".
        seeds: Number of seeds.
        reached: Number of seeds that reached the target.
        rounds: Number of rounds.
        environment_steps: Environment steps of all agents.
        bytes_up: Bytes sent by all agents.
        seconds: Rounds times the median time of a round; without compilation and evaluation.
        time_s: Seconds on the virtual clock; absent without one.
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
    """A setting and its results; a setting that never completed a round has only its state and the reason.

    Attributes:
        values: Value of each key of the grid.
        label: The values in words.
        folder: Name of the run folder inside the study's.
        state: "waiting", "running", "interrupted", "failed" or "finished". "running" is only in the file, while the
            setting runs, or after its process was killed.
        reason: The error of a setting that failed.
        agents: Number of agents, K.
        rounds: Number of rounds, T, of the seed with the most.
        seed_returns: Final greedy return of each seed, the mean over agents.
        final_return: The interquartile mean over seeds with its interval.
        measures: Other measures of the federation, as in `summary.json`.
        bytes_up: Bytes sent by all agents, the mean over seeds.
        bytes_down: Bytes sent to all agents, the mean over seeds.
        model_bytes: Bytes S of the exchanged parameters, uncompressed.
        cost_bytes: T K S.
        target: Costs to reach the study's target.
        steps_per_second: Environment steps of all agents per second.
        spent_s: Rounds of a seed times the median time of a round.
        virtual_s: Seconds on the virtual clock, if there is one, the mean over seeds.
        compile_s: Seconds spent compiling.
        wall_s: Seconds from start to end.
        programs: How often each program was compiled for it, once for each device.
        rejected: Number of rejected updates of the federated method, over all seeds.
        epsilon: What all seeds together have spent of privacy; absent without a privacy budget.
        notices: Sentences about the run's summary; absent if there are none.
        unmerged: Seeds in which no update was ever merged; absent if there are none.
        ended: Seeds that ended before their last round, as `Ended` of `summary.json`; absent if there are none.
    """

    values: dict[str, Any]
    label: str
    folder: str
    state: Literal["waiting", "running", "interrupted", "failed", "finished"]
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
    epsilon: NotRequired[float]
    notices: NotRequired[list[str]]
    unmerged: NotRequired[list[int]]
    ended: NotRequired[list[int]]


class Study(TypedDict):
    """The content of `study.json`.

    Attributes:
        name: Name of the experiment.
        grid: The values of each varied key.
        quantity: The measure by which settings are compared; absent in earlier versions, which compared returns.
        target: The value of the measure at which settings are timed, or None.
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
    """The measure by which settings are compared.

    Attributes:
        name: Name of the measure.
        unit: Unit; empty for a pure number.
        better: "lower" or "higher"; None if neither is.
        source: "greedy" or "training", as in `MeasureResult`.
    """

    name: str
    unit: str
    better: str | None
    source: Literal["greedy", "training"]
