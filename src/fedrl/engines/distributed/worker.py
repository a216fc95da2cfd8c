"""What runs in a worker process: shards of agents, and commands for them, one after the other."""

from __future__ import annotations

import os
import platform
import socket
import time
from typing import Any, NamedTuple

from fedrl.core.versions import COMPUTING, versions
from fedrl.engines.distributed.shard import AgentShard, Setup


class Facts(NamedTuple):
    """What the results of a worker depend on.

    Attributes:
        host: Name of its machine.
        process: Number of its process.
        versions: Versions of Python and of the libraries that compute.
        processor: Instruction set, and whether it has the widest vectors.
    """

    host: str
    process: int
    versions: dict[str, str]
    processor: str


def facts() -> Facts:
    """Return the facts of this process."""
    from fedrl.launch import widest_vector

    processor = f"{platform.machine()}, vectors of {widest_vector() or 256} bits"
    return Facts(socket.gethostname(), os.getpid(), versions(COMPUTING), processor)


class ShardWorker:
    """Shards of any number of simulations."""

    def __init__(self) -> None:
        self._shards: dict[int, AgentShard] = {}

    def do(self, shard: int, name: str, *arguments: Any) -> tuple[Any, float]:
        """Carry out a command for a shard; return its result and the seconds that it took.

        "open" makes a shard from a `Setup`, "close" ends it, any other is a method of it.
        """
        began = time.perf_counter()
        if name == "open":
            setup: Setup = arguments[0]
            self._shards[shard] = AgentShard(setup)
            return None, time.perf_counter() - began
        if name == "close":
            gone = self._shards.pop(shard, None)
            if gone is not None:
                gone.close()
            return None, time.perf_counter() - began
        found = getattr(self._shards[shard], name)(*arguments)
        return found, time.perf_counter() - began
