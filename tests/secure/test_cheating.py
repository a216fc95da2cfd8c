"""Who deviates from the protocol of a secure sum is answered with a sentence, and gains nothing."""

import copy
import itertools
from collections import Counter

import numpy as np
import pytest

from fedrl.core.errors import ConfigError, SecureSumError, TooFewAgentsError
from fedrl.secure import Identity, SumAgent, SumPlan, sum_plan
from fedrl.secure.channel import Channel, agreed
from fedrl.secure.fresh_keys import FreshKeys
from fedrl.secure.identity import new_identities
from fedrl.secure.messages import (
    Advert,
    AdvertList,
    Delivery,
    MaskedValues,
    SealedShares,
    SurvivorList,
    TagList,
)
from fedrl.secure.shares import commitment
from fedrl.secure.steps import Steps
from fedrl.secure.transcript import channel_purpose, committed_seed, set_digest
from tests.support.secure_sums import Halted, halted

SIX = tuple(range(6))
SIZE = 5


def plan(
    context: bytes = b"this sum", *, threshold: int = 4, verified: bool = True, minimum: int | None = None
) -> SumPlan:
    return sum_plan(context, SIX, SIZE, threshold=threshold, verified=verified, minimum=minimum)


def finished(there: Halted) -> np.ndarray:
    while there.coordinator.phase != "opening":
        there = there.finish()
    for agent in there.inbox:
        there.coordinator.receive(agent, there.step(agent))
    return there.coordinator.total()


class TestTheCoordinator:
    def test_that_asks_for_both_secrets_gets_one(self):
        there = halted("opening", plan(verified=False))
        all_but_one, everybody = SurvivorList((0, 1, 2, 3, 4)), SurvivorList(SIX)
        there.agents[0].open(everybody)
        with pytest.raises(SecureSumError, match="asked for the step 'open', and its next step was 'it has ended"):
            there.agents[0].open(all_but_one)

    @pytest.mark.parametrize("phase", ["shares", "masked", "tags", "opening"])
    def test_that_asks_twice_gets_one_answer(self, phase):
        there = halted(phase, plan())
        there.step(0)
        with pytest.raises(SecureSumError, match="asked twice, an agent would give away more than the sum"):
            there.step(0)

    def test_that_asks_for_a_second_sum_with_the_same_context_gets_none(self):
        identities = new_identities(SIX)
        halted("masked", plan(), identities)
        with pytest.raises(SecureSumError, match="asked to take part twice in one sum"):
            SumAgent(identities[0], plan(threshold=5))
        SumAgent(identities[0], plan(b"another attempt"))

    def test_that_shows_different_survivors_is_found_by_the_tags(self):
        there, tags = self.divided()
        with pytest.raises(
            SecureSumError, match=r"tags from agents \[3, 4\] are not under the set .* agent 0 was shown"
        ):
            there.agents[0].open(TagList(tuple((agent, tags[agent][0]) for agent in (1, 2, 3, 4))))

    def test_that_keeps_such_tags_back_has_fewer_than_the_threshold(self):
        there, tags = self.divided()
        with pytest.raises(
            TooFewAgentsError, match=r"3 of the 6 holders .* were shown the same set .* and 4 are needed"
        ):
            there.agents[0].open(TagList(tuple((agent, tags[agent][0]) for agent in (1, 2))))

    def divided(self) -> tuple[Halted, dict[int, dict[int, bytes]]]:
        """Agents 0, 1 and 2 are told that agent 5 has left, and 3 and 4 that it has not; the tags from each to each."""
        there = halted("tags", plan(minimum=4))
        shown = {agent: SurvivorList((0, 1, 2, 3, 4) if agent < 3 else SIX) for agent in (0, 1, 2, 3, 4)}
        return there, {agent: dict(there.agents[agent].agree(each).tags) for agent, each in shown.items()}

    def test_that_shows_the_same_survivors_after_different_boxes_is_found_by_the_tags(self):
        """Agents 3 and 4 are told that agent 5 sent no boxes, the others that its vector did not arrive."""
        there, without = halted("masked", plan()), (0, 1, 2, 3, 4)
        for agent in without:
            shown = there.inbox[agent]
            cut = Delivery(without, tuple(row for row in shown.boxes if row[0] != 5))
            there.agents[agent].mask(cut if agent in (3, 4) else shown, there.values[agent])
        tags = {agent: dict(there.agents[agent].agree(SurvivorList(without)).tags) for agent in without}
        with pytest.raises(SecureSumError, match=r"tags from agents \[3, 4\] are not under the set"):
            there.agents[0].open(TagList(tuple((agent, tags[agent][0]) for agent in (1, 2, 3, 4))))

    @pytest.mark.parametrize("what", ["of the other direction", "of another pair", "of another sum", "cut", "made up"])
    def test_that_puts_other_tags_in_place_of_the_right_ones_gains_none(self, what):
        """Two of five are changed: with itself, an agent has as many as the threshold. With a third one it has not."""
        identities = new_identities(SIX)
        before = halted("opening", plan(b"the attempt before"), identities)
        there = halted("tags", plan(), identities)
        sent = {agent: dict(there.step(agent).tags) for agent in SIX}
        right = {agent: sent[agent][0] for agent in SIX[1:]}
        other = {
            "of the other direction": sent[0],  # what agent 0 has sent, back to itself
            "of another pair": {agent: sent[agent][(agent + 1) % 5 + 1 - (agent == 5)] for agent in SIX[1:]},
            "of another sum": dict(before.inbox[0].tags),
            "cut": {agent: tag[:-1] for agent, tag in right.items()},
            "made up": {agent: bytes([tag[0] ^ 1]) + tag[1:] for agent, tag in right.items()},
        }[what]
        assert not {agent for agent in right if other[agent] == right[agent]}

        def shown(changed: tuple[int, ...]) -> TagList:
            return TagList(tuple((agent, (other if agent in changed else right)[agent]) for agent in SIX[1:]))

        machine = there.agents[0]
        again = copy.copy(machine)
        again._step = Steps(0, "open", again._forget).take
        with pytest.raises(SecureSumError, match=r"tags from agents \[2, 3, 5\] .* 3 holders .* same set, 4 must be"):
            again.open(shown((2, 3, 5)))
        assert len(machine.open(shown((2, 3))).shares) == 6
        assert "The tags from agents [2, 3] are not under the set" in machine.faults[0]

    @pytest.mark.parametrize("rows", [(1, 1, 2, 3, 4), (1, 2, 3, 4, 9), (0, 1, 2, 3, 4)])
    def test_that_counts_a_tag_twice_or_of_a_stranger_is_found(self, rows):
        there = halted("opening", plan())
        tags = dict(there.inbox[0].tags)
        with pytest.raises(SecureSumError, match="of which one is no neighbour in the sum, or comes twice"):
            there.agents[0].open(TagList(tuple((agent, tags.get(agent, bytes(16))) for agent in rows)))

    @pytest.mark.parametrize("verified", [True, False])
    def test_that_shows_two_sets_never_has_both_secrets_of_an_agent(self, verified):
        """However it divides the agents: agent 5 has left for some of them, and for the others it has not."""
        for told_all in itertools.product([False, True], repeat=5):
            there = halted("tags" if verified else "opening", plan(minimum=4, verified=verified))
            of_five = Counter(kind for kind in _shares_of_five(there, told_all) if kind is not None)
            assert min(of_five["seed"], of_five["mask key"]) < there.coordinator.plan.threshold
            assert verified or sum(of_five.values()) == 5

    def test_may_have_both_with_a_threshold_that_a_verified_plan_does_not_take(self):
        with pytest.raises(ConfigError, match="would have both secrets of an agent"):
            plan(threshold=3)
        there = halted("opening", plan(threshold=3, verified=False))
        of_five = Counter(_shares_of_five(there, (True, True, False, False, False)))
        assert of_five == {"seed": 2, "mask key": 3}  # and the share of its own seed that agent 5 gives

    @pytest.mark.parametrize("others", [b"the sum before", b""])
    def test_that_replays_an_advert_of_another_sum_is_found(self, others):
        identities = new_identities(SIX)
        before = halted("shares", plan(others), identities).inbox[0]
        there = halted("shares", plan(), identities)
        present, adverts = there.inbox[0]
        with pytest.raises(SecureSumError, match="box from agent 1 to agent 0 does not open"):
            masked_by_agent_0(there, AdvertList(present, (before.adverts[0], *adverts[1:])))

    @pytest.mark.parametrize("field", ["channel_key", "mask_key", "seed_commitment"])
    def test_that_forges_an_advert_is_found(self, field):
        there = halted("shares", plan())
        present, adverts = there.inbox[0]
        forged = adverts[0]._replace(**{field: getattr(adverts[1], field)})
        with pytest.raises(SecureSumError, match="box from agent 1 to agent 0 does not open"):
            masked_by_agent_0(there, AdvertList(present, (forged, *adverts[1:])))

    def test_that_puts_all_keys_of_an_agent_in_place_of_its_own_can_not_make_its_box(self):
        """It knows the fresh keys of the channel, and lacks the root that follows from the certified keys."""
        there, own = halted("shares", plan()), FreshKeys(1)
        present, adverts = there.inbox[0]
        sealed = there.step(0, AdvertList(present, (own.public, *adverts[1:])))
        fresh = agreed(own.take()[0], there.agents[0]._keys.channel_key, "key")
        channel = Channel(fresh, channel_purpose(plan(), own.public, there.agents[0]._keys), False)
        bound = set_digest(plan().digest, SIX)
        assert channel.open(dict(sealed.boxes)[1], bound) is None
        boxes = {other: dict(there.step(other).boxes)[0] for other in SIX[2:]} | {1: channel.seal(bytes(64), bound)}
        with pytest.raises(SecureSumError, match="box from agent 1 to agent 0 does not open"):
            there.agents[0].mask(Delivery(SIX, tuple(sorted(boxes.items()))), there.values[0])

    def test_that_shows_the_advert_of_one_agent_as_that_of_another_is_found(self):
        there = halted("shares", plan())
        present, adverts = there.inbox[0]
        with pytest.raises(SecureSumError, match="box from agent 1 to agent 0 does not open"):
            masked_by_agent_0(there, AdvertList(present, (adverts[1]._replace(agent=1), *adverts[1:])))

    def test_that_withholds_an_advert_is_found(self):
        there = halted("shares", plan())
        present, adverts = there.inbox[0]
        with pytest.raises(SecureSumError, match="adverts of 4 agents, and 5 of its neighbours are there"):
            there.agents[0].share(AdvertList(present, adverts[1:]))

    def test_that_shows_an_agent_another_plan_has_no_boxes_for_it_or_from_it(self):
        identities = new_identities(SIX)
        there = halted("shares", plan(), identities)
        misled = SumAgent(new_identities_of(identities, 0), plan(threshold=5))
        own = misled.advert().keys
        sealed = misled.share(there.inbox[0])
        for agent in SIX[1:]:
            present, adverts = there.inbox[agent]
            boxes = dict(there.step(agent, AdvertList(present, (own, *adverts[1:]))).boxes)
            assert there.agents[agent]._channels[0].open(dict(sealed.boxes)[agent], there.agents[agent]._digest) is None
            assert misled._channels[agent].open(boxes[0], misled._digest) is None

    @pytest.mark.parametrize("box", ["changed", "of another sender", "cut off"])
    def test_that_substitutes_a_share_is_found(self, box):
        there = halted("masked", plan())
        present, boxes = there.inbox[0]
        content = {
            "changed": bytes([boxes[0][1][0] ^ 1]) + boxes[0][1][1:],
            "of another sender": boxes[1][1],
            "cut off": boxes[0][1][:-1],
        }[box]
        with pytest.raises(SecureSumError, match="box from agent 1 to agent 0 does not open: it was replaced"):
            there.agents[0].mask(Delivery(present, ((1, content), *boxes[1:])), there.values[0])

    def test_that_shows_different_lists_of_agents_is_found_by_the_boxes(self):
        there = halted("shares", plan(threshold=4))
        fewer = {
            agent: AdvertList(SIX[:5], *(tuple(row for row in rows if row[0] != 5) for rows in there.inbox[agent][1:]))
            for agent in (0, 1)
        }
        sealed = {agent: there.step(agent, fewer.get(agent)) for agent in SIX}
        boxes = tuple((other, dict(sealed[other].boxes)[0]) for other in (1, 2, 3, 4))
        with pytest.raises(SecureSumError, match=r"from agent 2 .* both were shown different plans, lists of agents"):
            there.agents[0].mask(Delivery(SIX[:5], boxes), there.values[0])

    @pytest.mark.parametrize(
        ("present", "kept"), [(SIX, 4), ((0, 1, 2, 3, 4), 5), ((1, 2, 3, 4, 5), 5), ((0, 1, 2, 3, 4, 9), 5)]
    )
    def test_that_withholds_boxes_or_shows_impossible_sets_is_found(self, present, kept):
        there = halted("masked", plan())
        with pytest.raises(SecureSumError, match=r"are missing, twice, or of agents|shows an impossible set"):
            there.agents[0].mask(Delivery(present, there.inbox[0].boxes[:kept]), there.values[0])

    def test_that_opens_the_sum_of_too_few_is_refused(self):
        there = halted("tags", plan(minimum=5))
        with pytest.raises(TooFewAgentsError, match="4 agents sent masked vectors, and the plan asks for 5"):
            there.agents[0].agree(SurvivorList((0, 1, 2, 3)))

    def test_an_agent_that_was_shown_something_wrong_takes_no_further_part(self):
        there = halted("masked", plan())
        right = there.inbox[0]
        with pytest.raises(SecureSumError, match="missing"):
            there.agents[0].mask(Delivery(right.present, right.boxes[1:]), there.values[0])
        with pytest.raises(SecureSumError, match="its next step was 'it has ended its part"):
            there.agents[0].mask(right, there.values[0])

    def test_a_verified_sum_is_not_opened_without_tags(self):
        there = halted("opening", plan())
        with pytest.raises(SecureSumError, match="A verified sum needs the tags"):
            there.agents[0].open(SurvivorList(SIX))


def masked_by_agent_0(there: Halted, shown: AdvertList) -> MaskedValues:
    """What agent 0 sends after it was shown these adverts, and the others the true ones."""
    sealed = {agent: there.step(agent, shown if agent == 0 else None) for agent in SIX}
    boxes = tuple((other, dict(sealed[other].boxes)[0]) for other in SIX[1:])
    return there.agents[0].mask(Delivery(SIX, boxes), there.values[0])


def new_identities_of(identities: dict[int, Identity], agent: int) -> Identity:
    """The same agent after a restart."""
    return Identity(agent, identities[agent]._key, identities[agent].directory)


def _shares_of_five(there: Halted, told_all: tuple[bool, ...]) -> list[str | None]:
    """Which share of agent 5's secrets each other agent gives, if some are told that it is in the sum."""
    shown = {agent: SurvivorList(SIX if told else SIX[:5]) for agent, told in enumerate(told_all)}
    if there.coordinator.plan.verified:
        tags = {agent: dict(there.agents[agent].agree(each).tags) for agent, each in shown.items()}
    held = {agent: there.agents[agent]._held[5] for agent in shown}
    kinds: list[str | None] = []
    for agent, each in shown.items():
        same = tuple(other for other in shown if shown[other] == each and other != agent)
        try:
            if there.coordinator.plan.verified:
                opened = there.agents[agent].open(TagList(tuple((other, tags[other][agent]) for other in same)))
            else:
                opened = there.agents[agent].open(each)
        except TooFewAgentsError:
            kinds.append(None)
            continue
        kinds.append("seed" if dict(opened.shares)[5] == held[agent][0] else "mask key")
    return kinds


class TestAnAgent:
    def test_that_gives_a_wrong_share_is_left_out_and_named(self):
        there = halted("opening", plan())
        for agent in SIX:
            opened = there.step(agent)
            if agent == 2:
                opened = opened._replace(shares=((0, bytes(32)), *opened.shares[1:]))
            there.coordinator.receive(agent, opened)
        np.testing.assert_array_equal(there.coordinator.total(), there.values.sum(axis=0, dtype=np.uint32))
        assert len(there.coordinator.faults) == 1
        assert "The share of agent 0's seed that agent 2 holds is wrong and was left out" in there.coordinator.faults[0]

    def test_too_many_wrong_shares_open_nothing(self):
        there = halted("opening", plan())
        for agent in SIX:
            opened = there.step(agent)
            if agent > 2:
                opened = opened._replace(shares=((0, bytes(32)), *opened.shares[1:]))
            there.coordinator.receive(agent, opened)
        with pytest.raises(TooFewAgentsError, match="3 shares of a secret came, and 4 are needed"):
            there.coordinator.total()

    @pytest.mark.parametrize("leaves", [(), (1,)])
    def test_that_made_up_its_shares_is_named_and_no_wrong_sum_is_given(self, leaves, monkeypatch):
        there = halted("shares", plan())
        numbers = itertools.count(1)
        with (
            monkeypatch.context() as patch
        ):  # agent 1 deals points of no polynomial of that degree, and commits to them
            patch.setattr(
                "fedrl.secure.agent.split",
                lambda secret, threshold, count: [(next(numbers) ** 9).to_bytes(32, "big") for _ in range(count)],
            )
            made_up = there.step(1)
        for agent in SIX:
            there.coordinator.receive(agent, made_up if agent == 1 else there.step(agent))
        there = there._replace(inbox=there.coordinator.close())
        for agent in set(SIX) - set(leaves):
            there.coordinator.receive(agent, there.step(agent))
        with pytest.raises(SecureSumError, match="The shares of agent 1 don't give the secret to which it committed"):
            finished(there._replace(inbox=there.coordinator.close()))

    @pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
    def test_that_sends_a_vector_of_another_length_is_rejected_and_may_send_the_right_one(self, size):
        there = halted("masked", plan())
        with pytest.raises(SecureSumError, match=f"vector of {size} entries, and the sum has 5"):
            there.coordinator.receive(2, MaskedValues(2, np.zeros(size, np.uint32)))
        np.testing.assert_array_equal(finished(there), there.values.sum(axis=0, dtype=np.uint32))

    @pytest.mark.parametrize(("liars", "opened"), [((2, 4), True), ((2, 3, 4), False)])
    def test_that_sends_wrong_tags_counts_as_absent_for_its_neighbours(self, liars, opened):
        there = halted("tags", plan())
        for agent in SIX:
            sent = there.step(agent)
            wrong = tuple((other, bytes(len(tag))) for other, tag in sent.tags)
            there.coordinator.receive(agent, sent._replace(tags=wrong) if agent in liars else sent)
        there = there._replace(inbox=there.coordinator.close())
        if opened:
            np.testing.assert_array_equal(finished(there), there.values.sum(axis=0, dtype=np.uint32))
            assert "tags from agents [2, 4]" in there.agents[0].faults[0]
        else:
            with pytest.raises(SecureSumError, match=r"tags from agents \[2, 3, 4\]"):
                there.step(0)

    @pytest.mark.parametrize("change", [lambda tags: tags[1:], lambda tags: (*tags[:-1], (4, bytes(16)))])
    def test_that_withholds_tags_is_rejected(self, change):
        there = halted("tags", plan())
        sent = there.step(0)
        with pytest.raises(SecureSumError, match=r"Agent 0 sent . tags, which are not one of 16 bytes"):
            there.coordinator.receive(0, sent._replace(tags=change(sent.tags)))

    @pytest.mark.parametrize("phase", ["adverts", "shares", "masked", "tags", "opening"])
    def test_that_sends_twice_counts_once(self, phase):
        there = halted(phase, plan())
        first = there.step(2)
        there.coordinator.receive(2, first)
        with pytest.raises(SecureSumError, match="Agent 2 sent a second"):
            there.coordinator.receive(2, first)
        rest = [agent for agent in SIX if agent != 2]
        for agent in rest:
            there.coordinator.receive(agent, there.step(agent))
        if phase != "opening":
            total = finished(there._replace(inbox=there.coordinator.close()))
        else:
            total = there.coordinator.total()
        np.testing.assert_array_equal(total, there.values.sum(axis=0, dtype=np.uint32))

    def test_that_speaks_for_another_one_is_rejected(self):
        there = halted("masked", plan())
        with pytest.raises(SecureSumError, match="Agent 3 sent a MaskedValues in the name of another agent"):
            there.coordinator.receive(3, there.step(2))

    def test_that_left_comes_too_late(self):
        there = halted("shares", plan())
        missed = there.step(0)
        for agent in SIX[1:]:
            there.coordinator.receive(agent, there.step(agent))
        there.coordinator.close()
        with pytest.raises(SecureSumError, match="too late or too early"):
            there.coordinator.receive(0, missed)
        with pytest.raises(SecureSumError, match="is not in the sum any more"):
            there.coordinator.receive(0, MaskedValues(0, np.zeros(SIZE, np.uint32)))

    def test_whose_key_is_not_the_certified_one_has_boxes_that_open_for_nobody(self):
        identities = new_identities(SIX)
        other = new_identities(SIX)[5]._key
        identities[5] = Identity(5, other, identities[0].directory)
        there = halted("masked", plan(), identities)
        for agent in SIX[:5]:
            with pytest.raises(SecureSumError, match=f"box from agent 5 to agent {agent} does not open"):
                there.step(agent)

    @pytest.mark.parametrize("what", ["boxes", "commitments"])
    def test_that_withholds_shares_is_rejected(self, what):
        there = halted("shares", plan())
        sealed: SealedShares = there.step(0)
        with pytest.raises(SecureSumError, match=f"Agent 0 sent . {what}, which are not one of"):
            there.coordinator.receive(0, sealed._replace(**{what: getattr(sealed, what)[1:]}))

    def test_with_a_key_of_small_order_is_found_by_its_neighbour(self):
        identities = new_identities(SIX)
        there = halted("shares", plan(), identities)
        present, adverts = there.inbox[0]
        weak = adverts[0]._replace(channel_key=bytes(32))
        with pytest.raises(SecureSumError, match="channel key of agent 1 is no X25519 key"):
            there.agents[0].share(AdvertList(present, (weak, *adverts[1:])))

    def test_whose_certified_key_is_of_small_order_is_found_by_its_neighbour(self):
        identities = new_identities(SIX)
        identities[0].directory.add(1, bytes(32))
        there = halted("shares", plan(), identities)
        with pytest.raises(SecureSumError, match="The key of agent 1 is no X25519 key"):
            there.step(0)

    def test_its_own_vector_of_a_wrong_length_or_type_ends_nothing(self):
        there = halted("masked", plan())
        for wrong in (np.zeros(SIZE + 1, np.uint32), np.zeros(SIZE, np.float32)):
            with pytest.raises(ValueError, match=r"Put them on a grid first|the sum was planned for"):
                there.agents[0].mask(there.inbox[0], wrong)
        there.step(0)


def test_an_agent_that_is_not_invited_takes_no_part():
    with pytest.raises(SecureSumError, match="to which its plan does not invite it"):
        SumAgent(new_identities((7,))[7], plan())


@pytest.mark.parametrize(
    "change",
    [
        {"context": b"another"},
        {"members": (0, 1, 2, 3, 4, 6)},
        {"size": 6},
        {"degree": 4},
        {"threshold": 5},
        {"minimum": 5},
        {"verified": False},
        {"seed": b"another"},
    ],
)
def test_a_plan_with_any_difference_is_another_one(change):
    settings = {"context": b"", "members": SIX, "size": 5, "degree": 5, "threshold": 4, "minimum": 4}
    assert SumPlan(**settings).digest == SumPlan(**settings).digest != SumPlan(**(settings | change)).digest


@pytest.mark.parametrize(
    "change",
    [
        {"members": (1, 0)},
        {"members": (0,)},
        {"degree": 3},
        {"degree": 6},
        {"threshold": 1},
        {"threshold": 7},
        {"minimum": 1},
        {"size": 0},
    ],
)
def test_a_plan_that_hides_nothing_or_can_never_complete_is_rejected(change):
    settings = {"context": b"", "members": SIX, "size": 5, "degree": 5, "threshold": 4, "minimum": 4}
    SumPlan(**settings)
    with pytest.raises(ConfigError, match=r"Use |sum of one agent"):
        SumPlan(**(settings | change))


def test_agents_that_collude_over_a_key_of_small_order_end_the_sum_with_a_sentence(monkeypatch):
    identities = new_identities(SIX)
    there = halted("adverts", plan(), identities)
    advert = SumAgent.advert

    def small(agent):
        made = advert(agent)
        if agent.agent == 4:
            committed = commitment(agent._seed, committed_seed(4, made.keys.channel_key, bytes(32)))
            agent._keys = made.keys._replace(mask_key=bytes(32), seed_commitment=committed)
            return Advert(agent._keys)
        return made

    monkeypatch.setattr(SumAgent, "advert", small)
    monkeypatch.setattr(SumAgent, "_masks", lambda agent, neighbours: [])  # honest agents would take no part
    for phase in ("adverts", "shares", "masked", "tags", "opening"):
        for agent in [k for k in SIX if k != 3 or phase in ("adverts", "shares")]:
            there.coordinator.receive(agent, there.step(agent))
        if phase != "opening":
            there.inbox.clear()
            there.inbox.update(there.coordinator.close())
    with pytest.raises(SecureSumError, match="mask key of agent 4 is no X25519 key"):
        there.coordinator.total()
