"""What would leave a site, and whether its coordinator runs the same federation: nothing is trained or measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fedrl.core.errors import WireError
from fedrl.core.summation import hidden
from fedrl.federation.federation import Federation
from fedrl.federation.wire_digest import VERSIONS, as_json, wire_digest
from fedrl.records.lock import hold
from fedrl.sites.connection import Connection, expected, largest_broadcast
from fedrl.sites.jobs import RunRefusedError, check_welcome
from fedrl.sites.memory import make_folder
from fedrl.sites.policy import MayLeave, leaving_of
from fedrl.sites.sent_log import NAME, SentLog
from fedrl.transport.seam import LinkClosedError, Transport
from fedrl.wire.protocol import Hello, Leave, Stop, Welcome

ANSWER_S = 60.0


class WouldLeave(NamedTuple):
    """One piece of information that would leave a site.

    Attributes:
        message: The message with it: "Hello", "Ready", "Bid", "Sent" or "Failed"; with hidden sums also "Credential",
            "JobDone" or "SumReply".
        name: What it is, such as "report/loss".
        size_bytes: Its size; None if it varies.
        protection: What protects it.
        note: When it leaves, or why.
    """

    message: str
    name: str
    size_bytes: int | None
    protection: str
    note: str


class Checked(NamedTuple):
    """The result of a check.

    Attributes:
        agrees: Whether the coordinator would take this site.
        text: What it has answered, one sentence.
        welcome: Its answer, if it would.
    """

    agrees: bool
    text: str
    welcome: Welcome | None = None


def would_leave(federation: Federation, may_leave: MayLeave, bids: tuple[str, ...] | None = None) -> list[WouldLeave]:
    """List what would leave a site in a run.

    Args:
        federation: Federation of the site.
        may_leave: What the site allows.
        bids: Reports that leave in a bid before the update, under an upload budget; None for no bids.

    >>> from fedrl.aggregators import mean
    >>> from fedrl.environments import gridworld
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.learners import q_table
    >>> [each.name for each in would_leave(federate(q_table(gridworld()), mean()), MayLeave())]
    ['digest', 'versions', 'value', 'weight', 'version', 'failure']
    """
    clear = "nothing"
    digest = as_json(wire_digest(federation, federation.learner.environment.params, bids))
    versions = len(json.dumps(digest["versions"]).encode())
    found = [
        WouldLeave("Hello", "digest", len(json.dumps(digest).encode()) - versions, clear, "what the federation is"),
        WouldLeave("Hello", "versions", versions, clear, f"of {', '.join(VERSIONS)}"),
    ]
    if may_leave.capacity:
        found.append(WouldLeave("Ready", "steps_per_s", 8, clear, "local steps per second, measured"))
    if federation.downlink is not None:
        found.append(WouldLeave("Ready", "copy", 36, clear, "number and digest of the server's parameters that it has"))
    summed = hidden(federation.summation) is not None
    if summed:
        found += [
            WouldLeave("Credential", "key", None, clear, "its certificate, and the key by which it is known in sums"),
            WouldLeave("JobDone", "fits", 1, clear, "whether the update is finite and within the grid of the sum"),
            WouldLeave("JobDone", "keys", None, clear, "public keys that are drawn for one sum by masks"),
            WouldLeave(
                "JobDone", "last_sum", 12, clear, "what the coordinator said of its last summed update, for others"
            ),
            WouldLeave("SumReply", "shares", None, clear, "keys, shares and tags of each sum, without any data"),
        ]
    for each in leaving_of(federation, bids):
        message = "Bid" if each.name.startswith("bid") else "Sent"
        if summed:
            message = "JobDone" if each.name == "version" else "SumReply"
        found.append(WouldLeave(message, each.name, each.size_bytes, each.protection, each.note))
    note = "the reason, with words of the environment" if may_leave.reasons else "that a job failed, without the reason"
    return [*found, WouldLeave("Failed", "failure", None if may_leave.reasons else 0, clear, note)]


async def check_coordinator(
    federation: Federation,
    transport: Transport,
    address: str,
    folder: Path,
    bids: tuple[str, ...] | None = None,
    takes_part: Callable[[Welcome], object] = lambda welcome: None,
) -> Checked:
    """Connect, compare the federations of both ends, and leave again.

    Args:
        federation: Federation of the site.
        transport: How frames travel.
        address: Address of the coordinator, HOST:PORT.
        folder: Folder of the agent, whose log gets a line for each message of the check.
        bids: Reports that leave in a bid before the update, under an upload budget; None for no bids.
        takes_part: Raises RunRefusedError if this site takes no part in such a run.

    Raises:
        RunError: An agent is running in this folder, or the folder can't be written.
    """
    make_folder(folder)
    held = hold(folder, "site")  # a second connection of its name would end that of a running agent
    try:
        log = SentLog(folder / NAME)
        try:
            connection = Connection(await transport.connect(address), log, largest_broadcast(federation))
            try:
                return await asyncio.wait_for(_compared(federation, connection, bids, takes_part), ANSWER_S)
            finally:
                await connection.close()
        except TimeoutError:
            return Checked(False, f"The coordinator has not answered for {ANSWER_S:g} s. Is it a coordinator?")
        except (LinkClosedError, WireError) as fault:
            return Checked(False, str(fault))
        finally:
            log.close()
    finally:
        held.release()


async def _compared(
    federation: Federation,
    connection: Connection,
    bids: tuple[str, ...] | None,
    takes_part: Callable[[Welcome], object],
) -> Checked:
    digest: dict[str, Any] = as_json(wire_digest(federation, federation.learner.environment.params, bids))
    await connection.send(Hello("", 0, 0, json.dumps(digest).encode()))
    first = expected(await connection.receive(), Welcome, Stop)
    if isinstance(first, Stop):
        return Checked(False, f"The coordinator does not take this site ({first.code}): {first.why}")
    assert isinstance(first, Welcome)
    check_welcome(first, None)
    try:
        takes_part(first)
    except RunRefusedError as refused:
        await connection.send(Leave(False, "check"))
        return Checked(False, str(refused), first)
    await connection.send(Leave(False, "check"))
    text = f"The coordinator runs the same federation: this site would be agent {first.agent} of {first.agents}"
    return Checked(True, f"{text} in the run {first.name!r}, at version {first.version}.", first)
