"""Why a worker process ended, from what Ray says of it, in a few words."""

from __future__ import annotations

import re

DETAIL = re.compile(r"Worker exit detail:\s*(.+?)(?:\.\s|\.$|$)", re.DOTALL)


def cause_of(fault: Exception) -> str:
    """Return the cause of the end of a worker process, as far as Ray knows it.

    >>> cause_of(Exception("... Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of"))
    'killed, as for lack of memory or by kill -9, or crashed; Ray does not know the signal'
    >>> cause_of(Exception("The actor died because its node has died. Node Id: ab"))
    'its machine has left the cluster'
    """
    said = " ".join(str(fault).split())
    if "low on memory" in said or type(fault).__name__ == "OutOfMemoryError":
        return "Ray ended it because its machine was low on memory"
    if re.search("node (has died|has crashed|was terminated)", said):
        return "its machine has left the cluster"
    if "connection error code" in said:
        return "killed, as for lack of memory or by kill -9, or crashed; Ray does not know the signal"
    found = DETAIL.search(said)
    if found:
        return found[1]
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(fault).__name__
