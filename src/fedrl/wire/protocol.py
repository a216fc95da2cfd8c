"""The messages between a coordinator and its agents, and their fields.

    agent                                coordinator
    Hello     ------------------------->            who it is follows from its certificate, not from the message
              <-------------------------  Welcome   its number, or Stop: why not, and whether to try again
    Ready     ------------------------->            its programs are compiled: from now on it may be in a cohort
              <-------------------------  Task      a job with the broadcast, and the verdict on the job before
    Beat      ------------------------->            how far it is in the job
    Sent      ------------------------->            the update, or Failed: there is none, and why
              <-------------------------  Taken     it was known, too late, or refused; a verdict follows else
    Leave     ------------------------->            it goes, for now or for good
              <-------------------------  Pause, Resume, Stop

Under an upload budget an agent that has trained says how useful its update is, and sends it only if it is asked to:

    Bid       ------------------------->            instead of Sent
              <-------------------------  Answer    send the update, or not: the next task has the verdict
    Sent      ------------------------->            if it was asked for

Where updates are hidden in sums, the messages of `fedrl.wire.secure_sum` take the place of `Sent`.

A job is identified by the agent and a number that counts its jobs, so that a message may be sent twice without harm.
Fields have the types of the records below. Unknown fields are ignored, for a later minor version to add them; it gives
them defaults, which are those of messages from earlier versions, and leaves a field out that has its default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from fedrl.core.errors import WireError
from fedrl.wire.frames import PART, Frame, Joiner, frames, unpacked
from fedrl.wire.secure_sum import Credential, Declined, Invitation, JobDone, SumReply, SumRequest

MOST_TEXT = 2000
"""The largest number of characters of a text field."""


class Hello(NamedTuple):
    """The first message of an agent.

    Attributes:
        run: Identity of the run in which the agent has a state on disk; "" for none.
        job: Its last job for which it has stored an update; 0 for none.
        term: The highest term that it has heard of.
        content: Its federation, as JSON: `fedrl.federation.wire_digest.WireDigest.as_json`.
    """

    run: str
    job: int
    term: int
    content: bytes


class Welcome(NamedTuple):
    """The answer of a coordinator that admits an agent.

    Attributes:
        run: Identity of the run, 32 hexadecimal digits: an agent keeps its state per run.
        name: Name of the run, for people.
        agent: Number of the agent.
        agents: Number of seats of the federation.
        version: Version of the coordinator's parameters.
        term: Term of the coordinator.
        replayable: Whether all keys follow from the seed of the run, `fedrl.core.keys.keys_of`.
        beat_s: Seconds between two beats in a job.
    """

    run: str
    name: str
    agent: int
    agents: int
    version: int
    term: int
    replayable: bool
    beat_s: float


class Ready(NamedTuple):
    """An agent has compiled its programs.

    Attributes:
        steps_per_s: Local steps that it takes in a second, measured; NaN if its site withholds that.
        copy: Number of its copy of the parameters, under down stages. Since version 1.1.
        copy_digest: Digest of that copy, 32 hexadecimal digits; "" if it has none. Since version 1.1.
    """

    steps_per_s: float
    copy: int = 0
    copy_digest: str = ""


class Task(NamedTuple):
    """A job.

    Attributes:
        job: Number of the job among those of this agent, from 1 on.
        version: Version of the broadcast.
        cohort: Number of agents in the cohort.
        steps: Local steps to take.
        share: Share of the agent among all agents.
        settled: Number of the agent's last job whose update arrived; 0 for none. Later jobs count as dropped.
        verdict: Verdict on that job: "merged", "rejected" or "dropped" (`fedrl.engines.halves.orders.Verdict`).
        content: The broadcast, encoded; under down stages as of `fedrl.engines.down_content`.
        copy: Number of the agent's copy of the parameters after this message, under down stages. Since version 1.1.
        ahead: Factor by which the agent looks ahead along the last difference, likewise. Since version 1.1.
    """

    job: int
    version: int
    cohort: int
    steps: int
    share: float
    settled: int
    verdict: str
    content: bytes
    copy: int = 0
    ahead: float = 0.0


class Beat(NamedTuple):
    """How far an agent is in a job; sent again and again, also if it makes no progress.

    Attributes:
        job: Number of the job.
        steps: A number that grows as its training goes on: `fedrl.engines.executors.executor.Executor.progress`. Since
            version 1.1.
    """

    job: int
    steps: int = 0


class Sent(NamedTuple):
    """The update of a job, encoded.

    Attributes:
        job: Number of the job.
        version: Version of the broadcast from which the agent trained.
        content: The update.
    """

    job: int
    version: int
    content: bytes


class Failed(NamedTuple):
    """A job ended without an update.

    Attributes:
        job: Number of the job.
        reason: Why, as far as the site lets out; "" if it keeps that to itself.
    """

    job: int
    reason: str


class Taken(NamedTuple):
    """The receipt for an update.

    Attributes:
        job: Number of the job.
        outcome: "known" (it arrived before), "late" (its job has ended) or "refused". An update that is accepted has
            no receipt: the next task has its verdict.
        reason: Why it was refused; else "".
    """

    job: int
    outcome: str
    reason: str


class Leave(NamedTuple):
    """An agent leaves.

    Attributes:
        for_good: Whether it will never come back: it opts out.
        reason: Why, for people; may be "".
    """

    for_good: bool
    reason: str


class Pause(NamedTuple):
    """No job is given before the next `Resume`."""


class Resume(NamedTuple):
    """Jobs are given again."""


class Stop(NamedTuple):
    """The end of a session, from the coordinator.

    Attributes:
        why: The reason, one sentence for people.
        code: For programs: "done", "stopped", "revoked", "expired", "unknown", "other_federation", "other_version",
            "newer_session", "no_seat", "opted_out", "bad_message" or "restarting".
        retry: Whether the agent should connect again.
    """

    why: str
    code: str
    retry: bool


class Bid(NamedTuple):
    """How useful the update of a job is, under an upload budget: all that leaves before the coordinator has decided.

    Attributes:
        job: Number of the job.
        version: Version of the broadcast from which the agent trained.
        content: The requested reports, and the size of the update if that varies: `fedrl.engines.bidding`.
    """

    job: int
    version: int
    content: bytes


class Answer(NamedTuple):
    """The answer to a bid; it comes again if the bid does.

    Attributes:
        job: Number of the job.
        send: Whether to send the update. If not, the verdict in the next task is "rejected".
    """

    job: int
    send: bool


Message: TypeAlias = (
    Hello
    | Welcome
    | Ready
    | Task
    | Beat
    | Sent
    | Failed
    | Taken
    | Leave
    | Pause
    | Resume
    | Stop
    | Bid
    | Answer
    | (Credential | JobDone | Invitation | SumRequest | SumReply | Declined)
)
KINDS: tuple[type[Any], ...] = (
    *(Hello, Welcome, Ready, Task, Beat, Sent, Failed, Taken, Leave, Pause, Resume, Stop),
    *(Bid, Answer),  # since version 1.1
    *(Credential, JobDone, Invitation, SumRequest, SumReply, Declined),  # since version 1.2
)
"""The kinds of messages. The number of a kind is its place in this list; later versions add kinds at its end."""
NUMBERS = {kind: number for number, kind in enumerate(KINDS)}
FIELDS = {kind: {name: hint for name, hint in get_type_hints(kind).items() if name != "content"} for kind in KINDS}
LARGEST_INT = 2**31 - 1


def sent(message: Message, digest: bytes | None = None) -> Iterator[bytes]:
    """Return the frames of a message; `digest` is that of its content, if it is known already.

    Texts are for people: each is made one line of at most `MOST_TEXT` characters, by `one_line`.

    Raises:
        WireError: A field has a value that the other end would refuse.
    """
    kind, content = type(message), getattr(message, "content", b"")
    fields = {}
    for name in names_sent(message):
        if name != "content":
            value, hint = getattr(message, name), FIELDS[kind][name]
            fields[name] = _checked(kind, name, hint, one_line(value) if isinstance(value, str) else value)
    return frames(NUMBERS[kind], fields, content, digest)


def names_sent(message: Message) -> tuple[str, ...]:
    """Return the names of the fields of a message that are sent: those with a default only where they differ from it.

    >>> names_sent(Ready(1.5)), names_sent(Ready(1.5, 3, "0" * 32))
    (('steps_per_s',), ('steps_per_s', 'copy', 'copy_digest'))
    """
    usual = message._field_defaults
    return tuple(name for name in message._fields if name not in usual or getattr(message, name) != usual[name])


def one_line(text: str, most: int = MOST_TEXT) -> str:
    """Return text as one printable line of at most `most` characters: what can't be printed becomes a space.

    >>> one_line("no floor\\nat line 3"), one_line("no floor at line 3", 8)
    ('no floor at line 3', 'no floor')
    """
    if len(text) <= most and text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " for letter in text[:most])


class Reader:
    """Reads the messages of one connection from its frames.

    A message without content may come between the parts of one with content; a second content may not.

    Args:
        largest: The largest content that may arrive, in bytes.
        kinds: The kinds of messages that may arrive here; another one is refused.
    """

    def __init__(self, largest: int, kinds: tuple[type[Any], ...] = KINDS) -> None:
        self._joiner, self._kinds = Joiner(largest), kinds

    def allow(self, largest: int) -> None:
        """Let content have up to so many bytes, if that is more than before."""
        self._joiner.largest = max(self._joiner.largest, largest)

    def take(self, data: bytes) -> Message | None:
        """Take a frame, and return the message that it completes, or None.

        Raises:
            WireError: It is no frame, or no message that may arrive here.
        """
        frame = unpacked(data)
        if frame.kind >= len(KINDS) or KINDS[frame.kind] not in self._kinds:
            name = KINDS[frame.kind].__name__ if frame.kind < len(KINDS) else f"kind {frame.kind}"
            allowed = ", ".join(kind.__name__ for kind in self._kinds)
            raise WireError(f"A message {name} came, and here only {allowed} may come.")
        kind = KINDS[frame.kind]
        fields = _fields(kind, frame)
        if "content" not in kind._fields:
            if len(frame.body) or PART in frame.header:
                raise WireError(f"{kind.__name__} came with {len(frame.body)} bytes of content, and it has none.")
            message: Message = kind(**fields)  # it may come between two parts of another message: a beat does
            return message
        content = self._joiner.add(frame)
        return None if content is None else kind(**fields, content=content)


def _fields(kind: type[Any], frame: Frame) -> dict[str, Any]:
    found = {}
    for name, hint in FIELDS[kind].items():
        if name in frame.header:
            found[name] = _checked(kind, name, hint, frame.header[name])
        elif name in kind._field_defaults:
            found[name] = kind._field_defaults[name]
        else:
            raise WireError(f"{kind.__name__} came without its field {name!r}.")
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INT


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT and (value.isprintable() or not value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


VALID = {int: _is_count, float: _is_number, str: _is_text, bool: _is_flag}
"""Which values a field of each type may have: counts up to 2^31 - 1, finite numbers or NaN, one line of text."""


def _checked(kind: type[Any], name: str, hint: type, value: Any) -> Any:
    """Return the value of a field, if it has its type and range."""
    if not VALID[hint](value):
        what = f"{value!s:.60}"
        raise WireError(f"The field {name!r} of {kind.__name__} is {what!r}, which is no valid {hint.__name__}.")
    return float(value) if hint is float else value
