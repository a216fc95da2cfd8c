"""Secure sums with agents at other sites: the bits of a simulation, and a coordinator that holds no single update."""

import asyncio
import json
import re
import threading
import time
from itertools import combinations
from typing import ClassVar

import jax
import numpy as np
import pytest

import fedrl
from fedrl.aggregators import mean, median
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.network import sessions
from fedrl.network.log import ReplayClock, entries_of, line_of, replaying
from fedrl.privacy import distributed_skellam
from fedrl.records.folder import EVENTS
from fedrl.runs.coordinate import coordinate
from fedrl.secure import agent as secure_agent
from fedrl.secure import coordinator as secure_coordinator
from fedrl.secure import encrypted_ends, relayed
from fedrl.secure.ckks import new_encryption_key
from fedrl.secure.grid import ring_sum
from fedrl.secure.messages import KINDS, AdvertList, Delivery, SurvivorList, TagList
from fedrl.secure.protocols import PROTOCOLS
from fedrl.sites.memory import MaskedNote
from fedrl.stages import quantize
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Hello, Leave, Reader, Ready, Sent
from fedrl.wire.secure_sum import Credential, Invitation, JobDone, SumReply
from tests.engines.test_halves import AGENTS, FLEET, VALLEY
from tests.network.test_bits import DONE, SEED, Sited, params
from tests.network.test_coordinate import TABLES, World, bits, replayed, same_bits, seat_of
from tests.support.certified import authority, credentials

ROUNDS = 4


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("summing") / "certificates", *(f"site-{k}" for k in range(AGENTS)))


def masked(federation_of=federate, **given):
    given = {"minimum": 3, "protocol": "masks", "phase_s": 5.0} | given
    return federate(VALLEY, mean("uniform"), local_steps=2, summation=ring_sum(AGENTS, 8.0, **given))


KEY = new_encryption_key()


def summing(federation, certificates, folder, behaviour=None, **options):
    """A federation over the network whose agents take part in secure sums."""
    shared = KEY if federation.summation.protocol == "ckks" else None
    each = {k: {"certificates": certificates, "folder": folder, "shared": shared} for k in range(AGENTS)}
    for k, more in (behaviour or {}).items():
        each[k] |= more
    return Sited(federation, FLEET, behaviour=each, certificates=certificates, **options)


def same(one, other):
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


CASES = {
    "verified": masked(),
    "not verified": masked(verified=False),
    "weights": federate(VALLEY, mean(), local_steps=2, summation=ring_sum(AGENTS, 64.0, 3, protocol="masks")),
    "groups": federate(VALLEY, median(), summation=ring_sum(AGENTS, 8.0, group_size=2, protocol="masks")),
    "down stages": federate(
        VALLEY, mean(), down_stages=(quantize(4),), summation=ring_sum(AGENTS, 64.0, 3, protocol="masks")
    ),
    "additive": masked(protocol="additive"),
    "additive, weights": federate(
        VALLEY, mean(), local_steps=2, summation=ring_sum(AGENTS, 64.0, 3, protocol="additive")
    ),
    "additive, groups": federate(VALLEY, median(), summation=ring_sum(AGENTS, 8.0, group_size=2, protocol="additive")),
    "ckks": masked(protocol="ckks"),
    "ckks, groups": federate(VALLEY, median(), summation=ring_sum(AGENTS, 8.0, group_size=2, protocol="ckks")),
}


NOISE = distributed_skellam(1.0, 2.0, 4)
CASES["noise of the agents"] = federate(
    VALLEY,
    mean("uniform"),
    NOISE,
    summation=ring_sum(AGENTS, NOISE.noise.grid.largest(), 4, protocol="masks"),
)


@pytest.mark.parametrize("case", CASES)
def test_sums_over_the_network_have_the_bits_of_a_simulation(certificates, tmp_path, case):
    federation = CASES[case]
    alone = simulate(federation, FLEET, block=1, reproducible_noise=True)
    state = alone.init(SEED)
    for _ in range(ROUNDS):
        state, seen = alone.round(state)
    with summing(federation, certificates, tmp_path, replayable=True) as sited:
        found = sited.rounds(ROUNDS)[-1]
    assert not found.rejected, found.rejected
    assert found.weight == seen.weight
    same(params(state), params(sited.state))


def test_sums_of_all_protocols_are_the_same(certificates, tmp_path):
    found = []
    for protocol in PROTOCOLS:
        with summing(masked(protocol=protocol), certificates, tmp_path / protocol, replayable=True) as sited:
            sited.rounds(2)
            found.append(params(sited.state))
    same(found[0], found[1])
    same(found[0], found[2])


PHASES = {Invitation: "shares", Delivery: "masked", SurvivorList: "tags", TagList: "opening"}
AGAIN = {Invitation: "adverts", AdvertList: "shares", Delivery: "masked", SurvivorList: "tags", TagList: "opening"}
"""The phases of a second attempt, in which agents say new keys."""
PARTS = {Invitation: "parts", relayed.PartDelivery: "received", relayed.IncludedAgents: "sums"}
OPENING = {Invitation: "vectors", encrypted_ends.EncryptedTotal: "opening"}
KINDS_OF = {"additive": (relayed.KINDS, PARTS), "ckks": (encrypted_ends.KINDS, OPENING), "masks": (KINDS, PHASES)}
SENT = ("tags", "opening")
"""The phases before which an agent's masked vector has arrived."""


def phase_of(message, protocol="masks"):
    kinds, phases = KINDS_OF[protocol]
    if phases is PHASES and (not isinstance(message, Invitation) or not message.adverts):
        phases = AGAIN
    return phases[Invitation if isinstance(message, Invitation) else kinds[message.content[4]]]


def at(phase, act, job=2, protocol="masks"):
    """A behaviour: it acts in this phase of the sum of a job, each time it is asked."""

    async def summed(agent, link, message):
        return message.job == job and phase_of(message, protocol) == phase and await act(agent, link, message)

    return {"summed": summed}


async def leave(agent, link, message):
    agent.ended = DONE
    await agent.say(link, Leave(True, "enough"))
    return True


async def stay_silent(agent, link, message):
    return True


def once(act):
    """The same behaviour, but the first time alone."""
    done = []

    async def first(agent, link, message):
        if done:
            return False
        done.append(message)
        return await act(agent, link, message)

    return first


async def lose_the_request(agent, link, message):
    await link.close()
    return True


async def lose_the_reply(agent, link, message):
    agent.replies.append(await asyncio.to_thread(agent.reply, message))
    await link.close()
    return True


async def begin_anew(agent, link, message):
    """As a process that is killed and starts again: what was in memory is gone."""
    agent.sums = None
    await link.close()
    return True


def replay(sited, federation, rounds):
    """The parameters that a simulation computes from the log of a coordinator."""
    clock = ReplayClock(entries_of([line_of(1, sited.simulation_clock.log)]))
    again = simulate(federation, FLEET, executor=replaying(clock), block=1, merges=1)
    state = again.init(SEED)
    for _ in range(rounds):
        state, _ = again.round(state)
    assert clock.finished
    return params(state)


def masked_of(agent, protocol="masks"):
    """The masked vectors that an agent has made, each once, by job."""
    found, kinds, vectors = {}, KINDS_OF[protocol][0], PROTOCOLS[protocol].vectors
    for reply in agent.replies:
        if isinstance(reply, SumReply) and kinds[reply.content[4]] is vectors:
            found.setdefault(reply.job, set()).add(reply.content)
    return found


@pytest.mark.parametrize("phase", PHASES.values())
def test_an_agent_that_leaves_in_a_phase_is_left_out_unless_its_masked_vector_has_arrived(
    certificates, tmp_path, phase
):
    federation = masked()
    with summing(federation, certificates, tmp_path, {1: at(phase, leave)}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0, 5.0 if phase in SENT else 4.0, 4.0]
    why = f"it dropped out of the secure sum in the phase {phase!r}: it left for good"
    assert rounds[1].rejected == (() if phase in SENT else ((1, why),))
    assert [found.sums["left_sums"] for found in rounds] == [0.0, 1.0, 0.0]
    same(replay(sited, federation, 3), params(sited.state))


@pytest.mark.parametrize("act", [lose_the_request, lose_the_reply])
@pytest.mark.parametrize("phase", PHASES.values())
def test_an_agent_that_comes_back_in_a_phase_goes_on_with_the_same_bytes(certificates, tmp_path, phase, act):
    federation = masked()
    with summing(federation, certificates, tmp_path, {1: at(phase, once(act))}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0] * 3
    assert not any(found.rejected for found in rounds)
    assert all(len(each) == 1 for each in masked_of(sited.agents[1]).values())
    alone = simulate(federation, FLEET, block=1)
    state = alone.init(SEED)
    for _ in range(3):
        state, _ = alone.round(state)
    same(params(state), params(sited.state))


@pytest.mark.parametrize("phase", PHASES.values())
def test_an_agent_that_begins_anew_in_a_phase_sends_no_second_masked_vector(certificates, tmp_path, phase):
    federation = masked()
    with summing(federation, certificates, tmp_path, {1: at(phase, once(begin_anew))}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0, 5.0 if phase in SENT else 4.0, 5.0]
    why = "The invitation came without a credential" if phase == "shares" else "Agent 1 was asked for its next step"
    assert rounds[1].sums["left_sums"] == 1.0
    assert [agent for agent, _ in rounds[1].rejected] == ([] if phase in SENT else [1])
    assert all(f"in the phase {phase!r}: it takes no part: {why}" in reason for _, reason in rounds[1].rejected)
    assert all(len(each) == 1 for each in masked_of(sited.agents[1]).values())
    same(replay(sited, federation, 3), params(sited.state))


def test_an_agent_that_begins_anew_after_its_job_and_before_the_sum_takes_part_with_new_keys(certificates, tmp_path):
    gone = []

    async def done_and_gone(agent, link, task):
        if task.job != 2 or gone:
            return False
        gone.append(agent)
        await agent.say(link, agent.sums.done(agent.as_kept()))
        return await begin_anew(agent, link, task)

    async def slowly(agent, link, task):
        while task.job == 2 and not (gone and any(job == 2 for job, _ in gone[0].sent)):
            await asyncio.sleep(0.01)  # the other one has not said for the second time that it is done
        return False

    behaviour = {1: {"act": done_and_gone}, 2: {"act": slowly}}
    with summing(masked(), certificates, tmp_path, behaviour) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0] * 3
    assert gone
    assert not any(found.rejected for found in rounds)


def test_agents_that_decline_their_first_invitation_are_sent_the_credentials_again(certificates, tmp_path):
    """As after a restart of all in a sum: they have sent a masked vector of the version, and read no further."""

    async def invited_to_what_it_has_sent(agent, link, message):
        memory = agent.sums._memory
        if message.job != 1 or memory.masked() is not None:
            return False
        memory.note_masked(MaskedNote(1, agent.kept[0][1], "00" * 32))
        return False

    behaviour = {k: {"summed": invited_to_what_it_has_sent} for k in range(AGENTS)}
    with summing(masked(), certificates, tmp_path, behaviour) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [0.0, 5.0, 5.0]
    assert all("has sent a masked vector of version" in reason for _, reason in rounds[0].rejected)
    assert len(rounds[0].rejected) == AGENTS


def test_an_agent_that_makes_up_what_it_was_told_is_left_out_alone(certificates, tmp_path):
    """Else the others would decline each sum with it, and accuse the coordinator."""

    async def lie(agent, link, task):
        if task.job < 2:
            return False
        agent.last_sum = agent.last_sum[0], bytes(8)  # it was merged
        return False

    with summing(masked(), certificates, tmp_path, {1: {"act": lie}}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0, 4.0, 4.0]
    assert [[agent for agent, _ in found.rejected] for found in rounds] == [[], [1], [1]]
    assert all("it says that it was told something else" in found.rejected[0].reason for found in rounds[1:])


def test_agents_that_all_say_keys_where_a_protocol_has_none_do_not_end_the_coordinator(certificates, tmp_path):
    async def say_keys(agent, link, task):
        if task.job == 1:
            await agent.say(link, agent.sums.done(agent.as_kept())._replace(content=bytes(96)))
        return task.job == 1

    behaviour = {k: {"act": say_keys} for k in range(AGENTS)}
    with summing(masked(protocol="additive"), certificates, tmp_path, behaviour) as sited:
        rounds = sited.rounds(2)
    assert [found.weight for found in rounds] == [0.0, 5.0]
    assert {reason for _, reason in rounds[0].rejected} == {"it has said 96 bytes of keys for the sum, and 0 were due"}


@pytest.mark.parametrize("phase", PHASES.values())
def test_a_phase_ends_without_an_agent_that_says_nothing(certificates, tmp_path, phase):
    federation = masked(phase_s=2.0)  # so long that the others answer in time on a busy machine
    with summing(federation, certificates, tmp_path, {1: at(phase, stay_silent)}) as sited:
        sited.rounds(1)
        began = time.monotonic()
        (found,) = sited.rounds(1)
        took = time.monotonic() - began
        sited.rounds(1)
    assert 2.0 <= took < 20.0
    assert found.weight == (5.0 if phase in SENT else 4.0)
    why = f"it dropped out of the secure sum in the phase {phase!r}: nothing came in 2.0 s"
    assert found.rejected == (() if phase in SENT else ((1, why),))
    same(replay(sited, federation, 3), params(sited.state))


OTHER_PHASES = [("additive", phase) for phase in PARTS.values()] + [("ckks", phase) for phase in OPENING.values()]


def left_out(protocol, phase):
    """Whether a sum goes on if an agent leaves in a phase; and then, how many vectors are in it."""
    if (protocol, phase) == ("additive", "sums"):
        return False, 0.0
    return True, 5.0 if phase == "opening" else 4.0


@pytest.mark.parametrize(("protocol", "phase"), OTHER_PHASES)
@pytest.mark.parametrize("act", [leave, begin_anew])
def test_an_agent_that_leaves_or_begins_anew_is_left_out_unless_all_have_to_stay(
    certificates, tmp_path, protocol, phase, act
):
    """Agent 0, as it is asked first to open an encrypted sum."""
    federation, first = masked(protocol=protocol), once(act)
    with summing(federation, certificates, tmp_path, {0: at(phase, first, protocol=protocol)}) as sited:
        rounds = sited.rounds(3)
    goes_on, weight = left_out(protocol, phase)
    after = 4.0 if act is leave else 5.0
    assert [found.weight for found in rounds] == [5.0, weight, after]
    assert bool(rounds[1].skipped) is not goes_on
    if not goes_on:
        assert "Sums of 4 parties came, and all 5 are needed" in rounds[1].skipped
    assert all(len(each) == 1 for agent in sited.agents for each in masked_of(agent, protocol).values())
    same(replay(sited, federation, 3), params(sited.state))


@pytest.mark.parametrize(("protocol", "phase"), OTHER_PHASES)
@pytest.mark.parametrize("act", [lose_the_request, lose_the_reply])
def test_a_cut_in_any_phase_of_the_other_protocols_changes_nothing(certificates, tmp_path, protocol, phase, act):
    with summing(
        masked(protocol=protocol), certificates, tmp_path, {0: at(phase, once(act), protocol=protocol)}
    ) as sited:
        rounds = sited.rounds(2)
    assert [found.weight for found in rounds] == [5.0] * 2
    assert not any(found.rejected for found in rounds)
    assert all(len(each) == 1 for each in masked_of(sited.agents[0], protocol).values())


async def make_parts_up(agent, link, message):
    reply = agent.reply(message)
    head = len(reply.content) - 4 * (4 + 48)
    made_up = b"".join(reply.content[at : at + 4] + bytes(48) for at in range(head, len(reply.content), 52))
    await agent.say(link, reply._replace(content=reply.content[:head] + made_up))
    return True


def test_an_agent_that_makes_its_parts_up_is_named_and_left_out(certificates, tmp_path):
    federation = masked(protocol="additive")
    with summing(federation, certificates, tmp_path, {1: at("parts", make_parts_up, protocol="additive")}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0, 4.0, 5.0]
    assert [agent for agent, _ in rounds[1].rejected] == [1]
    assert "in the phase 'received': it and another agent don't have each other's" in rounds[1].rejected[0][1]
    same(replay(sited, federation, 3), params(sited.state))


def invited(agent):
    """The jobs to whose sums an agent was invited, once for each attempt."""
    attempts = {message.attempt: message.job for message in agent.told if isinstance(message, Invitation)}
    return list(attempts.values())


def others(phase, act, agents=(1, 2)):
    return {k: at(phase, act) for k in agents}


def test_too_few_before_masks_begin_once_more_with_those_that_are_left(certificates, tmp_path):
    federation = masked(minimum=2, phase_s=2.0)
    with summing(federation, certificates, tmp_path, others("shares", stay_silent, (1, 2, 3))) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0, 2.0, 5.0]
    assert not rounds[1].skipped
    assert invited(sited.agents[0]) == [1, 2, 2, 3]
    told = [message for message in sited.agents[0].told if isinstance(message, Invitation) and message.job == 2]
    assert [bool(message.adverts) for message in told] == [True, False]  # keys are for one attempt
    same(replay(sited, federation, 3), params(sited.state))


@pytest.mark.parametrize("phase", ["masked", "tags", "opening"])
def test_too_few_after_masks_leave_the_round_out_and_the_sum_hidden(certificates, tmp_path, phase):
    federation = masked(phase_s=2.0)
    with summing(federation, certificates, tmp_path, others(phase, stay_silent, (1, 2, 3))) as sited:
        before = params(sited.state)
        sited.rounds(1)
        first = params(sited.state)
        (found,) = sited.rounds(1)
        same(first, params(sited.state))
        sited.rounds(1)
    assert not np.array_equal(before[0], first[0])
    assert found.skipped.startswith("a sum was given up: ")
    assert found.weight == 0.0
    assert len(found.rejected) == 3
    assert invited(sited.agents[0]) == [1, 2, 3]
    assert all(len(each) == 1 for agent in sited.agents for each in masked_of(agent).values())
    same(replay(sited, federation, 3), params(sited.state))


async def make_a_share_up(agent, link, message):
    reply = agent.reply(message)
    await agent.say(link, reply._replace(content=reply.content[:-1] + bytes([reply.content[-1] ^ 1])))
    return True


def test_a_wrong_share_is_left_out_and_named(certificates, tmp_path):
    federation = masked()
    with summing(federation, certificates, tmp_path, {1: at("opening", make_a_share_up)}) as sited:
        rounds = sited.rounds(3)
    assert [found.weight for found in rounds] == [5.0] * 3
    (text,) = [text for text in sited.observer.texts if "share" in text]
    assert "The share of agent 4's seed that agent 1 holds is wrong and was left out" in text
    same(replay(sited, federation, 3), params(sited.state))


class Kept(Reader):
    """A reader of a coordinator that keeps all frames it has been given."""

    frames: ClassVar[list[bytes]] = []

    def take(self, data):
        self.frames.append(bytes(data))
        return super().take(data)


def received(certificates, folder, monkeypatch, rounds):
    """All frames that a coordinator receives in some rounds, and its agents."""
    monkeypatch.setattr(sessions, "Reader", Kept)
    monkeypatch.setattr(Kept, "frames", [])
    federation = masked()
    vectors = []

    async def note(agent, link, message):
        if isinstance(message, Invitation):
            vectors.append((agent.number, message.job, agent.kept[1].vector))
        return False

    with summing(federation, certificates, folder, {k: {"summed": note} for k in range(AGENTS)}) as sited:
        sited.rounds(rounds)
    return Kept.frames, vectors, sited.agents


def readable(frames, vectors, agents):
    """What a coordinator could read of single vectors: a sentence for each, of which there should be none."""
    whole, found = b"".join(frames), []
    masked, codes = [], []
    for number, job, vector in vectors:
        if vector.tobytes() in whole:
            found.append(f"the vector of agent {number} is in a frame")
        (content,) = masked_of(agents[number])[job]
        masked.append(np.frombuffer(content[-vector.nbytes :], np.uint32))
        codes.append(vector.view(np.uint32))
    masked, codes = np.stack(masked), np.stack(codes)
    if (masked == codes).any():
        found.append("a masked number is the number")
    # Without their masks, sums of two agents of one round would be those of their vectors.
    jobs = np.array([job for _, job, _ in vectors])
    for job in np.unique(jobs):
        m, c = masked[jobs == job], codes[jobs == job]
        if any((m[i] + m[j] == c[i] + c[j]).any() for i, j in combinations(range(len(m)), 2)):
            found.append(f"the sum of two agents in job {job}")
    signed = [np.ravel(x).view(np.int32).astype(float) for x in (masked, codes)]
    correlation = abs(np.corrcoef(*signed)[0, 1])
    if correlation > 4.5 / np.sqrt(masked.size):
        found.append(f"masked numbers have the correlation {correlation:.3f} with the numbers")
    return found


def test_a_coordinator_receives_no_update_and_nothing_that_depends_on_one_alone(certificates, tmp_path, monkeypatch):
    frames, vectors, agents = received(certificates, tmp_path, monkeypatch, 30)
    assert len(vectors) == 30 * AGENTS
    assert not readable(frames, vectors, agents)
    kinds = {type(message) for reader in [Reader(1 << 20)] for f in frames if (message := reader.take(f)) is not None}
    assert kinds == {Hello, Credential, Ready, JobDone, SumReply}


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (lambda values, masks, threads=1: None, "is in a frame"),
        (lambda values, masks, threads=1: np.add(values, np.uint32(2**31 + 7), out=values), "have the correlation"),
        (
            lambda values, masks, threads=1: np.add(values, masks[0].positive * values, out=values),
            "have the correlation",
        ),
    ],
    ids=["no masks", "a number as mask", "the vector as mask"],
)
def test_without_masks_it_would_be_seen(certificates, tmp_path, monkeypatch, fault, seen):
    monkeypatch.setattr(secure_agent, "apply_masks", fault)
    monkeypatch.setattr(secure_coordinator, "apply_masks", lambda values, masks, threads=1: None)
    assert re.search(seen, " ".join(readable(*received(certificates, tmp_path, monkeypatch, 2))))


def test_an_agent_that_sends_an_update_in_the_clear_is_cut_off(certificates, tmp_path):
    async def in_the_clear(agent, link, task):
        if task.job == 2:
            await agent.say(link, Sent(task.job, task.version, bytes(40)))
            await asyncio.sleep(5.0)
        return False

    federation = masked()
    behaviour = {1: {"act": in_the_clear}}
    with summing(federation, certificates, tmp_path, behaviour, patience_s=0.3) as sited:
        rounds = sited.rounds(2)
    assert [found.weight for found in rounds] == [5.0, 4.0]
    assert any("A message Sent came, and here only" in text for text in sited.observer.texts)
    assert sited.bridge.sessions.refused["bad_message"] >= 1


def test_agents_whose_certificates_are_of_another_authority_are_sent_away(certificates, tmp_path):
    other = authority(tmp_path / "other", "site-1")
    federation = masked()
    with summing(federation, certificates, tmp_path, {1: {"certificates": other}}, gather=4) as sited:
        (found,) = sited.rounds(1)
    assert found.weight == 4.0
    assert any(
        "agent 1 has no certificate of this federation's authority: it was forged" in t for t in sited.observer.texts
    )


def test_an_update_beyond_the_grid_is_left_out_by_its_own_agent(certificates, tmp_path):
    """As in a simulation, its agent keeps what it has learned."""
    summation = ring_sum(AGENTS, 0.5, minimum=2, protocol="masks")
    federation = federate(VALLEY, mean("uniform"), local_steps=2, summation=summation)
    alone = simulate(federation, FLEET, block=1)
    state, seen = alone.init(SEED), []
    for _ in range(3):
        state, each = alone.round(state)
        seen.append({agent for agent, _ in each.rejected})
    assert any(seen)
    with summing(federation, certificates, tmp_path) as sited:
        rounds = sited.rounds(3)
    assert [{agent for agent, _ in found.rejected} for found in rounds] == seen
    reasons = {reason for found in rounds for _, reason in found.rejected}
    assert reasons == {"its update is not finite, or beyond the grid of the sum"}
    same(params(state), params(sited.state))
    same(replay(sited, federation, 3), params(sited.state))


def test_a_sum_without_messages_is_refused_when_a_coordinator_is_built(certificates, tmp_path):
    federation = federate(VALLEY, mean("uniform"), summation=ring_sum(AGENTS, 8.0))
    with pytest.raises(UnsoundError, match=r"protocol = 'none', which adds numbers .* Use one of 'masks', 'additive'"):
        summing(federation, certificates, tmp_path)


def test_a_transport_without_certificates_is_refused(certificates, tmp_path):
    with pytest.raises(ConfigError, match=r"this transport has none: .* Use gRPC"):
        summing(masked(), None, tmp_path)


HIDDEN = {"name": "ring_sum", "largest": 64.0, "minimum": 2, "protocol": "masks", "phase_s": 20.0}
SUMMED = {
    **TABLES,
    "federation": {"agents": 3, "aggregator": {"name": "mean", "weighting": "uniform"}, "summation": HIDDEN},
}


@pytest.mark.parametrize("phase", PHASES.values())
def test_a_coordinator_that_ends_in_a_sum_gets_no_second_masked_vector_of_the_version(certificates, tmp_path, phase):
    """If masked vectors were asked for, the round is left out; else its sum begins anew. Nothing else is lost."""
    stop, asked = threading.Event(), []

    async def summed(agent, link, message):
        if message.job != 3 or phase_of(message) != phase or len(asked) >= 3:
            return False
        asked.append(agent.number)
        if phase == "masked":  # it has left, and the coordinator ends before it counts
            agent.replies.append(await asyncio.to_thread(agent.reply, message))
        stop.set()
        return True

    world = World(SUMMED, certificates=certificates, folder=tmp_path, summed=summed)
    transport = LocalTransport(credentials=credentials(certificates, "hub"))
    given = {"seat_of": seat_of, "replayable": True, "verbose": 0, "watch": world.watch}
    coordinate(SUMMED, tmp_path / "run", transport, world.address, stop=stop, **given)
    assert len((tmp_path / "run" / EVENTS).read_text().splitlines()) == 2
    result = coordinate(SUMMED, tmp_path / "run", transport, world.address, **given)
    records = [json.loads(line) for line in (result.folder / "records.jsonl").read_text().splitlines()]
    skipped = [record["round"] for record in records if record.get("skipped")]
    assert skipped == ([] if phase == "shares" else [3])
    for agent in world.agents:
        assert all(len(each) == 1 for each in masked_of(agent).values())
        assert len(set(agent.trained)) == len(agent.trained) == 5
    found, expected = bits(result), replayed(SUMMED, tmp_path / "run", 5)
    for name, other in zip(sorted(found), expected, strict=True):
        np.testing.assert_array_equal(found[name], other)
    if not skipped:
        federation = {**SUMMED["federation"], "block": 1, "clock": {}}
        same_bits(fedrl.run({**SUMMED, "federation": federation}, tmp_path / "alone", verbose=0), result)


def test_without_a_deadline_the_patience_with_an_agent_ends_a_phase(certificates, tmp_path):
    federation = masked(phase_s=float("inf"))
    behaviour = {1: at("shares", stay_silent, job=1)}
    with summing(federation, certificates, tmp_path, behaviour, patience_s=0.4) as sited:
        (found,) = sited.rounds(1)
    assert found.weight == 4.0
    ((agent, reason),) = found.rejected
    assert agent == 1
    assert re.fullmatch(r"it dropped out .* 'shares': nothing came in 0\.[4-9] s", reason)
