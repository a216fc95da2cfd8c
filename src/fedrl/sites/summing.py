"""An agent's part in the secure sums of a run: each step once, each message again as the same bytes.

    Invitation --compared with what the agent knows--> its end of the protocol --> SumReply, its first message
    SumRequest --> the next step of its end --> SumReply           a note on disk before the masked vector
                                           +--> Declined           something is wrong: nothing further leaves

What is said of masked vectors holds for whatever depends on a vector and leaves: the sum of parts of `additive` and the
ciphertexts of `ckks` (`NetworkProtocol.vectors`).

A masked vector leaves once for each version of the parameters, whatever the coordinator says and however often agent or
coordinator begin anew: two sums over vectors of one version whose members differ by one agent would give its vector.
Everything here blocks, and runs in a thread of the agent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fedrl.core.errors import ConfigError, SecureSumError, WireError
from fedrl.secure.credential import KnownSigners, SumSigner
from fedrl.secure.fresh_keys import FreshKeys
from fedrl.secure.invitation import AgentJob, Terms, accepted, contents
from fedrl.secure.orders import JobOrder, as_text, check_verdicts
from fedrl.secure.protocols import PROTOCOLS, AgentEnd
from fedrl.sites.memory import Kept, MaskedNote, RunMemory, SumVerdicts
from fedrl.wire.protocol import one_line
from fedrl.wire.secure_sum import Declined, Invitation, JobDone, SumReply, SumRequest


class SiteSums:
    """The secure sums of an agent in one run.

    Args:
        number: Number of the agent.
        terms: What the agent knows of all sums of the run.
        signer: Its key, and the certificate by which others trust it.
        authority: Certificate of the authority, as the site has it, PEM.
        memory: Folder of the run.

    Attributes:
        credential: The credential by which others know the agent.
        faults: What was wrong in the last message and did not end the agent's part, a sentence each.
    """

    def __init__(self, number: int, terms: Terms, signer: SumSigner, authority: bytes, memory: RunMemory) -> None:
        self._number, self._terms, self._memory = number, terms, memory
        self._known = KnownSigners(authority, terms.run, signer.fingerprint)
        self._protocol, self._shared = PROTOCOLS[terms.protocol], signer.encryption_key
        # The process may come back to a run: in no sum of it may a key of a box be used twice.
        signer = signer.renewed()
        self._identity = signer.identity(number, self._known.directory)
        self.credential = signer.credential(terms.run, number)
        self._sum: tuple[AgentJob, int, AgentEnd] | None = None  # job, attempt and the agent's end of the protocol
        self._fresh: tuple[int, FreshKeys] | None = None  # the keys that were said when this job was done
        self._verdicts = memory.verdicts()
        self._last: tuple[Invitation | SumRequest, SumReply | Declined] | None = None
        self.faults: list[str] = []

    def reply(self, asked: Invitation | SumRequest, kept: Kept) -> SumReply | Declined:
        """Return the answer to a message; to the last one again the same.

        Args:
            asked: The message.
            kept: The last job of the agent.

        Raises:
            RunError: The note about a masked vector can't be written; the vector may not leave.
        """
        self.faults = []
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        found: SumReply | Declined
        try:
            content = self._begun(asked, kept) if isinstance(asked, Invitation) else self._step(asked, kept)
            found = SumReply(asked.job, asked.attempt, content)
        except (SecureSumError, WireError, ConfigError) as fault:
            self._sum = None
            found = Declined(asked.job, asked.attempt, one_line(str(fault)))
        self._last = asked, found
        return found

    def done(self, kept: Kept) -> JobDone:
        """Return the message that a job is done."""
        content = self.advert(kept.job) if kept.vector else b""
        return JobDone(kept.job, kept.version, bool(kept.vector), content, as_text(kept.last_sum))

    def last_sum(self, kept: Kept, merged: bool) -> tuple[int, bytes]:
        """Return what the agent has been told of the last sum in which its vector was.

        Args:
            kept: Its last job.
            merged: The verdict on it.

        Raises:
            RunError: The note about a masked vector is damaged, or what was told can't be written.
        """
        note = self._memory.masked()
        if note is None or (note.job, note.version) != (kept.job, kept.version):
            return kept.last_sum  # that job was in no sum
        if self._verdicts.version == kept.last_sum[0]:  # nobody has said who was in the sum of that job
            self._keep(self._verdicts.version, (), kept)
        return note.version, bytes.fromhex(note.plan)[:8] if merged else bytes(8)

    def advert(self, job: int) -> bytes:
        """Return the public keys for the sum of a job, before it is known who takes part; empty for some protocols.

        They are the same ones again until they are used: a coordinator that begins anew begins a sum with others.
        """
        if not self._protocol.advertises:
            return b""
        if self._fresh is None or self._fresh[0] != job or self._fresh[1].taken:
            self._fresh = job, FreshKeys(self._number)
        return self._fresh[1].content

    def has_left(self, kept: Kept) -> bool:
        """Return whether the masked vector of a job has left, or was about to: then its order was one by the rule.

        Raises:
            RunError: The note about it is damaged.
        """
        note = self._memory.masked()
        return note is not None and (note.job, note.version) == (kept.job, kept.version)

    @property
    def largest_request(self) -> int:
        """The largest message to the agent in a sum, in bytes."""
        return self._terms.largest_request()

    def _begun(self, invited: Invitation, kept: Kept) -> bytes:
        self._check_unmasked(kept)
        mine = self._job_of(kept)
        plan = accepted(invited, self._terms, mine)
        orders, credentials = contents(invited, self._terms.agents)
        check_verdicts(orders, self._told_with(kept))
        for agent, data in credentials.items():
            self._known.add(agent, data)
        for agent in (self._number, *plan.neighbours[self._number]):
            if agent not in self._known:
                raise SecureSumError(f"The invitation came without a credential of agent {agent}, whose key is needed.")
        end = self._protocol.agent(self._identity, plan, self._shared, self._said(invited))
        self._sum = mine, invited.attempt, end
        message = end.begin(_values(kept))
        if invited.adverts:
            shown = invited.content[len(invited.content) - invited.adverts :]
            message = end.answer(self._protocol.decoded(shown, plan), _values(kept))
        return self._leaving(end, message, kept)

    def _told_with(self, kept: Kept) -> Mapping[int, tuple[int, bytes]]:
        """Return what this agent was told of the last sum in which both were, by the number of the other agent."""
        version, included, told = self._verdicts
        return {**told, **dict.fromkeys(included, kept.last_sum)} if version == kept.last_sum[0] else told

    def _keep(self, version: int, included: tuple[int, ...], kept: Kept) -> None:
        self._verdicts = SumVerdicts(version, included, self._told_with(kept))
        self._memory.keep_verdicts(self._verdicts)

    def _said(self, invited: Invitation) -> FreshKeys | None:
        """Return the keys that the agent has said, if the invitation goes on from them: others have them already."""
        if not invited.adverts:
            return None  # the answer has new ones
        if self._fresh is None or self._fresh[0] != invited.job or _digest(self._fresh[1]) != invited.own:
            raise SecureSumError(
                f"Agent {self._number} was invited with keys that it does not have: it has begun anew since it said "
                "them."
            )
        return self._fresh[1]

    def _step(self, asked: SumRequest, kept: Kept) -> bytes:
        if self._sum is None or (self._sum[0].job, self._sum[1]) != (asked.job, asked.attempt):
            raise SecureSumError(
                f"Agent {self._number} was asked for its next step in the sum of job {asked.job}, and takes no part in "
                "it: it has left it, or has begun anew since."
            )
        # The sum was compared with one job. The vector of a later one was trained from whatever the agent was sent.
        if self._sum[0] != self._job_of(kept):
            raise SecureSumError(
                f"Agent {self._number} was asked for its next step in the sum of job {asked.job}, and has done job "
                f"{kept.job} of version {kept.version} since: a vector is added in the sum of its own job alone."
            )
        end = self._sum[2]
        message = end.answer(self._protocol.decoded(asked.content, end.plan), _values(kept))
        self.faults = end.faults
        if end.included and self._verdicts.version != kept.version:
            # On the disk: a coordinator can end the process of each agent, or lead all into another run and back.
            self._keep(kept.version, end.included, kept)
        return self._leaving(end, message, kept)

    def _leaving(self, end: AgentEnd, message: object, kept: Kept) -> bytes:
        """Return the bytes of a message; if they depend on the vector, a note of that is on the disk before."""
        if isinstance(message, self._protocol.vectors):
            self._check_unmasked(kept)
            self._memory.note_masked(MaskedNote(kept.job, kept.version, end.plan.digest.hex()))
        return self._protocol.encoded(message, end.plan)

    def _job_of(self, kept: Kept) -> AgentJob:
        order = JobOrder(*kept.order, kept.last_sum)
        return AgentJob(self._number, kept.job, kept.version, kept.broadcast.hex(), order)

    def _check_unmasked(self, kept: Kept) -> None:
        """Refuse a second sum over vectors of one version."""
        note = self._memory.masked()
        if note is not None and kept.version <= note.version:
            raise SecureSumError(
                f"Agent {self._number} has sent a masked vector of version {note.version} for job {note.job}, and "
                "sends no second one: two sums whose members differ by one agent would give its vector."
            )
        if not kept.vector:
            raise SecureSumError(f"Agent {self._number} was asked for a sum, and its last job has no vector.")


def _digest(keys: FreshKeys) -> str:
    return hashlib.sha256(keys.content).hexdigest()


def _values(kept: Kept) -> np.ndarray:
    return np.frombuffer(kept.vector, "<i4").astype(np.int32, copy=False)
