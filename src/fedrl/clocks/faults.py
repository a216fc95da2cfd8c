"""What may go wrong in a turn. Each fault is drawn for (seed, purpose, agent, turn), so nothing depends on the order.

    sent for --works--> ends: its update arrives                        ARRIVED
                         |      once more, up to two latencies later    ARRIVED again, of the same turn
                         |      in bytes that nobody can read           MALFORMED
                         +--> it dropped out                            LOST
                         +--> its process restarted on the way          RESTARTED
                         +--> it hangs --hang_s, or never--> noticed    HUNG

If several are drawn for one turn, it is a hang before a restart, a restart before a drop-out, and that before a message
that can't be read, which is never repeated.
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
    """How turns end of agents that stay: seconds, and kinds of events, `[n]` each.

    Args:
        devices: With the probabilities.
        seed: Of the run.
        ids: Whose turns.
        turns: How many turns each had before.
        end_s: When an update would arrive.
    """

    def happens(probability: float, purpose: Purpose) -> np.ndarray:
        return uniform(seed, purpose, ids, turns) < probability if probability else np.zeros(len(ids), bool)

    kind = np.where(happens(devices.malformed, Purpose.MALFORMED), MALFORMED, ARRIVED)
    kind = np.where(happens(devices.drop_out, Purpose.DROP_OUT), DROPPED, kind)
    kind = np.where(happens(devices.restart, Purpose.RESTART), RESTARTED, kind)
    hangs = happens(devices.hang, Purpose.HANG)
    if not hangs.any():
        return end_s, kind
    noticed_s = end_s + devices.hang_s * exponential(seed, Purpose.HANG_S, ids, turns)
    return np.where(hangs, noticed_s, end_s), np.where(hangs, HUNG, kind)


def leaving(end_s: np.ndarray, due_s: np.ndarray, kind: np.ndarray, until_s: np.ndarray) -> np.ndarray:
    """The kinds of those who leave: a turn is lost, unless it hangs already."""
    return np.where((until_s < due_s) & ~((kind == HUNG) & (until_s >= end_s)), DROPPED, kind)


def copies(
    devices: Clock, seed: int, ids: np.ndarray, turns: np.ndarray, latency_s: np.ndarray, arrived_s: np.ndarray
) -> np.ndarray:
    """When updates that have arrived do so once more; infinity if they do not.

    Less than two latencies later: a turn takes as long, so a copy comes before the agent's next update.
    """
    repeated = uniform(seed, Purpose.DUPLICATE, ids, turns) < devices.duplicate
    return np.where(repeated, arrived_s + 2.0 * latency_s * uniform(seed, Purpose.COPY, ids, turns), math.inf)
