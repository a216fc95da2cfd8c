"""Simulate the phases of a protocol that follows training: who answers in each, and how long it takes.

    phase begins --message down, answer up--> it ends when all that are left have answered, or at its deadline

An answer takes two latencies and the bytes of both messages; computing it takes milliseconds, which are not counted. An
agent leaves for good if it goes offline before it has answered, if its answer comes after the deadline, or by chance
(`phase_drop_out`), which is noticed when its answer would have been due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedrl.clocks.counter_rng import Purpose, uniform

MOST_PHASES = 8
"""The largest number of phases of a protocol: each has its own draws."""


class Phases(NamedTuple):
    """The phases of a protocol, as they go if it is carried out to its end.

    Attributes:
        left: For each agent the number of the phase in which it leaves, counted from 0; the number of phases if it
            stays, `[n]`.
        took_s: Seconds of each phase, `[phases]`.
    """

    left: np.ndarray
    took_s: np.ndarray


def phases(
    answer_s: Sequence[np.ndarray],
    now_s: float,
    until_s: np.ndarray,
    deadline_s: float,
    drop_out: float,
    seed: int,
    ids: np.ndarray,
    turns: np.ndarray,
) -> Phases:
    """Return who leaves in which phase, and the seconds of each phase.

    Args:
        answer_s: For each phase the seconds after which each agent answers, `[n]`.
        now_s: The second at which the first phase begins.
        until_s: The second at which each agent goes offline, `[n]`.
        deadline_s: Seconds after which a phase ends.
        drop_out: The probability that an agent leaves in a phase.
        seed: The seed of the run.
        ids: The agents, `[n]`.
        turns: The number of the job of each, `[n]`: draws differ from job to job.

    >>> import numpy as np
    >>> found = phases([np.array([1.0, 5.0])] * 2, 0.0, np.full(2, np.inf), 3.0, 0.0, 0, np.arange(2), np.zeros(2, int))
    >>> found.left.tolist(), found.took_s.tolist()
    ([2, 0], [3.0, 1.0])
    """
    left, took = np.full(len(ids), len(answer_s)), np.zeros(len(answer_s))
    for number, needs_s in enumerate(answer_s):
        here = left == len(answer_s)
        gone = needs_s > until_s - now_s
        lost = uniform(seed, Purpose.PHASE, ids, turns * MOST_PHASES + number) < drop_out
        late = needs_s > deadline_s
        left[here & (gone | lost | late)] = number
        # Who goes offline, and whose answer is lost, is noticed; who is late is waited for until the deadline.
        known_s = np.where(gone, np.maximum(until_s - now_s, 0.0), needs_s)
        took[number] = min(float(known_s[here].max(initial=0.0)), deadline_s)
        now_s += took[number]
    return Phases(left, took)
