"""What bids under a budget of bytes cost, and what updates save by not repeating them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.types import PyTree
from fedrl.engines.aggregation import Messages, messages
from fedrl.federation.federation import Federation
from fedrl.server.board import Bids
from fedrl.server.decisions import UploadBudget
from fedrl.server.upload_budget import left_for_updates
from fedrl.wire.codec import size_bytes


def bids_of(federation: Federation, upload_budget: UploadBudget, wire: Messages) -> Bids:
    """A bid tells what was asked, and the size of the update if that varies.

    Raises:
        ConfigError: The federation does not tell what is asked.
    """
    missing = [name for name in upload_budget.requested if name not in federation.reports]
    if missing:
        raise ConfigError(
            f"{upload_budget!r} asks agents for {missing[0]!r}, and this federation does not tell it. "
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
    """Refuse a budget under which nothing would ever be sent if so many agents bid.

    Raises:
        ConfigError: It says how much would be needed.
    """
    cost = bids_of(federation, upload_budget, messages(federation, fleet))
    left_for_updates(upload_budget, bids, cost.bid_bytes, cost.least_bytes)


def without_bids(
    sizes: np.ndarray, said: np.ndarray, rejected: np.ndarray, bids: Bids
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and numbers of updates that were sent after bids: none of who was rejected, and no bid again."""
    sizes = np.where(sizes > 0, sizes - bids.repeated_bytes, 0)
    sizes[rejected], said = 0, said.copy()
    said[rejected] = 0
    return sizes, said
