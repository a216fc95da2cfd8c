"""Bids under an upload budget: their bytes, and the updates that are sent after them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from fedrl.core.errors import ConfigError
from fedrl.core.reports import DURATION
from fedrl.core.types import PyTree
from fedrl.engines.executors.executor import Executor
from fedrl.engines.inbox import Inbox
from fedrl.engines.messages import Messages, messages
from fedrl.engines.round_log import RoundLog
from fedrl.engines.topologies.server import Traffic
from fedrl.federation.federation import Federation
from fedrl.server.board import Bids
from fedrl.server.decisions import UploadBudget
from fedrl.server.scheduler import Scheduler
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


def check_live(federation: Federation, scheduler: Scheduler) -> None:
    """Refuse a budget that needs to know more of an update than its bid, where the update itself comes later.

    Raises:
        ConfigError: A stage withholds updates, or a rule requests reports that bids do not have.
    """
    if scheduler.upload_budget is None:
        return
    for stage in federation.stages:
        if stage.skips_uploads:
            raise ConfigError(
                f"{stage!r} withholds updates, and {scheduler.upload_budget!r} selects them by bids, which agents at "
                "other sites would make for withheld updates as well. Leave one of them out."
            )
    known = (*scheduler.upload_budget.requested, DURATION)
    for rule in (scheduler.selection, scheduler.local_steps):
        missing = [name for name in (() if rule is None else rule.requested) if name not in known]
        if missing:
            raise ConfigError(
                f"{rule!r} needs {missing[0]!r} when {scheduler.upload_budget!r} decides which updates are sent, and "
                "agents at other sites report it with their updates only. Choose a budget whose bids have it, or "
                "another rule."
            )


def after_bids(executor: Executor, inbox: Inbox, within_s: float, log: RoundLog) -> Inbox:
    """Return the updates that the budget has selected and that came; the scale of all others is 0.

    Args:
        executor: Where the agents are.
        inbox: The updates of all agents that have bid; selected ones have a scale above 0.
        within_s: Seconds in which the selected ones have to come.
        log: Log of the round, to which reports beside updates are added.
    """
    if not len(inbox.agent):
        return inbox
    wanted = inbox.scale > 0.0 if len(inbox.scale) else np.zeros(len(inbox.agent), bool)
    found = executor.after_bids(inbox, wanted, within_s)
    log.rejected += found.missing
    for name, said in found.report.items():
        log.sent_up.report[name] = np.where(np.isnan(said), log.sent_up.report[name], said)
    return found.inbox


def with_bids(traffic: Traffic, count: int, bids: Bids | None) -> Traffic:
    """Return the traffic with so many bids and their answers; unchanged without an upload budget."""
    if bids is None:
        return traffic
    return traffic._replace(
        bytes_up=traffic.bytes_up + count * bids.bid_bytes,
        bytes_down=traffic.bytes_down + count * bids.answer_bytes,
        messages_up=traffic.messages_up + count,
        messages_down=traffic.messages_down + count,
    )


def without_bids(
    sizes: np.ndarray, said: np.ndarray, rejected: np.ndarray, bids: Bids
) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes and numbers of the uploads after bids: none of rejected agents, and without the bid's reports."""
    # An update does not repeat the scalars that its bid has reported.
    sizes = np.where(sizes > 0, sizes - bids.repeated_bytes, 0)
    sizes[rejected], said = 0, said.copy()
    said[rejected] = 0
    return sizes, said
