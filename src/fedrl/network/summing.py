"""Secure sums with agents at other sites: one coordinator's end of a protocol, phase by phase, in the loop's thread.

    jobs done --Invitation--> masks:     (adverts) --> shares --> masked vectors --> tags --> opened shares --> sum
                              additive:  parts --> received --> sums --> sum
                              ckks:      vectors --> opening, by one agent after the other, until one answers --> sum
                                     |  a phase ends when all have answered, or `phase_s` seconds after it began
                                     +--> too few before a masked vector was sent: once more, with those that are left

An agent that says something wrong, declines, leaves or is late is dropped from this sum, by name. After masked vectors
were sent there is no second sum over them: agents refuse it, and what stays hidden stays so.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrl.core.errors import SecureSumError, TooFewAgentsError, WireError
from fedrl.core.processors import cores
from fedrl.engines.aggregation import BlockSums
from fedrl.engines.executors.records import OpenedUpdates
from fedrl.engines.inbox import Inbox, PartialSums
from fedrl.engines.secure_sums import cost_of
from fedrl.engines.state import Rejection
from fedrl.network.clock import RealClock
from fedrl.network.listening import Listening
from fedrl.network.news import DECLINED, REPLY, AgentNews
from fedrl.secure.drive import CostMeter
from fedrl.secure.fresh_keys import ADVERT_BYTES, advert_of
from fedrl.secure.invitation import AgentJob, Terms, invitation
from fedrl.secure.messages import Advert
from fedrl.secure.orders import NO_SUM, JobOrder, of_text
from fedrl.secure.protocols import PROTOCOLS, NetworkPlan, NetworkProtocol
from fedrl.secure.ring import signed
from fedrl.secure.vector import codes_and_digits
from fedrl.wire.protocol import LARGEST_INT
from fedrl.wire.secure_sum import Invitation, SumRequest

ATTEMPTS = 2
"""How often a sum of one version may begin."""


class Sums:
    """The secure sums of a coordinator.

    Args:
        clock: Where messages of agents come from, and requests go.
        terms: What the coordinator knows of all sums.
        codes: Number of entries of a vector before the digits of statistics.
        phase_s: Seconds after which a phase ends.
    """

    def __init__(self, clock: RealClock, terms: Terms, codes: int, phase_s: float) -> None:
        signers = clock.bridge.signers
        assert signers is not None
        self._clock, self._terms, self._phase_s, self._signers = clock, terms, phase_s, signers
        self._codes = codes
        self._passed: dict[int, tuple[int, dict[int, bytes]]] = {}  # connection, and the credentials sent on it
        self._heard = (-1, "")
        self._said: dict[int, tuple[int, bytes]] = {}  # job, and the keys that an agent has said when it was done
        self._told: dict[int, tuple[int, bytes]] = {}  # what each agent says that it was told of its last sum
        self._added_in: dict[int, tuple[int, tuple[int, bytes]]] = {}  # job, and the sum in which an agent was with it
        self._verdicts: dict[int, tuple[int, bytes]] = {}  # what each agent is told of its last sum
        clock.said_again = self._said_again

    def heard(self, version: int, broadcast: bytes, settled: np.ndarray, merged: np.ndarray) -> None:
        """Note the broadcast of a version, which agents compare with what they have received, and verdicts on jobs.

        Args:
            version: The version.
            broadcast: What agents of this version are sent.
            settled: The last job of each agent on which there is a verdict.
            merged: Whether the update of that job was merged.
        """
        # One is enough: agents of one version are summed before those of the next one are given jobs.
        self._heard = version, hashlib.sha256(broadcast).hexdigest()
        for agent, (job, last_sum) in list(self._added_in.items()):
            if int(settled[agent]) == job:
                self._verdicts[agent] = last_sum if merged[agent] else (last_sum[0], bytes(8))
                del self._added_in[agent]

    def why_not(self, news: AgentNews, ordered: int) -> str:
        """Return why the job of an agent counts as rejected, which says that it is done; "" if it may be summed."""
        if news.version != ordered:
            return f"it has trained from version {news.version}, and {ordered} was sent"
        if not news.fits:
            return "its update is not finite, or beyond the grid of the sum"
        due = ADVERT_BYTES if PROTOCOLS[self._terms.protocol].advertises else 0
        if len(news.content) not in (0, due):
            return f"it has said {len(news.content)} bytes of keys for the sum, and {due} were due"
        try:
            said = of_text(news.last_sum)
        except SecureSumError as fault:
            return str(fault)
        told = self._verdicts.get(news.agent, NO_SUM)
        if said[0] == told[0] and said != told:  # the others would take no part: one agent could end each sum
            return f"it says that it was told something else of its update of version {said[0]} than it was"
        self._told[news.agent] = said
        self._said[news.agent] = news.job, news.content
        return ""

    def _said_again(self, news: AgentNews) -> None:
        """Take what an agent says that has begun anew before its sum began: it does not have its keys of before."""
        if self._said.get(news.agent, (0, b""))[0] == news.job:
            self.why_not(news, news.version)

    def open(self, inbox: Inbox) -> OpenedUpdates:
        """Carry out a secure sum over the updates of these agents, and return what was opened."""
        nobody = inbox.of(np.zeros(len(inbox.agent), bool))
        if not len(inbox.agent):
            return OpenedUpdates(nobody)
        version, broadcast = self._heard
        assert (inbox.version == version).all()
        jobs = dict(zip(inbox.agent.tolist(), self._clock.roster.last_job[inbox.agent].tolist(), strict=True))
        began, meter, missing = time.monotonic(), CostMeter(), dict[int, str]()
        total, included, why = self._added(jobs, version, broadcast, meter, missing)
        self._clock.note_sum(jobs, included)
        cost = cost_of(meter, time.monotonic() - began, self._terms.agents)
        rejected = tuple(Rejection(agent, missing[agent]) for agent in sorted(missing))
        if total is None:
            self._clock.tell_sum(f"The secure sum of version {version} stayed hidden: {why}")
            return OpenedUpdates(nobody, rejected, (f"a sum was given up: {why}",), cost)
        inside = inbox.of(np.isin(inbox.agent, included))
        # Behind masks agents check by themselves that their updates are within range.
        reach: Any = np.zeros((len(inside.agent), 1))
        parts: tuple[Any, Any] = codes_and_digits(total, self._codes)
        sums = PartialSums(BlockSums(parts[0][None], parts[1], reach), np.ones(len(reach), bool), inside.agent)
        return OpenedUpdates(inside._replace(block_sums=[sums]), rejected, (), cost)

    def _added(
        self, jobs: Mapping[int, int], version: int, broadcast: str, meter: CostMeter, missing: dict[int, str]
    ) -> tuple[Any, tuple[int, ...], str]:
        """Return the sum and who is in it, or None and why it stayed hidden; who dropped out is added to `missing`."""
        members, why = tuple(sorted(jobs)), ""
        roster = self._clock.roster
        ordered = {
            k: JobOrder(int(roster.steps[k]), float(roster.share[k]), self._told.get(k, NO_SUM)) for k in members
        }
        for _ in range(ATTEMPTS):
            # Drawn, so that a coordinator that was restarted does not name a sum as one before it.
            attempt = secrets.randbelow(LARGEST_INT)
            if len(members) < self._terms.minimum:
                return None, (), why or f"{len(members)} of at least {self._terms.minimum} agents are there"
            orders = {k: ordered[k] for k in members}
            plan = self._terms.plan(version, broadcast, attempt, orders)
            each = {k: AgentJob(k, jobs[k], version, broadcast, order) for k, order in orders.items()}
            one = OneSum(self._clock, PROTOCOLS[self._terms.protocol], plan, attempt, self._phase_s, meter)
            said = self._taken(jobs, members)
            shown = one.advertised(said)
            total, why = one.run(self._invitations(plan, each, attempt, said, shown))
            missing |= one.missing
            for agent in one.missing:  # who declines may have done so before it read the credentials
                self._passed.pop(agent, None)
            if total is not None:
                self._added_in |= {k: (jobs[k], (version, plan.digest[:8])) for k in one.included}
            if total is not None or not one.repeatable:
                return total, one.included if total is not None else (), why
            members = tuple(k for k in members if k not in one.missing)
        return None, (), why

    def _taken(self, jobs: Mapping[int, int], members: tuple[int, ...]) -> dict[int, bytes]:
        """Return the keys that members have said, and forget them; nothing if one of them has said none.

        They are for one attempt: masks of two would be equal. In a further one members say new ones.
        """
        said = {agent: self._said.pop(agent, (0, b"")) for agent in members}
        found = {agent: content for agent, (job, content) in said.items() if job == jobs[agent] and content}
        return found if len(found) == len(members) else {}

    def _invitations(
        self,
        plan: NetworkPlan,
        jobs: Mapping[int, AgentJob],
        attempt: int,
        said: Mapping[int, bytes],
        shown: Mapping[int, bytes],
    ) -> dict[int, Invitation]:
        found, orders = {}, {agent: of.order for agent, of in jobs.items()}
        for agent, of in jobs.items():
            number, passed = self._passed.get(agent, (-1, {}))
            connection = int(self._clock.roster.connections[agent])
            if number != connection:
                self._passed[agent] = connection, (passed := {})
            near = {k: self._signers.credential(k) for k in (agent, *plan.neighbours[agent])}
            new = {k: data for k, data in near.items() if passed.get(k) != data}
            passed |= new
            keys = shown.get(agent, b""), said.get(agent, b"")
            found[agent] = invitation(plan, self._terms, of, attempt, new, orders, *keys)
        return found


class OneSum:
    """One attempt at a secure sum.

    Args:
        clock: Where messages of agents come from, and requests go.
        protocol: How it is carried out.
        plan: The plan of the sum.
        attempt: Number of the attempt, which no other sum of the version has.
        phase_s: Seconds after which a phase ends.
        meter: Where costs are added.

    Attributes:
        missing: Why agents were dropped, by number.
        repeatable: Whether the sum was given up before anything was asked for that depends on a vector.
    """

    def __init__(
        self,
        clock: Listening,
        protocol: NetworkProtocol,
        plan: NetworkPlan,
        attempt: int,
        phase_s: float,
        meter: CostMeter,
    ) -> None:
        self._clock, self._plan, self._attempt, self._phase_s, self._meter = clock, plan, attempt, phase_s, meter
        self._protocol, self._machine = protocol, protocol.coordinator(plan)
        self._last: dict[int, bytes] = {}  # the last message of each agent, which may come again
        self.missing: dict[int, str] = {}
        self.repeatable = False

    @property
    def included(self) -> tuple[int, ...]:
        """The agents whose vectors are in the sum, once that is known."""
        return self._machine.included

    def advertised(self, said: Mapping[int, bytes]) -> dict[int, bytes]:
        """Take the keys that all members have said, and return what each is shown of them; nothing for none."""
        machine, plan = self._machine, self._plan
        if not said:
            return {}
        for agent, content in said.items():
            machine.receive(agent, Advert(advert_of(agent, content)))
            self._meter.sent[agent] += len(content)
            self._meter.add(machine.phase, up_bytes=len(content))
        return {agent: self._protocol.encoded(message, plan) for agent, message in machine.close().items()}

    def run(self, invitations: Mapping[int, Invitation]) -> tuple[np.ndarray | None, str]:
        """Carry out the sum; return it, or None and why it stayed hidden."""
        machine, plan = self._machine, self._plan
        jobs = {agent: each.job for agent, each in invitations.items()}
        asked: dict[int, Invitation | SumRequest] = dict(invitations)
        while True:
            phase = machine.phase
            self._exchange(asked, phase)
            try:
                if machine.complete:
                    for wrong in machine.faults:
                        self._clock.tell_sum(wrong)
                    with self._meter.timed(phase, "coordinator_s"):
                        return signed(machine.total(cores())), ""
                with self._meter.timed(phase, "coordinator_s"):
                    shown, encoded = machine.close(), self._protocol.encoded
                    asked = {
                        agent: SumRequest(jobs[agent], self._attempt, encoded(message, plan))
                        for agent, message in shown.items()
                    }
                # Whoever has answered and is out all the same: known once it is known who is in.
                for agent in set(plan.members if machine.included else ()) - {*machine.included, *self.missing}:
                    self._drop(agent, phase, "it and another agent don't have each other's messages")
            except SecureSumError as fault:
                self.repeatable = phase in machine.repeatable and isinstance(fault, TooFewAgentsError)
                return None, str(fault)

    def _exchange(self, asked: Mapping[int, Invitation | SumRequest], phase: str) -> None:
        """Send a phase's messages, and take the answers until all have come or the phase is over."""
        self._meter.add(phase, down_bytes=sum(len(each.content) for each in asked.values()))
        self._meter.heard += len(asked)
        self._clock.bridge.ask(list(asked.items()))
        due, began, clock = {agent: each.job for agent, each in asked.items()}, time.monotonic(), self._clock

        def take(news: AgentNews) -> None:
            self._clock.take_over(news)
            with self._meter.timed(phase, "coordinator_s"):
                if self._answered(news, phase):
                    del due[news.agent]

        def over() -> float:
            now, first = time.monotonic(), math.inf
            for agent in list(due):
                # Without a deadline the patience counts, from the last thing that was heard of the agent.
                patient_s = max(began, clock.bridge.heard_s(agent)) + clock.patience_s
                until_s = min(began + self._phase_s, patient_s)
                if now < until_s and not clock.roster.left[agent]:
                    first = min(first, until_s)
                    continue
                why = "it left for good" if clock.roster.left[agent] else f"nothing came in {now - began:.1f} s"
                self._drop(agent, phase, why)
                del due[agent]
            return first

        clock.until_answered(due, (REPLY, DECLINED), take, over)

    def _answered(self, news: AgentNews, phase: str) -> bool:
        """Take a message of an agent, and return whether it has answered in this phase."""
        if news.attempt != self._attempt or self._last.get(news.agent) == news.content != b"":
            self._clock.roster.known[news.agent] += 1  # it came before: then its connection broke
            return False
        if news.kind == DECLINED:
            self._drop(news.agent, phase, f"it takes no part: {news.reason}")
            return True
        self._meter.came(phase, news.agent, len(news.content))
        try:
            self._machine.receive(news.agent, self._protocol.decoded(news.content, self._plan))
            self._last[news.agent] = news.content
        except (WireError, SecureSumError) as fault:
            self._drop(news.agent, phase, f"its message is refused: {fault}")
        return True

    def _drop(self, agent: int, phase: str, why: str) -> None:
        self.missing[agent] = f"it dropped out of the secure sum in the phase {phase!r}: {why}"
        self._clock.tell_sum(self.missing[agent], agent)
