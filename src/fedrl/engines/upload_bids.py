"""Bytes of bids under an upload budget, and of updates that do not repeat what their bid reported."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.engines.messages import Messages, messages
from fedrl.federation.federation import Federation
from fedrl.server.board import Bids
from fedrl.server.decisions import UploadBudget
from fedrl.server.upload_budget import left_for_updates
from fedrl.wire.codec import size_bytes


def bids_of(federation: Federation, upload_budget: UploadBudget, wire: Messages) -> Bids:
    """Return the costs of bids; a bid consists of the requested reports, and of the update's size if that varies.

    Raises:
        ConfigError: The federation does not report what the budget needs.
    """
    missing = [name for name in upload_budget.requested if name not in federation.reports]
    if missing:
        raise ConfigError(
            f"{upload_budget!r} needs {missing[0]!r} from agents, and this federation does not report it. "
            f"Write federate(..., reports={list(upload_budget.requested)})."
        )
    told = {name: jnp.float32(0.0) for name in upload_budget.requested}
    size: Any = np.uint32(0) if wire.up_bytes is None else None
    repeated = int(size_bytes(told))
    least = 1 if wire.up_bytes is None else wire.up_bytes - repeated
    return Bids(
        upload_budget.requested, int(size_bytes((told, size))), repeated, least, int(size_bytes(np.bool_(True)))
    )


def check_budget(federation: Federation, fleet: PyTree, upload_budget: UploadBudget, bids: int = 1) -> None:
    """Refuse a budget under which no update could be sent if `bids` agents bid.

    Raises:
        ConfigError: The budget is too small for the bids and one update.
    """
    cost = bids_of(federation, upload_budget, messages(federation, fleet))
    left_for_updates(upload_budget, bids, cost.bid_bytes, cost.least_bytes)


def without_bids(
    sizes: np.ndarray, said: np.ndarray, rejected: np.ndarray, bids: Bids
) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes and numbers of the uploads after bids: none of rejected agents, and without the bid's reports."""
    # An update does not repeat the scalars that its bid has reported.
    sizes = np.where(sizes > 0, sizes - bids.repeated_bytes, 0)
    sizes[rejected], said = 0, said.copy()
    said[rejected] = 0
    return sizes, said
