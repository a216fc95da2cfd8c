"""The two halves of a federation, each by itself: what a process of its own runs. Bytes cross between them."""

from fedrl.engines.halves.agent import AgentHalf, AgentRun, TrainedUpdate
from fedrl.engines.halves.orders import Order, Verdict
from fedrl.engines.halves.server import Closed, ServerHalf, ServerRun, Version

__all__ = [
    "AgentHalf",
    "AgentRun",
    "Closed",
    "Order",
    "ServerHalf",
    "ServerRun",
    "TrainedUpdate",
    "Verdict",
    "Version",
]
