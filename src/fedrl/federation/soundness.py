"""What leaves an agent, how many bytes it takes, and what protects it.

    outgoing(federation) -> [value, statistics/..., report/..., weight, version, size, silence]

Where updates meet and who decides adds to it: `fedrl.engines.soundness`. What may not leave beside noise or a hidden
sum is refused when a federation is built, by `fedrl.federation.private`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from fedrl.core.reports import DURATION
from fedrl.core.stage import Stage
from fedrl.core.summation import Summation, hidden
from fedrl.core.types import Update
from fedrl.wire.codec import size_bytes, varies

if TYPE_CHECKING:
    from fedrl.federation.federation import Federation

NOTHING, HIDDEN = "nothing", "a hidden sum"
NOISE = {"agent": "noise that the agent adds", "server": "noise that the server adds to the sum"}
SERVER = "server"


class Outgoing(NamedTuple):
    """Something that leaves an agent, or a server below another one, in a round.

    Attributes:
        name: What: "value", "report/loss", "participation".
        sender: Who sends it: "agent", or a level of servers.
        to: Who gets it: "server", a level of servers, "neighbours".
        size_bytes: Of one message; None if it depends on what is in it. What follows without being sent takes none.
        protection: What protects it: noise, a hidden sum, both or "nothing".
        note: What it depends on, or why it leaves.
    """

    name: str
    sender: str
    to: str
    size_bytes: int | None
    protection: str = NOTHING
    note: str = ""


def protection(stages: Sequence[Stage], summation: Summation | None = None) -> str:
    """What protects the value of an update that passes these stages, and is then added up."""
    found = [NOISE[stage.noise.at] for stage in stages if stage.noise is not None]
    found += [HIDDEN] if hidden(summation) is not None else []
    return " and ".join(dict.fromkeys(found)) or NOTHING


def outgoing(federation: Federation, update: Update | None = None) -> list[Outgoing]:
    """What leaves an agent with its update.

    The bytes of the value, statistics, reports, weight and version add up to those of the update.

    Args:
        federation: Whose agents.
        update: The shapes of an encoded update, if they are known.

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
        from fedrl.federation.messages import crossing  # of federations, which are checked by what is said here

        settings = federation.learner.environment.params
        update = jax.eval_shape(lambda key, of: crossing(federation, key, of).update, jax.random.key(0), settings)
    stages = federation.stages
    weighing = [stage for stage in stages if stage.reweights]
    withholding = [stage for stage in stages if stage.skips_uploads]
    changing = varies(update)

    def leaving(name: str, what: Any, protected_by: str = NOTHING, note: str = "") -> Outgoing:
        return Outgoing(name, "agent", SERVER, None if varies(what) else int(size_bytes(what)), protected_by, note)

    found = [leaving("value", update.value, protection(stages, federation.summation))]
    for name, sums in update.statistics.items():
        found.append(leaving(f"statistics/{name}", sums, note="exact sums, beside all stages"))
    for name, said in update.report.items():
        note = "how long its local steps took" if name == DURATION else "asked for by name"
        found.append(leaving(f"report/{name}", said, note=note))
    note = f"set by {weighing[0]!r}" if weighing else "the samples of its local steps"
    found += [leaving("weight", update.weight, note=note), leaving("version", update.version)]
    if changing:
        found.append(Outgoing("size", "agent", SERVER, 0, note="how large the update is depends on what is in it"))
    if withholding:
        found.append(Outgoing("silence", "agent", SERVER, 0, note=f"whether {withholding[0]!r} holds the update back"))
    return found
