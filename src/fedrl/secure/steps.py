"""Whose turn it is in a secure sum: `Steps` of an agent, and what a coordinator takes of it, `check_turn`.

An agent takes each step once and in order, and after an error none any more. A coordinator takes the message that is
due in a phase, once, in the name of its sender, from agents that are in the sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from typing import Any

from fedrl.core.errors import SecureSumError

ENDED = "it has ended its part in this sum"


class Steps:
    """The steps of one agent in one sum.

    Args:
        agent: Number of the agent.
        first: Name of its first step.
        forget: Drops its secrets; called when it ends its part early.

    >>> steps = Steps(0, "mask", lambda: None)
    >>> with steps.take("mask", "open"):
    ...     pass
    >>> with steps.take("mask", "open"):
    ...     pass
    Traceback (most recent call last):
    fedrl.core.errors.SecureSumError: Agent 0 was asked for the step 'mask', and its next step was 'open'. Each step...
    """

    def __init__(self, agent: int, first: str, forget: Callable[[], None]) -> None:
        self._agent, self._next, self._forget = agent, first, forget

    @contextlib.contextmanager
    def take(self, name: str, following: str) -> Iterator[None]:
        """Take one step, once: after an error the agent has ended its part."""
        expected, self._next = self._next, ENDED
        if expected != name:
            self._forget()
            raise SecureSumError(
                f"Agent {self._agent} was asked for the step {name!r}, and its next step was {expected!r}. Each step "
                "is taken once and in order: asked twice, an agent would give away more than the sum."
            )
        try:
            yield
        except BaseException:
            self._forget()
            raise
        self._next = following


def check_turn(
    sender: int, message: Any, expected: type[Any] | None, phase: str, present: Container[int], came: Container[int]
) -> None:
    """Refuse a message that is not what an agent has to send now.

    Args:
        sender: The agent from which it came, as the connection knows it.
        message: The message.
        expected: The kind of message that is due; None in a phase in which no agent sends.
        phase: The phase, for the sentence.
        present: The agents that are in the sum.
        came: Those whose message of this phase is there.

    Raises:
        SecureSumError: It is another kind of message, of another agent, of one that is out, or a second one.
    """
    if expected is None or not isinstance(message, expected):
        raise SecureSumError(
            f"Agent {sender} sent a {type(message).__name__} in the phase {phase!r}: too late or too early."
        )
    if message.agent != sender:
        raise SecureSumError(f"Agent {sender} sent a {expected.__name__} in the name of another agent.")
    if sender not in present:
        raise SecureSumError(f"Agent {sender} sent a {expected.__name__}, and is not in the sum any more.")
    if sender in came:
        raise SecureSumError(f"Agent {sender} sent a second {expected.__name__}; the first one counts.")
