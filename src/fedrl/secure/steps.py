"""The steps of an agent in a secure sum: each is taken once and in order, and after an error none is taken any more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

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
