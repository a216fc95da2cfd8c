"""Whose updates are sent, if not all of them fit: the most useful first, under a budget of bytes.

all train --> bid: what is yours worth? --> the best that fit --> only they send their updates
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrl.core.checks import check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.server.decisions import Reports, UploadBudget

ASKED = {"norm": "norm", "loss": "loss", "improvement": "return"}


class Waiting(NamedTuple):
    """What the server remembers of each agent, `[agents]`.

    Attributes:
        value: The last return it told; NaN for one that never did.
        rejected: How often in a row its update was not admitted.
    """

    value: np.ndarray
    rejected: np.ndarray


@component("upload_budget", reference="greedy knapsack: Dantzig (1957), https://doi.org/10.1287/opre.5.2.266")
def greedy(budget_bytes: int, usefulness: str = "norm", patience: int | None = None) -> UploadBudget:
    """Merge the most useful updates first, until a budget of bytes is used up.

    Everybody who was asked trains and bids: it tells what its update is worth. The server admits updates in the order
    of their worth per byte, passing over those that do not fit any more, and only those admitted are sent. With updates
    of one size these are the most useful; of unlike sizes, it is the greedy rule for the knapsack.

        norm           ||Delta_k||, before any stage
        loss           the mean loss of its local steps
        improvement    R_k(t) - R_k(t'), t' the last round it knew a return; who is new comes first

    An agent that was turned away goes on as if it had not been asked: its stages remember what they did before, its
    optimiser and whatever it keeps to itself what it has learned. The update is not kept for later. It was made where
    the others have moved on from, and would be merged with more weight than it had.

    What leaves an agent beside its update is its bid, four bytes in the open, and four more where the size of an update
    depends on what is in it. An answer takes one byte. All of it is counted, and the budget holds for bids and updates.

    Args:
        budget_bytes: What all agents together may send until the next merge; under `fed_buff` and its like a round of
            the records has several.
        usefulness: "norm", "loss" or "improvement".
        patience: After being turned away so often in a row, an agent comes before all others; never by default.

    Raises:
        ConfigError: An argument is out of range; when used, the bids and the smallest update are beyond the budget.
    """
    check_positive(budget_bytes=budget_bytes, **({} if patience is None else {"patience": patience}))
    check_one_of(usefulness, tuple(ASKED), "usefulness")
    asked = ASKED[usefulness]

    def init(agents: int) -> Waiting:
        return Waiting(np.full(agents, np.nan, np.float32), np.zeros(agents, np.int32))

    def select(
        rng: np.random.Generator, ids: np.ndarray, left: int, state: Waiting, reports: Reports, sizes: np.ndarray
    ) -> np.ndarray:
        bid = reports[asked].astype(np.float64)
        before = state.value[ids] if usefulness == "improvement" else np.zeros(len(ids))
        worth = np.where(np.isnan(before), np.inf, bid - before)
        worth[~np.isfinite(bid)] = -np.inf  # who can't tell, or whose update the server would refuse, comes last
        density = np.where(worth > 0.0, worth / sizes, worth * sizes)
        overdue = np.zeros(len(ids), bool) if patience is None else state.rejected[ids] >= patience
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
            value[ids] = np.where(np.isfinite(reports[asked]), reports[asked], value[ids])
        return Waiting(value, rejected)

    return UploadBudget(select, budget_bytes, (asked,), init, observe)


def left_for_updates(upload_budget: UploadBudget, bids: int, bid_bytes: int, smallest: int) -> int:
    """What of the budget is left for updates when so many have bid.

    Raises:
        ConfigError: Not even the smallest update would fit; it says how much would be needed.
    """
    left = upload_budget.budget_bytes - bids * bid_bytes
    if left < smallest:
        raise ConfigError(
            f"budget_bytes is {upload_budget.budget_bytes}. Bids of {bid_bytes} bytes from {bids} agents and one "
            f"update of {smallest} bytes take {bids * bid_bytes + smallest}, so nothing would ever be sent. Set it to "
            "that or more, ask fewer agents, or make updates smaller with a stage."
        )
    return left
