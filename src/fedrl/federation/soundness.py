"""List what leaves an agent, with its size in bytes and its protection.

    outgoing(federation) -> [value, statistics/..., report/..., weight, version, size, silence]

`fedrl.engines.soundness` adds what the topology and the scheduler of a simulation reveal. `fedrl.federation.private`
refuses what may not be sent beside noise or a hidden sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from fedrl.core.learner import Learner
from fedrl.core.reports import DURATION
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import Update
from fedrl.wire.codec import size_bytes, varies

if TYPE_CHECKING:
    from fedrl.federation.federation import Federation

NOTHING, HIDDEN = "nothing", "a hidden sum"
NOISE = {"agent": "noise that the agent adds", "server": "noise that the server adds to the sum"}
LOCAL_NOISE = "noise in each local step"
SERVER = "server"


class Outgoing(NamedTuple):
    """One piece of information that leaves an agent, or a lower server of a tree, in a round.

    Attributes:
        name: Such as "value", "report/loss" or "participation".
        sender: "agent", or a level of servers.
        to: The receiver: "server", a level of servers, or "neighbours".
        size_bytes: The size of one message in bytes; None if it depends on the content. 0 for information that a
            receiver infers, such as whether a message was sent.
        protection: Its protection: noise, a hidden sum, both or "nothing".
        note: What it depends on, or why it is sent.
    """

    name: str
    sender: str
    to: str
    size_bytes: int | None
    protection: str = NOTHING
    note: str = ""


def protection(stages: Sequence[Stage], summation: Summation | None = None, learner: Learner | None = None) -> str:
    """Return the protection of a value that a learner computed, passes the stages and is added by the summation."""
    found = [LOCAL_NOISE] if learner is not None and learner.noise is not None else []
    found += [NOISE[stage.noise.at] for stage in stages if stage.noise is not None]
    found += [HIDDEN] if hidden(summation) is not None else []
    return " and ".join(dict.fromkeys(found)) or NOTHING


def outgoing(federation: Federation, update: Update | None = None) -> list[Outgoing]:
    """List what leaves an agent with its update.

    The sizes of the value, statistics, reports, weight and version add up to the size of the update.

    Args:
        federation: The federation of the agent.
        update: The shapes of an encoded update; traced from the federation by default.

    >>> from fedrl.aggregators import mean
    >>> from fedrl.federation.federate import federate
    >>> from fedrl.environments import gridworld
    >>> from fedrl.learners import q_table
    >>> from fedrl.stages import quantize
    >>> found = outgoing(federate(q_table(gridworld()), mean(), quantize(8)))
    >>> [(each.name, each.size_bytes, each.protection) for each in found]
    [('value', 68, 'nothing'), ('weight', 4, 'nothing'), ('version', 4, 'nothing')]
    """
    if update is None:
        # At the top this would be a circular import.
        from fedrl.federation.messages import crossing

        settings = federation.learner.environment.params
        update = jax.eval_shape(lambda key, of: crossing(federation, key, of).update, jax.random.key(0), settings)
    stages = federation.stages
    weighing = [stage for stage in stages if stage.reweights]
    withholding = [stage for stage in stages if stage.skips_uploads]
    changing = varies(update)

    def leaving(name: str, what: Any, protected_by: str = NOTHING, note: str = "") -> Outgoing:
        return Outgoing(name, "agent", SERVER, None if varies(what) else int(size_bytes(what)), protected_by, note)

    found = [leaving("value", update.value, protection(stages, federation.summation, federation.learner))]
    inside = HIDDEN if hidden(federation.summation) else NOTHING
    for name, sums in update.statistics.items():
        added = inside if federation.summation.statistics else NOTHING
        found.append(leaving(f"statistics/{name}", sums, added, note="exact sums, beside all stages"))
    for name, said in update.report.items():
        note = "how long its local steps took" if name == DURATION else "asked for by name"
        found.append(leaving(f"report/{name}", said, note=note))
    note = f"set by {weighing[0]!r}" if weighing else "the samples of its local steps"
    found += [leaving("weight", update.weight, inside, note), leaving("version", update.version)]
    if changing:
        # A size that depends on the content, and a message that is not sent, reveal data without any bytes of their
        # own.
        found.append(Outgoing("size", "agent", SERVER, 0, note="how large the update is depends on what is in it"))
    if withholding:
        found.append(Outgoing("silence", "agent", SERVER, 0, note=f"whether {withholding[0]!r} holds the update back"))
    return found
