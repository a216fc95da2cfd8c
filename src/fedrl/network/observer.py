"""Who watches a coordinator: its terminal, its log, the commands of its operator."""

from __future__ import annotations

from typing import Any


class Observer:
    """Is told what happens at a coordinator. This one does nothing; those that do something replace methods.

    `begin`, `end` and `tell` are called in the thread of the sessions, `tell` and the others in that of the loop.
    """

    async def begin(self) -> None:
        """Begin in the event loop of the sessions, before an agent may connect."""

    async def end(self) -> None:
        """End there, after all sessions."""

    # Bridge and clock call these, and must not be imported here.
    def listening(self, bridge: Any) -> None:
        """Note that agents may connect to the address of the `Bridge`."""

    def follow(self, clock: Any) -> None:
        """Note the `RealClock` of the run, which has its roster and its log."""

    def tell(self, event: str, text: str, agent: int | None = None, name: str = "", job: int | None = None) -> None:
        """Note an event.

        Args:
            event: What happened, for programs: a word of `fedrl.transport.notices.COORDINATOR`.
            text: What happened, one sentence for people.
            agent: Number of the agent; None for none.
            name: Its name, as its certificate has it; "" for none.
            job: Number of its job; None for none.
        """
