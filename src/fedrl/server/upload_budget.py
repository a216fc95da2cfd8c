"""Select which updates are sent under a budget of bytes.

all selected agents train --> each sends a bid --> the server selects the best that fit --> only these are sent
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count
from fedrl.server.decisions import Reports, UploadBudget

REPORTED = {"norm": "norm", "loss": "loss", "improvement": "return"}


class Waiting(NamedTuple):
    """The server's memory of each agent, `[agents]`.

    Attributes:
        value: The last reported return; NaN before there is one.
        rejected: The number of rejections in a row.
    """

    value: np.ndarray
    rejected: np.ndarray


@component("upload_budget", reference="greedy knapsack: Dantzig (1957), https://doi.org/10.1287/opre.5.2.266")
def greedy(budget_bytes: Count, usefulness: str = "norm", patience: Count | None = None) -> UploadBudget:
    """Send the updates with the highest usefulness per byte first, until a budget of bytes is used up.

    Every selected agent trains and sends a bid: the usefulness of its update. The server selects updates in the order
    of usefulness per byte, skips those that no longer fit, and only the selected ones are sent. For updates of equal
    size these are the most useful ones; for unequal sizes, this is the greedy rule for the knapsack problem.

        norm           ||Delta_k||, before any stage
        loss           the mean loss of the agent's local steps
        improvement    R_k(t) - R_k(t'), t' the last round with a known return; agents without one come first

    A rejected agent continues as if it had not been selected: its stages return to their previous state, while its
    optimiser and its personal parameters keep what they learned. The update is discarded, as it would be stale by the
    next round and be merged with too much weight.

    Each agent sends its bid, four bytes, unprotected, and four more where the size of an update depends on its content.
    The answer takes one byte. The budget covers bids and updates.

    Args:
        budget_bytes: The bytes that all agents together may send until the next merge. With asynchronous schedules such
            as `fed_buff`, a recorded round has several merges.
        usefulness: "norm", "loss" or "improvement".
        patience: The number of rejections in a row after which an agent comes before all others; never by default.

    Raises:
        ConfigError: An argument is out of range; when used, the bids and the smallest update exceed the budget.

    >>> greedy(10_000, "improvement").requested
    ('return',)
    """
    check_one_of(usefulness, tuple(REPORTED), "usefulness")
    reported = REPORTED[usefulness]

    def init(agents: int) -> Waiting:
        return Waiting(np.full(agents, np.nan, np.float32), np.zeros(agents, np.int32))

    def select(
        rng: np.random.Generator, ids: np.ndarray, left: int, state: Waiting, reports: Reports, sizes: np.ndarray
    ) -> np.ndarray:
        bid = reports[reported].astype(np.float64)
        before = state.value[ids] if usefulness == "improvement" else np.zeros(len(ids))
        worth = np.where(np.isnan(before), np.inf, bid - before)
        # Last come agents without a usable bid, and those whose update the server would reject anyway.
        worth[~np.isfinite(bid)] = -np.inf
        # Of negative worths, the larger update has the worse density, so they are multiplied by their size.
        density = np.where(worth > 0.0, worth / sizes, worth * sizes)
        overdue = np.zeros(len(ids), bool) if patience is None else state.rejected[ids] >= patience
        # `lexsort` sorts by its last key first: overdue agents, then density, then a random number for ties.
        order = np.lexsort((rng.random(len(ids)), -density, ~overdue))
        selected = np.zeros(len(ids), bool)
        for k in order:
            if sizes[k] <= left:
                selected[k], left = True, left - int(sizes[k])
        return selected

    def observe(ids: np.ndarray, selected: np.ndarray, state: Waiting, reports: Reports) -> Waiting:
        value, rejected = state.value.copy(), state.rejected.copy()
        rejected[ids] = np.where(selected, 0, rejected[ids] + 1)
        if usefulness == "improvement":
            value[ids] = np.where(np.isfinite(reports[reported]), reports[reported], value[ids])
        return Waiting(value, rejected)

    return UploadBudget(select, budget_bytes, (reported,), init, observe)


def left_for_updates(upload_budget: UploadBudget, bids: int, bid_bytes: int, smallest: int) -> int:
    """Return the bytes of the budget that are left for updates after so many bids.

    Args:
        upload_budget: The rule with the budget.
        bids: The number of bids.
        bid_bytes: The size of a bid.
        smallest: The size of the smallest update.

    Raises:
        ConfigError: Not even the smallest update would fit; the message has the necessary budget.
    """
    left = upload_budget.budget_bytes - bids * bid_bytes
    if left < smallest:
        raise ConfigError(
            f"budget_bytes is {upload_budget.budget_bytes}. Bids of {bid_bytes} bytes from {bids} agents and one "
            f"update of {smallest} bytes take {bids * bid_bytes + smallest}, so nothing would ever be sent. Set it to "
            "that or more, select fewer agents, or make updates smaller with a stage."
        )
    return left
