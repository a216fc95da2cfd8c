"""The jobs of an agent in one run: trained by its half, kept on disk, never trained twice.

    Task --settle, train--> Kept --on disk--> Sent or Failed, again and again as the same bytes
       +--> the copy of the server's parameters, under down stages
                                     +------> Bid --Answer--> Sent, under an upload budget
                                     +------> JobDone --Invitation--> SumReply, where sums hide updates

Everything here blocks, and runs in a thread of the agent.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError, WireError
from fedrl.core.keys import ROOT_BYTES, Root, agent_secret, keys_of, noise_of_seed
from fedrl.core.summation import hidden
from fedrl.core.types import Broadcast, PyTree
from fedrl.engines.down_content import Copy, CopyId, DownReader
from fedrl.engines.halves import AgentHalf, Order, Verdict
from fedrl.engines.messages import messages
from fedrl.federation.federation import Federation
from fedrl.sites.memory import IDENTITY, Kept, RunFacts, RunMemory
from fedrl.sites.policy import MayLeave, too_large
from fedrl.sites.summing import SiteSums
from fedrl.wire.protocol import Answer, Bid, Failed, Sent, Task, Welcome, one_line
from fedrl.wire.secure_sum import Declined, Invitation, JobDone, SumReply, SumRequest

COMPILING = threading.Lock()
"""Held while programs are compiled: several agents in one process would each compile the same ones at the same time."""
MOST_REASON = 500
"""The largest number of characters of the reason of a failure that leaves."""


class OldVersionError(WireError):
    """A job came with an older version than this agent has trained from: it is never trained, and nobody has lied."""


class RunRefusedError(Exception):
    """This site takes no part in a run. The message says why; `code` is the one for programs."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class RunJobs:
    """The jobs of an agent in one run.

    Args:
        federation: Federation of the site.
        setting: Parameters of its environment.
        welcome: What the coordinator has said of the run.
        memory: Folder of the run.
        may_leave: What the site lets leave.
        seed: Seed of the run, if the site trusts its coordinator with a replayable run.
        options: Options of the executor, such as `workers` for the host.
        bids: Reports that it says in a bid before each update, under an upload budget; None for no bids.
        sums: Its part in secure sums, where these hide updates; else None.

    Raises:
        RunRefusedError: The run is replayable and this site has no seed for it.
        WireError: The coordinator now says otherwise of the run than before.
        RunError: A file can't be read or written.
    """

    def __init__(
        self,
        federation: Federation,
        setting: PyTree,
        welcome: Welcome,
        memory: RunMemory,
        may_leave: MayLeave,
        seed: int | None,
        options: Mapping[str, Any],
        bids: tuple[str, ...] | None = None,
        sums: SiteSums | None = None,
    ) -> None:
        self.welcome, self._memory, self._may_leave, self._bids, self.sums = welcome, memory, may_leave, bids, sums
        facts, self.fresh = memory.facts(), not memory.has_state
        check_welcome(welcome, facts)
        check_seed(welcome, seed)
        if welcome.replayable and seed is not None:
            keys = keys_of(seed)
            run, secret, noise = keys.run.tobytes(), agent_secret(keys, welcome.agent), noise_of_seed(keys)
        else:
            (run, secret), noise = self._own_roots(), None  # the operating system draws noise, for each job anew
        given: dict[str, Any] = {**options, "bids": bids, "noise": noise, "vectors": sums is not None}
        self._half = AgentHalf(federation, welcome.agent, setting, run, secret, **given)
        with COMPILING:
            start = self._half.start()
        self.kept = memory.load(start) if memory.has_state else Kept(start)
        self._reader, self._copy = reader_of(federation), None
        if self._reader is not None and self.kept.copy[1]:
            number, data = self.kept.copy
            self._copy = Copy(number, self._reader.wire.held_of(data))
        if self.fresh:
            # From now on a missing state is a lost one, and not that of an agent which was ended in its first job.
            memory.save(self.kept)
        memory.keep_facts(RunFacts(welcome.agent, welcome.replayable, welcome.term))

    def _own_roots(self) -> tuple[Root, Root]:
        # Without a state nobody knows which keys were used, so new roots are drawn even where old ones are left.
        found = None if self.fresh else self._memory.roots()
        return found or self._memory.new_roots()

    def check_again(self, welcome: Welcome) -> None:
        """Take the `Welcome` of another connection in the same run.

        Raises:
            WireError: The coordinator now says otherwise of the run than before.
        """
        known = RunFacts(self.welcome.agent, self.welcome.replayable, self.welcome.term)
        check_welcome(welcome, known)
        if welcome.term > known.term:
            self._memory.keep_facts(known._replace(term=welcome.term))
        self.welcome = welcome

    def check(self, task: Task) -> bool:
        """Return whether a task is a new job; False if it is the last one again.

        Raises:
            OldVersionError: Its version is older than that of the job before.
            WireError: Its numbers can't follow from those of the job before.
            RunRefusedError: The agent has lost the state of a replayable run.
        """
        last = self.kept
        if last.job and (task.job, task.version) == (last.job, last.version):
            return False
        if task.version < last.version:
            raise OldVersionError(
                f"Job {task.job} came with version {task.version}, and this agent has trained from version "
                f"{last.version}. It uses the keys of no version twice, so it accepts no older one. The coordinator "
                "continues from an older state than it had."
            )
        if task.settled >= task.job or task.settled < 0:
            raise WireError(f"Job {task.job} came with a verdict on job {task.settled}, which is not before it.")
        if task.settled and task.verdict not in {each.value for each in Verdict}:
            known = ", ".join(each.value for each in Verdict)
            raise WireError(f"The verdict on job {task.settled} is {task.verdict!r}, and is one of {known}.")
        if self.fresh and task.job > 1 and self.welcome.replayable:
            raise RunRefusedError(
                "state_missing",
                f"Job {task.job} came, and this site has no state of the jobs before. In a replayable run its keys "
                "follow from the seed, so a new beginning would use keys again. Restore the folder "
                f"{self._memory.folder}, or start the run anew with another seed.",
            )
        return True

    def verdict(self, task: Task) -> Verdict:
        """Return the verdict on the last job.

        A task names the last job whose update arrived. A coordinator that has ended in between may count jobs from an
        earlier one again; then it knows nothing of the later ones.

        Where sums hide updates, none is merged whose masked vector did not leave: nobody compared its order with those
        of the others. A state from it, such as a control variate and its share, would be in the next sum alone.
        """
        if not self.kept.job or task.settled != self.kept.job:
            return Verdict.DROPPED
        verdict, sums = Verdict(task.verdict), self.sums
        untrue = verdict is Verdict.MERGED and sums is not None and not sums.has_left(self.kept)
        return Verdict.REJECTED if untrue else verdict

    @property
    def copy_id(self) -> CopyId:
        """What identifies the agent's copy of the server's parameters: without a digest if it has none."""
        return CopyId(0, "") if self._reader is None or self._copy is None else self._reader.wire.id_of(self._copy)

    def receive(self, task: Task) -> bytes | Broadcast:
        """Return the broadcast of a task; under down stages the agent's copy is up to date then.

        Every task has to be received, in order, even if it is not trained: the next difference follows from it.

        Raises:
            WireError: It can't be read, or does not fit the agent's copy.
        """
        if self._reader is None:
            return task.content
        broadcast, self._copy = self._reader.read(task.content, self._copy, task.copy, task.ahead)
        return broadcast

    def train(self, task: Task, verdict: Verdict) -> Kept:
        """Settle the last job and train this one; nothing is kept yet.

        Raises:
            WireError: The broadcast or the order can't be what a coordinator of this federation sends. No key is used.
        """
        broadcast = self.receive(task)
        run = self._half.settle(self.kept.run, verdict)
        turn = self._half.train(run, broadcast, Order(task.version, task.cohort, task.steps, task.share))
        vector = b"" if turn.vector is None else turn.vector.astype("<i4").tobytes()
        failed = turn.failed or too_large(self._may_leave, turn.update or vector)
        sent = (b"", b"") if failed else (turn.update, turn.bid)
        copy = (0, b"")
        if self._reader is not None and self._copy is not None:
            copy = self._copy.number, self._reader.wire.bytes_of(self._copy.held)
        kept = Kept(turn.run, task.job, task.version, sent[0], failed, sent[1], copy)
        if vector and not failed:
            heard, order = self._half.digest_of(broadcast), (task.steps, task.share)
            kept = kept._replace(vector=vector, broadcast=heard, order=order)
        last_sum = self.kept.last_sum if self.sums is None else self.sums.last_sum(self.kept, verdict is Verdict.MERGED)
        kept = kept._replace(beyond=turn.beyond, last_sum=last_sum)
        if failed:
            kept = kept._replace(run=self._half.settle(turn.run, Verdict.DROPPED))
        return kept

    def keep(self, kept: Kept) -> None:
        """Write the state and the update of a job to the disk; only then may the update be sent.

        Raises:
            RunError: They can't be written.
        """
        self._memory.save(kept)
        self.kept, self.fresh = kept, False

    def answer(self) -> Sent | Bid | JobDone | Failed:
        """Return the message about the last job."""
        kept = self.kept
        if kept.failed:
            return Failed(kept.job, one_line(kept.failed, MOST_REASON) if self._may_leave.reasons else "")
        if self.sums is not None:
            return self.sums.done(kept)
        if self._bids is not None:
            return Bid(kept.job, kept.version, kept.bid)
        return Sent(kept.job, kept.version, kept.update)

    def update_for(self, answer: Answer) -> Sent | None:
        """Return the update that an answer to a bid asks for; None if it is not wanted, or of another job.

        Raises:
            WireError: No bid was made.
        """
        kept = self.kept
        if self._bids is None:
            raise WireError(f"An answer to a bid for job {answer.job} came, and this site makes no bids.")
        if not answer.send or answer.job != kept.job or kept.failed:
            return None
        return Sent(kept.job, kept.version, kept.update)

    def summed(self, asked: Invitation | SumRequest) -> SumReply | Declined:
        """Return the answer to a message of a secure sum.

        Raises:
            WireError: Updates are not hidden in sums here.
            RunError: The note about a masked vector can't be written.
        """
        if self.sums is None:
            raise WireError(f"A message of a secure sum came for job {asked.job}, and this federation has none.")
        return self.sums.reply(asked, self.kept)

    def progress(self) -> int:
        """Return a number that grows while a job is trained; it may be called from another thread."""
        return self._half.progress()

    def declined(self, task: Task, why: str) -> Failed:
        """Return the message about a job that is not trained."""
        return Failed(task.job, one_line(why, MOST_REASON) if self._may_leave.reasons else "")

    def close(self) -> None:
        """Release resources outside this process, such as workers."""
        self._half.close()


def check_seed(welcome: Welcome, seed: int | None) -> None:
    """Refuse a replayable run where the site has no seed.

    Raises:
        RunRefusedError: It has none.
    """
    if welcome.replayable and seed is None:
        raise RunRefusedError(
            "replayable",
            f"The run {welcome.name!r} is replayable: all random numbers of its agents follow from one seed, which "
            "others know. This site has no seed. Give it as seed if this run is a test or everybody is trusted, or "
            "take part in a run that is not replayable.",
        )


def setting_for(welcome: Welcome, setting_of: Callable[[int], PyTree]) -> PyTree:
    """Return the parameters of the environment of the agent that a coordinator calls this site.

    Raises:
        RunRefusedError: The experiment of this site has fewer agents.
    """
    try:
        return setting_of(welcome.agent)
    except LookupError as fault:
        # It stays so, however often the agent connects.
        raise RunRefusedError(
            "other_federation",
            f"The coordinator calls this site agent {welcome.agent}, counted from 0, and {fault}. Use the experiment "
            "of the coordinator.",
        ) from fault


def check_welcome(welcome: Welcome, facts: RunFacts | None) -> None:
    """Refuse a `Welcome` that contradicts itself or an earlier one of its run.

    Raises:
        WireError: It does; the message says how.
    """
    if not IDENTITY.fullmatch(welcome.run):
        raise WireError(f"The run is called {welcome.run!r}. The identity of a run has 32 hexadecimal digits.")
    if not welcome.agent < welcome.agents:
        raise WireError(f"This site was called agent {welcome.agent} of {welcome.agents}. Agents are numbered from 0.")
    if not welcome.beat_s > 0:  # NaN is not
        raise WireError(f"The coordinator asks for a beat every {welcome.beat_s} seconds. It needs a positive number.")
    if facts is None:
        return
    if welcome.term < facts.term:
        raise WireError(
            f"The coordinator has the term {welcome.term}, and this site has heard of term {facts.term}. Another "
            "coordinator has taken its place. Connect to that one."
        )
    if (welcome.agent, welcome.replayable) != (facts.agent, facts.replayable):
        raise WireError(
            f"This site was agent {facts.agent} of run {welcome.run} (replayable: {facts.replayable}), and is now "
            f"called agent {welcome.agent} (replayable: {welcome.replayable}). Neither may change in a run."
        )


def rehearse(
    federation: Federation, setting: PyTree, measured: bool, options: Mapping[str, Any] | None = None
) -> float:
    """Compile the programs of a job with an agent of its own, which uses other keys and is discarded.

    In an environment on the host, such as Gymnasium's, it takes one local step, or two if `measured`.

    Args:
        federation: Federation of the site.
        setting: Parameters of its environment.
        measured: Whether to measure the speed, in a second job.
        options: Options of the executor.

    Returns:
        The local steps per second; NaN if they are not measured.

    Raises:
        ConfigError: The training failed.
    """
    with COMPILING:
        return _rehearsed(federation, setting, measured, dict(options or {}))


def reader_of(federation: Federation) -> DownReader | None:
    """Return what reads the broadcasts of a server with down stages; None without down stages."""
    if federation.downlink is None:
        return None
    setting = jax.tree.map(lambda x: jnp.asarray(x)[None], federation.learner.environment.params)
    return DownReader(federation, messages(federation, setting).sent)


def _rehearsed(federation: Federation, setting: PyTree, measured: bool, options: dict[str, Any]) -> float:
    agent, run = (os.urandom(ROOT_BYTES) for _ in range(2))
    vectors = hidden(federation.summation) is not None
    half = AgentHalf(federation, 0, setting, run, agent, vectors=vectors, **options)
    try:
        broadcast, order = half.first_job(1)
        state, took = half.start(), math.nan
        for _ in range(1 + measured):
            begun = time.perf_counter()
            turn = half.train(state, broadcast, order)
            took = time.perf_counter() - begun
            if turn.failed:
                raise ConfigError(
                    f"The first local step failed: {turn.failed}. Check the environment with fedrl check-env, and the "
                    "learner with fedrl run."
                )
            for verdict in (Verdict.REJECTED, Verdict.MERGED):
                state = half.settle(turn.run, verdict)
        reader = reader_of(federation)
        if reader is not None:
            reader.compile()
        jax.block_until_ready(jax.tree.leaves(state.agents.blocks))
        return 1.0 / took if measured else math.nan
    finally:
        half.close()
