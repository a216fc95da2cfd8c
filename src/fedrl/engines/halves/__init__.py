"""The two halves of a federation, agent and server, each for a process of its own; they exchange bytes."""

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
