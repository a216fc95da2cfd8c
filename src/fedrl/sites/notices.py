"""What an agent says of its work: one notice for each event, as a line of text or of JSON. No secret is in one."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fedrl.sites.policy import as_text


class SiteNotice(NamedTuple):
    """One event.

    Attributes:
        time: Seconds since 1970.
        event: What happened, for programs: "connected", "compiling", "ready", "training", "bid", "sent",
            "failed", "waiting", "paused", "resumed", "disconnected", "wrong_message", "begun_anew", "not_taken" or
            "ended".
        text: What happened, one sentence for people.
        run: Identity of the run; "" before the first `Welcome`.
        agent: Number of the agent; None before.
        version: Version of the broadcast in work; None for none.
        job: Number of the job; None for none.
    """

    time: float
    event: str
    text: str
    run: str = ""
    agent: int | None = None
    version: int | None = None
    job: int | None = None

    def as_line(self) -> str:
        """Return the notice as a line of text.

        >>> SiteNotice(0.0, "ready", "It waits for a job.", "ab" * 16, 2).as_line()
        '1970-01-01T00:00:00.000Z  agent 2  It waits for a job.'
        """
        who = "agent -" if self.agent is None else f"agent {self.agent}"
        return f"{as_text(self.time)}  {who}  {self.text}"

    def as_json(self) -> str:
        """Return the notice as a line of JSON.

        >>> SiteNotice(0.0, "ready", "It waits for a job.", agent=2).as_json()
        '{"time": "1970-01-01T00:00:00.000Z", "event": "ready", "text": "It waits for a job.", "agent": 2}'
        """
        fields: dict[str, Any] = {"time": as_text(self.time), "event": self.event, "text": self.text}
        optional = {"run": self.run or None, "agent": self.agent, "version": self.version, "job": self.job}
        return json.dumps(fields | {name: value for name, value in optional.items() if value is not None})
