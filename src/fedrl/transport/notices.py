"""What an agent or a coordinator says of its work: one notice for each event, as a line of text or of JSON.

No secret is in one: neither keys nor parameters, and of updates neither their values nor what agents report.
"""

from __future__ import annotations

import datetime
import json
from typing import Any, NamedTuple

SITE = (
    "connected",
    "compiling",
    "ready",
    "training",
    "bid",
    "sent",
    "trained",
    "declined",
    "failed",
    "waiting",
    "paused",
    "resumed",
    "disconnected",
    "wrong_message",
    "begun_anew",
    "not_taken",
    "ended",
)
"""The events of an agent."""
COORDINATOR = (
    "listening",
    "waiting",
    "differs",
    "ready",
    "disconnected",
    "left",
    "opted_out",
    "turned_away",
    "wrong_message",
    "dropped",
    "hung",
    "failed",
    "not_taken",
    "sum",
    "merged",
    "ended",
)
"""The events of a coordinator."""


class NetworkNotice(NamedTuple):
    """One event.

    Attributes:
        time: Seconds since 1970.
        event: What happened, for programs: one of `SITE` or of `COORDINATOR`.
        text: What happened, one sentence for people.
        run: Identity of the run; "" before the first `Welcome`.
        agent: Number of the agent; None for none.
        version: Version of the broadcast in work, or that was merged; None for none.
        job: Number of the job; None for none.
        name: Name of the agent, in the log of a coordinator.
    """

    time: float
    event: str
    text: str
    run: str = ""
    agent: int | None = None
    version: int | None = None
    job: int | None = None
    name: str = ""

    def as_line(self) -> str:
        """Return the notice as a line of text.

        >>> NetworkNotice(0.0, "ready", "It waits for a job.", "ab" * 16, 2).as_line()
        '1970-01-01T00:00:00.000Z  agent 2  It waits for a job.'
        """
        who = "agent -" if self.agent is None else f"agent {self.agent}"
        return f"{as_text(self.time)}  {who}  {self.text}"

    def as_json(self) -> str:
        """Return the notice as a line of JSON.

        >>> NetworkNotice(0.0, "ready", "It waits for a job.", agent=2).as_json()
        '{"time": "1970-01-01T00:00:00.000Z", "event": "ready", "text": "It waits for a job.", "agent": 2}'
        """
        fields: dict[str, Any] = {"time": as_text(self.time), "event": self.event, "text": self.text}
        optional = {
            "run": self.run or None,
            "agent": self.agent,
            "name": self.name or None,
            "version": self.version,
            "job": self.job,
        }
        return json.dumps(fields | {name: value for name, value in optional.items() if value is not None})


def as_text(time: float) -> str:
    """Return a time in UTC, as in ISO 8601.

    >>> as_text(0.0)
    '1970-01-01T00:00:00.000Z'
    """
    moment = datetime.datetime.fromtimestamp(time, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
