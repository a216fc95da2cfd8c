"""Draw the faults of jobs by (seed, purpose, agent, job), so that they do not depend on the order of events.

    dispatched --works--> its update arrives                               ARRIVED
                           |    a second time, up to two latencies later   ARRIVED again, of the same job
                           |    in unreadable bytes                        MALFORMED
                           +--> it drops out                               DROPPED
                           +--> its process restarts                       RESTARTED
                           +--> it hangs --hang_s, or never--> noticed     HUNG

If several faults are drawn for one job, a hang takes precedence over a restart, a restart over a drop-out, and a
drop-out over an unreadable message, which is never repeated.
"""

from __future__ import annotations

import math

import numpy as np

from fedrl.clocks.counter_rng import Purpose, exponential, uniform
from fedrl.clocks.devices import Clock
from fedrl.clocks.events import ARRIVED, DROPPED, HUNG, MALFORMED, RESTARTED


def ending(
    devices: Clock, seed: int, ids: np.ndarray, turns: np.ndarray, end_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return when and how jobs end if the agents stay online: seconds and kinds of events, `[n]` each.

    Args:
        devices: The clock with the probabilities.
        seed: The seed of the run.
        ids: The agents of the jobs, `[n]`.
        turns: The number of earlier jobs of each agent, `[n]`.
        end_s: The seconds at which the updates would arrive, `[n]`.
    """

    def happens(probability: float, purpose: Purpose) -> np.ndarray:
        return uniform(seed, purpose, ids, turns) < probability if probability else np.zeros(len(ids), bool)

    # Each line overrides the ones before it, so their order is the precedence of faults.
    kind = np.where(happens(devices.malformed, Purpose.MALFORMED), MALFORMED, ARRIVED)
    kind = np.where(happens(devices.drop_out, Purpose.DROP_OUT), DROPPED, kind)
    kind = np.where(happens(devices.restart, Purpose.RESTART), RESTARTED, kind)
    hangs = happens(devices.hang, Purpose.HANG)
    if not hangs.any():
        return end_s, kind
    noticed_s = end_s + devices.hang_s * exponential(seed, Purpose.HANG_S, ids, turns)
    return np.where(hangs, noticed_s, end_s), np.where(hangs, HUNG, kind)


def leaving(end_s: np.ndarray, due_s: np.ndarray, kind: np.ndarray, until_s: np.ndarray) -> np.ndarray:
    """Return the kinds with DROPPED for agents that go offline before the end of a job, unless it hangs already."""
    return np.where((until_s < due_s) & ~((kind == HUNG) & (until_s >= end_s)), DROPPED, kind)


def copies(
    devices: Clock, seed: int, ids: np.ndarray, turns: np.ndarray, latency_s: np.ndarray, arrived_s: np.ndarray
) -> np.ndarray:
    """Return when duplicates of arrived updates arrive; infinity for updates without one."""
    # Within two latencies, the least duration of a job: so a duplicate arrives before the agent's next update, and the
    # clock needs room for one duplicate per agent.
    repeated = uniform(seed, Purpose.DUPLICATE, ids, turns) < devices.duplicate
    return np.where(repeated, arrived_s + 2.0 * latency_s * uniform(seed, Purpose.COPY, ids, turns), math.inf)
