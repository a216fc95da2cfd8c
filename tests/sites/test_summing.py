"""An agent in secure sums, and a coordinator that lies: the answer is a sentence, never a second masked vector."""

import hashlib
import re
import struct

import numpy as np
import pytest

from fedrl.core.errors import SecureSumError
from fedrl.secure.channel import Channel, agreed
from fedrl.secure.ckks import new_encryption_key
from fedrl.secure.credential import KnownSigners, SumSigner
from fedrl.secure.fresh_keys import FreshKeys, advert_of
from fedrl.secure.invitation import AgentJob, Terms, invitation
from fedrl.secure.messages import Advert, AdvertList, Delivery, MaskedValues, OpenedShares, decoded, encoded
from fedrl.secure.orders import NO_SUM, ORDER, JobOrder, check_orders, packed_orders
from fedrl.secure.protocols import PROTOCOLS
from fedrl.secure.transcript import channel_purpose, set_digest
from fedrl.sites.memory import Kept, RunMemory
from fedrl.sites.summing import SiteSums
from fedrl.wire.secure_sum import Declined, SumReply, SumRequest
from tests.support.certified import authority, credentials

RUN, FEDERATION, OTHER = "ab" * 16, "12" * 32, "34" * 32
AGENTS, ENTRIES = 5, 40
WEIGHTS = (10.0, 20.0, 30.0)
TERMS = Terms(RUN, AGENTS, FEDERATION, ENTRIES, 3, True, WEIGHTS)
STEPS = (1, 2, 3, 2, 2)
HEARD = bytes(range(32))
VALUES = np.random.default_rng(5).integers(-(2**20), 2**20, (AGENTS, ENTRIES), dtype=np.int32)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    place = tmp_path_factory.mktemp("certificates")
    names = [f"site-{k}" for k in range(AGENTS)]
    return authority(place / "own", *names), authority(place / "other", *names)


def orders_of(members=range(AGENTS), steps=STEPS, shares=None):
    """What a coordinator orders that keeps to the rule, or with shares of its own."""
    weights = [WEIGHTS[n - 1] for n in steps]
    shares = [w / sum(weights) for w in weights] if shares is None else shares
    return {k: JobOrder(steps[k], float(np.float32(shares[k]))) for k in members}


class Site:
    """An agent whose job is done; `restarted` is a new process in the same folder."""

    def __init__(self, folder, certificates, number, terms=TERMS, shared=None):
        self.given, self.number = (folder, certificates, number, terms, shared), number
        mine = credentials(certificates, f"site-{number}")
        memory = RunMemory(folder / f"site-{number}", RUN, FEDERATION)
        self.sums = SiteSums(number, terms, SumSigner(mine, shared), mine.ca, memory)
        self.kept = self.done(1, 7)
        self.replies = []

    def done(self, job, version):
        order = tuple(orders_of()[self.number][:2])
        self.kept = Kept((), job, version, vector=VALUES[self.number].tobytes(), broadcast=HEARD, order=order)
        return self.kept

    def restarted(self):
        return Site(*self.given)

    def reply(self, asked):
        self.replies.append(self.sums.reply(asked, self.kept))
        return self.replies[-1]


class Hub:
    """A coordinator that knows all sites."""

    def __init__(self, sites, certificates, terms=TERMS):
        self.sites, self.terms, self.protocol = sites, terms, PROTOCOLS[terms.protocol]
        self.known = KnownSigners(credentials(certificates, "hub").ca, RUN)
        for site in sites:
            self.known.add(site.number, site.sums.credential, f"site-{site.number}")

    def invitation(
        self, agent, members=tuple(range(AGENTS)), attempt=0, job=1, version=7, broadcast=None, orders=None, **lies
    ):
        orders = {k: orders_of().get(k, JobOrder(1, 0.1)) for k in members} if orders is None else orders
        told = AgentJob(agent, job, version, HEARD.hex() if broadcast is None else broadcast, JobOrder(0, 0.0))
        plan = self.terms.plan(version, told.broadcast, attempt, orders)
        near = {k: self.known.credential(k) for k in {agent, *plan.neighbours.get(agent, ())} & {*members}}
        return invitation(plan, self.terms, told, attempt, near, orders)._replace(**lies)

    def begin(self, members=tuple(range(AGENTS)), attempt=0, job=1, version=7):
        """Invite members, and take their keys."""
        self.plan = self.terms.plan(version, HEARD.hex(), attempt, orders_of(members))
        self.machine, self.job, self.attempt = self.protocol.coordinator(self.plan), job, attempt
        return {k: self.invitation(k, members, attempt, job, version) for k in members}

    def phase(self, asked):
        """Ask everybody, and close the phase; what each is shown next."""
        for agent, message in asked.items():
            reply = self.sites[agent].reply(message)
            if isinstance(reply, SumReply):
                self.machine.receive(agent, self.protocol.decoded(reply.content, self.plan))
        if self.machine.complete:
            return None
        shown, encoded = self.machine.close(), self.protocol.encoded
        return {k: SumRequest(self.job, self.attempt, encoded(m, self.plan)) for k, m in shown.items()}


@pytest.fixture
def hub(tmp_path, certificates):
    return Hub([Site(tmp_path, certificates[0], k) for k in range(AGENTS)], certificates[0])


def masked(hub, **given):
    """What each agent is shown before it would send its masked vector."""
    return hub.phase(hub.phase(hub.begin(**given)))


def is_masked(reply, hub):
    return isinstance(reply, SumReply) and isinstance(decoded(reply.content, hub.plan), MaskedValues)


def test_a_sum_is_that_of_the_vectors_and_each_message_comes_again_as_the_same_bytes(hub):
    asked = hub.begin()
    while asked is not None:
        first = {k: hub.sites[k].reply(message) for k, message in asked.items()}
        asked = hub.phase(asked)
        assert {k: site.replies[-1] for k, site in enumerate(hub.sites)} == first
    np.testing.assert_array_equal(hub.machine.total().view(np.int32), VALUES.sum(axis=0))


def lies():
    """What a coordinator may say that is not so, and a part of the sentence with which an agent answers."""
    own = "at this agent"
    yield "minimum", {"minimum": 2}, f"The minimum of agents of the sum is 2 in the invitation and 3 or more {own}"
    yield "version", {"version": 8}, f"version of the sum is 8 in the invitation and 7 {own}"
    yield "job", {"job": 2}, f"job of the sum is 2 in the invitation and 1 {own}"
    yield "federation", {"federation": OTHER}, f"federation of the sum is {OTHER} in the invitation and {FEDERATION}"
    yield "broadcast", {"broadcast": OTHER}, f"broadcast of the sum is {OTHER} in the invitation and {HEARD.hex()}"
    yield "entries", {"entries": 41}, f"number of entries of the sum is 41 in the invitation and 40 {own}"
    yield "verified", {"verified": False}, r"comparison of survivors \(verified\) of the sum is False"
    yield "threshold", {"threshold": 2}, f"threshold of the sum is 2 in the invitation and 3 {own}"
    yield "degree", {"degree": 2}, f"degree of the sum is 2 in the invitation and 4 {own}"
    yield "cut off", {"content": b"\5\0\0\0"}, "was cut off"
    members = struct.pack("<6I", 5, *range(5)) + packed_orders(orders_of())
    one = struct.pack("<IH", 1, 1) + b"x"
    yield "members out of order", {"content": struct.pack("<6I", 5, 0, 1, 2, 4, 3)}, "twice, out of order, or beyond"
    yield "a credential twice", {"content": members + one + one}, "a credential of agent 1 twice"
    yield "a credential cut off", {"content": members + one[:-1]}, "a credential of agent 1 twice, of nobody, or cut"
    yield "no members", {"content": b"\0\0\0\0"}, "An invitation names 0 agents"


@pytest.mark.parametrize(("lie", "sentence"), [(lie, sentence) for _, lie, sentence in lies()])
def test_an_invitation_that_differs_from_what_the_agent_knows_is_declined(hub, lie, sentence):
    reply = hub.sites[0].reply(hub.invitation(0, **lie))
    assert isinstance(reply, Declined)
    assert re.search(sentence, reply.reason), reply.reason
    assert isinstance(hub.sites[0].reply(hub.invitation(0)), SumReply)  # a true one is still accepted


def test_agents_that_were_sent_other_parameters_do_not_add(hub):
    """A coordinator can invite each with the digest of what it was sent; then their plans differ."""
    hub.sites[4].kept = hub.sites[4].kept._replace(broadcast=bytes(32))
    asked, other = hub.begin(), bytes(32).hex()
    adverts = [decoded(hub.sites[k].reply(asked[k]).content, hub.plan) for k in range(4)]
    reply = hub.sites[4].reply(hub.invitation(4, broadcast=other))
    adverts.append(decoded(reply.content, TERMS.plan(7, other, 0, orders_of())))
    boxes_of = {}
    for k in range(AGENTS):
        plan = hub.plan if k < 4 else TERMS.plan(7, other, 0, orders_of())
        others = tuple(advert.keys for advert in adverts if advert.agent != k)
        reply = hub.sites[k].reply(SumRequest(1, 0, encoded(AdvertList(tuple(range(AGENTS)), others), plan)))
        boxes_of[k] = dict(decoded(reply.content, plan).boxes)
    delivery = Delivery(tuple(range(AGENTS)), tuple((k, boxes_of[k][0]) for k in range(1, AGENTS)))
    reply = hub.sites[0].reply(SumRequest(1, 0, encoded(delivery, hub.plan)))
    assert isinstance(reply, Declined)
    assert "The box from agent 4 to agent 0 does not open: it was replaced, or both were shown" in reply.reason


ONE = [0.0, 0.0, 0.0, 1.0, 0.0]
"""The attack: with SCAFFOLD, the sum of statistics is that of agent 3, as the others multiply theirs by zero."""


def ordered(hub, orders):
    """Agents that have trained by these orders."""
    for site in hub.sites:
        site.kept = site.kept._replace(order=tuple(orders[site.number][:2]))


def test_a_coordinator_that_orders_a_share_for_one_agent_alone_is_declined_by_all(hub):
    attack = orders_of(shares=ONE)
    ordered(hub, attack)
    for site in hub.sites:
        reply = site.reply(hub.invitation(site.number, orders=attack))
        assert isinstance(reply, Declined)
        assert re.search(r"Agent \d was ordered \d local steps with the share [01], and by the rule", reply.reason)


def test_a_coordinator_that_hides_this_behind_regular_orders_is_declined_by_those_who_know_their_own(hub):
    ordered(hub, orders_of(shares=ONE))
    replies = [site.reply(hub.invitation(site.number)) for site in hub.sites]
    assert all(isinstance(reply, Declined) for reply in replies)
    assert "The order (local steps, share, last sum) of the sum is (1, 0.1" in replies[0].reason
    assert "(1, 0.0, 4294967295, " in replies[0].reason


def test_a_coordinator_that_shows_each_agent_other_orders_has_no_adverts_for_them(hub):
    """Agent 0 takes one step, as all but agent 3 are said to; the others are shown another list."""
    asked, own = hub.begin(), orders_of(steps=(1, 1, 1, 2, 1))
    hub.sites[0].kept = hub.sites[0].kept._replace(order=tuple(own[0][:2]))
    replies = {k: hub.sites[k].reply(asked[k]) for k in (1, 2, 3, 4)}
    other = hub.sites[0].reply(hub.invitation(0, orders=own))
    assert isinstance(other, SumReply)
    adverts = [decoded(reply.content, hub.plan) for reply in replies.values()]
    plan, boxes = TERMS.plan(7, HEARD.hex(), 0, own), []
    for k in (1, 2, 3, 4):
        shown = tuple(advert.keys for advert in adverts if advert.agent != k)
        shown = tuple(sorted((*shown, decoded(other.content, plan).keys)))
        reply = hub.sites[k].reply(SumRequest(1, 0, encoded(AdvertList(tuple(range(AGENTS)), shown), hub.plan)))
        boxes.append((k, dict(decoded(reply.content, hub.plan).boxes)[0]))
    for shown in (
        AdvertList(tuple(range(AGENTS)), tuple(advert.keys for advert in adverts)),
        Delivery(tuple(range(AGENTS)), tuple(boxes)),
    ):
        reply = hub.sites[0].reply(SumRequest(1, 0, encoded(shown, plan)))
    assert isinstance(reply, Declined)
    assert "The box from agent 1 to agent 0 does not open: it was replaced, or both were shown" in reply.reason


@pytest.mark.parametrize(
    ("orders", "agents"),
    [
        (orders_of(), AGENTS),
        (orders_of((0, 2, 4)), AGENTS),
        (orders_of(steps=(1, 1, 1, 1, 1)), AGENTS),
        ({k: JobOrder(2, float(np.float32(1 / 30_000))) for k in range(20)}, 30_000),
    ],
)
def test_orders_by_the_rule_are_accepted(orders, agents):
    check_orders(orders, agents, WEIGHTS)


@pytest.mark.parametrize(
    ("orders", "agents", "sentence"),
    [
        (orders_of(shares=[*[1e-9] * 4, 1.0]), AGENTS, "with the share 1e-09, and by the rule"),
        (orders_of(shares=[0.2] * 5), AGENTS, "with the share 0.2, and by the rule"),  # as if all took as many steps
        (orders_of(shares=[2 * x.share for x in orders_of().values()]), AGENTS, "among 5 agents is 0.1 beside"),
        (orders_of(shares=[x.share / 2 for x in orders_of().values()]), AGENTS, "and by the rule"),
        (orders_of(shares=[1.0001 * x.share for x in orders_of().values()]), AGENTS, "and by the rule"),
        (orders_of((0, 2), shares=[0.1 / 2, 0, 0.3 / 2, 0, 0]), AGENTS, "and by the rule"),
        (orders_of(shares=[float("nan")] * 5), AGENTS, "with the share nan, and by the rule"),
        (orders_of() | {4: JobOrder(0, 0.1)}, AGENTS, "ordered 0 local steps, and this federation takes 1 to 3"),
        (orders_of() | {4: JobOrder(4, 0.1)}, AGENTS, "ordered 4 local steps, and this federation takes 1 to 3"),
    ],
)
def test_orders_against_the_rule_are_refused(orders, agents, sentence):
    with pytest.raises(SecureSumError, match=sentence):
        check_orders(orders, agents, WEIGHTS)


@pytest.mark.parametrize("members", [(0, 1), (1, 2, 3), (0, 1, 2, 3, 9)])
def test_a_sum_that_would_not_hide_the_agent_is_declined(hub, members):
    lying = Hub(hub.sites, hub.sites[0].given[1], TERMS._replace(minimum=2, agents=10))
    lying.known._seen[9] = b"x"
    reply = hub.sites[0].reply(lying.invitation(0, members)._replace(minimum=3))
    assert isinstance(reply, Declined)
    assert re.search("would not hide the vector|beyond the 5 that there are", reply.reason)


def test_a_credential_of_another_authority_is_declined(hub, certificates, tmp_path):
    forged = SumSigner(credentials(certificates[1], "site-1")).credential(RUN, 1)
    hub.known._seen[1] = forged
    reply = hub.sites[0].reply(hub.invitation(0))
    assert isinstance(reply, Declined)
    assert "agent 1 has no certificate of this federation's authority: it was forged" in reply.reason


def test_a_missing_credential_is_declined(hub):
    whole = hub.invitation(0)
    cut = whole._replace(content=whole.content[: 4 + (4 + ORDER.size) * AGENTS])
    assert "without a credential of agent 0" in hub.sites[0].reply(cut).reason


def test_after_a_restart_no_second_masked_vector_of_the_version_leaves(hub):
    asked = masked(hub)
    assert is_masked(hub.sites[0].reply(asked[0]), hub)
    again = hub.sites[0] = hub.sites[0].restarted()
    reply = again.reply(asked[0])
    assert isinstance(reply, Declined)
    assert "has left it, or has begun anew since" in reply.reason
    for attempt in (0, 1):  # the same sum, and another one of the same job
        reply = again.reply(hub.invitation(0, attempt=attempt))
        assert isinstance(reply, Declined)
        assert "has sent a masked vector of version 7 for job 1, and sends no second one" in reply.reason
    for version in (7, 6):  # another job of the same version, or of an older one
        again.done(2, version)
        assert "sends no second one" in again.reply(hub.invitation(0, job=2, version=version)).reason
    again.done(3, 8)
    hub.known.add(0, again.sums.credential)
    assert isinstance(again.reply(hub.invitation(0, job=3, version=8)), SumReply)


@pytest.mark.parametrize("other", [{"members": (0, 1, 2, 3)}, {"attempt": 1}, {}])
def test_a_second_plan_for_a_version_gets_no_second_masked_vector(hub, other):
    """A smaller set of members would give the vector of the agent that is left out."""
    asked = masked(hub)
    for k, message in asked.items():
        assert is_masked(hub.sites[k].reply(message), hub)
    for k in other.get("members", range(AGENTS)):
        reply = hub.sites[k].reply(hub.invitation(k, **other))
        assert isinstance(reply, Declined), other
    assert all(sum(is_masked(reply, hub) for reply in site.replies) == 1 for site in hub.sites)


def test_before_a_masked_vector_has_left_another_attempt_is_accepted_and_its_masks_are_new(hub):
    first = masked(hub)
    keys = [site.replies[0].content for site in hub.sites]
    asked = masked(hub, members=(0, 1, 2, 3), attempt=1)
    for k in range(4):
        for key in (slice(17, 49), slice(49, 81)):  # those of boxes and of masks
            assert hub.sites[k].replies[-2].content[key] != keys[k][key]
        reply = hub.sites[k].reply(asked[k])
        hub.machine.receive(k, decoded(reply.content, hub.plan))
    assert isinstance(hub.sites[0].reply(first[0]), Declined)
    shown = hub.machine.close()
    hub.phase(hub.phase({k: SumRequest(1, 1, encoded(m, hub.plan)) for k, m in shown.items() if k}))
    np.testing.assert_array_equal(hub.machine.total().view(np.int32), VALUES[:4].sum(axis=0))


def test_two_processes_in_one_folder_send_one_masked_vector(hub):
    first, before = hub.sites[0], masked(hub)
    second = hub.sites[0] = first.restarted()
    hub.known.add(0, second.sums.credential)
    assert is_masked(second.reply(masked(hub, attempt=1)[0]), hub)
    reply = first.reply(before[0])
    assert isinstance(reply, Declined)
    assert "has sent a masked vector of version 7 for job 1, and sends no second one" in reply.reason


def test_an_agent_that_was_sent_nonsense_takes_no_further_part(hub):
    asked = masked(hub)[0]
    for content in (b"", asked.content[:-1], asked.content[:4] + b"\xff" + asked.content[5:]):
        assert isinstance(hub.sites[0].reply(asked._replace(content=content)), Declined)
    assert isinstance(hub.sites[0].reply(asked), Declined)


def test_a_coordinator_may_ask_for_a_larger_minimum(certificates, hub):
    strict = Hub(hub.sites, certificates[0], TERMS._replace(minimum=4))
    asked = strict.begin()
    while asked is not None:
        asked = strict.phase(asked)
    np.testing.assert_array_equal(strict.machine.total().view(np.int32), VALUES.sum(axis=0))


@pytest.mark.parametrize("later", [{"job": 2, "version": 8}, {"version": 8}, {"broadcast": bytes(32)}])
def test_the_vector_of_a_later_job_is_not_added_in_a_sum_that_began_before_it(hub, later):
    """Else each agent could be sent other parameters meanwhile, and what they were is compared at the invitation."""
    asked = masked(hub)
    for k, site in enumerate(hub.sites):
        site.kept = site.kept._replace(**later)
        reply = site.reply(asked[k])
        assert isinstance(reply, Declined)
        assert re.search("has done job . of version . since: a vector is added in the sum of its own", reply.reason)


def test_an_agent_knows_of_which_job_a_masked_vector_has_left_also_after_a_restart(hub):
    asked = masked(hub)
    assert not any(site.sums.has_left(site.kept) for site in hub.sites)
    hub.sites[0].reply(asked[0])
    for site in (hub.sites[0], hub.sites[0].restarted()):
        assert site.sums.has_left(site.kept)
        assert not site.sums.has_left(site.kept._replace(job=2))
        assert not site.sums.has_left(site.kept._replace(version=8))
    assert not hub.sites[1].sums.has_left(hub.sites[1].kept)


def test_nobody_gets_both_secrets(hub):
    """Who is asked for shares of another set of survivors than it signed ends its part."""
    asked = masked(hub)
    asked = hub.phase(hub.phase(asked))
    assert isinstance(decoded(hub.sites[0].reply(asked[0]).content, hub.plan), OpenedShares)
    reply = hub.sites[0].reply(asked[0]._replace(content=asked[1].content))
    assert isinstance(reply, Declined)
    assert "Each step is taken once and in order" in reply.reason


KEY = new_encryption_key()


@pytest.fixture(params=PROTOCOLS)
def any_hub(tmp_path, certificates, request):
    """A coordinator and sites, by each protocol that goes over a network."""
    terms = TERMS._replace(protocol=request.param)
    shared = KEY if PROTOCOLS[request.param].has_key else None
    return Hub([Site(tmp_path, certificates[0], k, terms, shared) for k in range(AGENTS)], certificates[0], terms)


def until_vectors(hub, **given):
    """What each agent is shown to which it answers with what depends on its vector."""
    asked = hub.begin(**given)
    for _ in range({"masks": 2, "additive": 2, "ckks": 0}[hub.terms.protocol]):
        asked = hub.phase(asked)
    return asked


def test_an_agent_that_comes_back_to_a_run_uses_no_key_of_a_box_twice(tmp_path, certificates):
    """A coordinator can lead it into another run and back, and invite it with the same bytes again."""
    terms = TERMS._replace(protocol="additive")
    hub = Hub([Site(tmp_path, certificates[0], k, terms) for k in range(AGENTS)], certificates[0], terms)
    asked, site, boxes = hub.begin(), hub.sites[0], []
    mine = credentials(certificates[0], "site-0")
    signer = SumSigner(mine)
    for _ in range(2):
        site.sums = SiteSums(0, terms, signer, mine.ca, site.sums._memory)
        hub.sites[1].sums._known.add(0, site.sums.credential)
        sealed = hub.protocol.decoded(site.reply(asked[0]).content, hub.plan)
        boxes.append((dict(sealed.parts)[1], site.sums._sum[2]._machine._peer._own._seeds[1]))
    one, other = (bytes(a ^ b for a, b in zip(box, seed, strict=False)) for box, seed in boxes)
    assert one != other  # the stream of the cipher


def is_vector(reply, hub):
    return isinstance(reply, SumReply) and isinstance(
        hub.protocol.decoded(reply.content, hub.plan), hub.protocol.vectors
    )


def test_a_sum_by_any_protocol_is_that_of_the_vectors(any_hub):
    asked = any_hub.begin()
    while asked is not None:
        assert max(len(message.content) for message in asked.values()) <= any_hub.sites[0].sums.largest_request
        asked = any_hub.phase(asked)
    np.testing.assert_array_equal(any_hub.machine.total().view(np.int32), VALUES.sum(axis=0))
    replies = [reply.content for site in any_hub.sites for reply in site.replies]
    assert max(len(content) for content in replies) <= any_hub.terms.largest_reply()


def test_what_depends_on_a_vector_is_noted_before_it_leaves_and_leaves_once_for_a_version(any_hub):
    asked = until_vectors(any_hub)
    site = any_hub.sites[0]
    assert not site.sums.has_left(site.kept)
    assert is_vector(site.reply(asked[0]), any_hub)
    assert site.sums.has_left(site.kept)
    again = any_hub.sites[0] = site.restarted()
    any_hub.known.add(0, again.sums.credential)
    for reply in (again.reply(any_hub.invitation(0)), again.reply(any_hub.invitation(0, attempt=1))):
        assert isinstance(reply, Declined)
        assert "has sent a masked vector of version 7 for job 1, and sends no second one" in reply.reason


def test_two_processes_of_an_agent_send_one_vector_by_any_protocol(any_hub):
    first, before = any_hub.sites[0], until_vectors(any_hub)
    second = any_hub.sites[0] = first.restarted()
    any_hub.known.add(0, second.sums.credential)
    assert is_vector(second.reply(until_vectors(any_hub, attempt=1)[0]), any_hub)
    reply = first.reply(before[0])
    assert isinstance(reply, Declined)
    assert "sends no second one" in reply.reason


def test_an_invitation_to_another_protocol_is_declined(any_hub):
    for other in set(PROTOCOLS) - {any_hub.terms.protocol}:
        reply = any_hub.sites[0].reply(any_hub.invitation(0, protocol=other))
        assert isinstance(reply, Declined)
        assert f"The protocol of the sum is {other} in the invitation and {any_hub.terms.protocol}" in reply.reason


def test_agents_with_different_keys_of_encrypted_sums_take_no_part(tmp_path, certificates):
    terms = TERMS._replace(protocol="ckks")
    sites = [Site(tmp_path, certificates[0], k, terms, KEY) for k in range(AGENTS)]
    hub, other = (
        Hub(sites, certificates[0], terms),
        Site(tmp_path / "other", certificates[0], 1, terms, new_encryption_key()),
    )
    said = "Agent 1 has another key for encrypted sums than"
    with pytest.raises(SecureSumError, match=f"{said} agent 0, .* Give all agents the same file"):
        hub.known.add(1, other.sums.credential)
    hub.known._seen[1] = other.sums.credential  # a coordinator that passes it on all the same
    reply = hub.sites[0].reply(hub.invitation(0))
    assert isinstance(reply, Declined)
    assert f"{said} this agent" in reply.reason
    without = SumSigner(credentials(certificates[0], "site-1")).credential(RUN, 1)
    hub.known._seen[1] = without
    assert f"{said} this agent, or one of both has none" in hub.sites[2].reply(hub.invitation(2)).reason


def said(hub):
    """Invitations with the keys that agents have said when their jobs were done, and the coordinator that has them."""
    plan = hub.plan = hub.terms.plan(7, HEARD.hex(), 0, orders_of())
    hub.machine, hub.job, hub.attempt = hub.protocol.coordinator(plan), 1, 0
    contents = {site.number: site.sums.advert(1) for site in hub.sites}
    for k, content in contents.items():
        hub.machine.receive(k, Advert(advert_of(k, content)))
    shown = {k: encoded(message, plan) for k, message in hub.machine.close().items()}
    return {k: with_keys(hub.invitation(k), shown[k], contents[k]) for k in contents}


def with_keys(invited, shown, own):
    return invited._replace(content=invited.content + shown, adverts=len(shown), own=hashlib.sha256(own).hexdigest())


def test_keys_that_were_said_when_a_job_was_done_save_a_phase(hub):
    asked, phases = said(hub), 0
    assert hub.sites[0].sums.advert(1) == hub.sites[0].sums.advert(1) != hub.sites[1].sums.advert(1)
    while asked is not None:
        assert max(len(message.content) for message in asked.values()) <= hub.sites[0].sums.largest_request
        asked, phases = hub.phase(asked), phases + 1
    assert phases == 4
    np.testing.assert_array_equal(hub.machine.total().view(np.int32), VALUES.sum(axis=0))


def test_keys_are_used_in_one_attempt(hub):
    asked = said(hub)
    first = hub.sites[0].reply(asked[0])
    assert isinstance(first, SumReply)
    again = hub.sites[0].reply(asked[0]._replace(attempt=1))
    assert isinstance(again, Declined)
    assert "The keys of agent 0 were used in a sum before" in again.reason
    keys = []
    for attempt in (2, 3):
        plan = hub.terms.plan(7, HEARD.hex(), attempt, orders_of())
        keys.append(decoded(hub.sites[0].reply(hub.invitation(0, attempt=attempt)).content, plan))
    public = [advert.keys[1:] for advert in keys] + [advert_of(0, hub.sites[0].sums.advert(1))[1:]]
    assert len({key for each in public for key in each}) == 9


def test_after_a_sum_that_was_not_ended_other_keys_are_said_for_the_same_job(hub):
    """A coordinator that ends in a sum and begins anew hears again that the job is done."""
    first, asked = hub.sites[0].sums.advert(1), said(hub)
    assert hub.sites[0].sums.advert(1) == first
    assert isinstance(hub.sites[0].reply(asked[0]), SumReply)
    assert hub.sites[0].sums.advert(1) != first
    again = said(hub)
    assert isinstance(hub.sites[0].reply(again[0]._replace(attempt=0)), Declined)  # the same attempt
    plan = hub.plan = hub.terms.plan(7, HEARD.hex(), 1, orders_of())
    adverts = {site.number: advert_of(site.number, site.sums.advert(1)) for site in hub.sites}
    shown = AdvertList(tuple(range(AGENTS)), tuple(adverts[k] for k in range(1, AGENTS)))
    own = hub.sites[0].sums.advert(1)
    assert isinstance(hub.sites[0].reply(with_keys(hub.invitation(0, attempt=1), encoded(shown, plan), own)), SumReply)


def test_keys_of_an_earlier_process_or_job_are_declined(hub):
    asked = said(hub)
    again = hub.sites[0].restarted()
    reply = again.reply(asked[0])
    assert isinstance(reply, Declined)
    assert "invited with keys that it does not have: it has begun anew since it said them" in reply.reason
    again.sums.advert(1)  # others than the coordinator has
    assert "invited with keys that it does not have" in again.reply(asked[0]._replace(attempt=1)).reason
    hub.sites[1].sums.advert(2)
    assert "invited with keys that it does not have" in hub.sites[1].reply(asked[1]).reason


def test_a_coordinator_that_puts_keys_of_its_own_in_place_of_an_agents_reads_no_share_and_gets_no_vector(hub):
    """It knows the channel key, and not the root on which both agents agree by their certified keys."""
    plan = hub.plan = hub.terms.plan(7, HEARD.hex(), 0, orders_of())
    contents = {site.number: site.sums.advert(1) for site in hub.sites}
    own = FreshKeys(1)
    adverts = {k: advert_of(k, content) for k, content in contents.items()} | {1: own.public}
    shown = AdvertList(tuple(range(AGENTS)), tuple(adverts[k] for k in range(1, AGENTS)))
    reply = hub.sites[0].reply(with_keys(hub.invitation(0), encoded(shown, plan), contents[0]))
    box = dict(decoded(reply.content, plan).boxes)[1]
    secret = agreed(own.take()[0], adverts[0].channel_key, "key")
    purpose = channel_purpose(plan, adverts[0], own.public)
    bound = set_digest(plan.digest, tuple(range(AGENTS)))
    for root in (b"", bytes(32)):
        assert Channel(secret + root, purpose, False).open(box, bound) is None
    root = hub.sites[1].sums._identity
    hub.sites[1].sums._known.add(0, hub.sites[0].sums.credential)
    assert Channel(secret + root.root(0), purpose, False).open(box, bound) is not None  # with the root it could
    forged = Channel(secret, purpose, False).seal(bytes(64), bound)
    boxes = tuple((k, forged) for k in range(1, AGENTS))
    reply = hub.sites[0].reply(SumRequest(1, 0, encoded(Delivery(tuple(range(AGENTS)), boxes), plan)))
    assert isinstance(reply, Declined)
    assert "The box from agent 1 to agent 0 does not open" in reply.reason


def summed(hub, members=tuple(range(AGENTS)), job=1, version=7):
    """Carry out a sum of these agents."""
    orders = told_orders(hub, members)
    plan = hub.plan = hub.terms.plan(version, HEARD.hex(), 0, orders)
    hub.machine, hub.job, hub.attempt = hub.protocol.coordinator(plan), job, 0
    asked = {k: hub.invitation(k, members, 0, job, version, orders=orders) for k in members}
    while asked is not None:
        asked = hub.phase(asked)


def told_orders(hub, members=tuple(range(AGENTS))):
    """The orders of a coordinator that passes on what each agent says that it was told."""
    return {k: order._replace(last_sum=hub.sites[k].kept.last_sum) for k, order in orders_of(members).items()}


def next_job(hub, job, version, merged=lambda agent: True):
    """Tell agents verdicts on their jobs; each trains the next one."""
    for site in hub.sites:
        last_sum = site.sums.last_sum(site.kept, merged(site.number))
        site.done(job, version)
        site.kept = site.kept._replace(last_sum=last_sum)


def invited_to(hub, job, version, orders=None):
    orders = told_orders(hub) if orders is None else orders
    return [site.reply(hub.invitation(site.number, job=job, version=version, orders=orders)) for site in hub.sites]


DIFFERENT = r"Agent \d was told that its update of version 7 was (not )?merged, and this agent that its own was"


@pytest.mark.parametrize("merged", [True, False])
def test_agents_that_were_all_told_the_same_of_a_sum_add_again(any_hub, merged):
    summed(any_hub)
    next_job(any_hub, 2, 8, lambda agent: merged)
    assert all(isinstance(reply, SumReply) for reply in invited_to(any_hub, 2, 8))


@pytest.mark.parametrize("alone", [True, False])
def test_a_coordinator_that_tells_one_agent_another_verdict_gets_no_further_sum_with_it(hub, alone):
    summed(hub)
    next_job(hub, 2, 8, lambda agent: (agent == 3) is alone)
    replies = invited_to(hub, 2, 8)
    assert all(isinstance(reply, Declined) for reply in replies)
    assert all(re.match(DIFFERENT, reply.reason) for reply in replies), replies


@pytest.mark.parametrize("between", [False, True])
def test_nor_after_all_have_begun_anew(certificates, hub, between):
    """It can end their processes, or lead them into another run and back; also in a sum without the agent."""
    summed(hub)
    job, version = 2, 8
    if between:
        next_job(hub, job, version, lambda agent: agent != 3)
        assert len(masked_without_3(hub, job, version)) == 4
        job, version = 3, 9
    next_job(hub, job, version, lambda agent: agent != 3)
    for site in hub.sites:
        site.sums = site.restarted().sums
    replies = invited_to(Hub(hub.sites, certificates[0]), job, version)
    assert [isinstance(reply, Declined) for reply in replies] == [True, True, True, not between, True]
    assert all(re.match(DIFFERENT, reply.reason) for reply in replies if isinstance(reply, Declined)), replies
    assert (hub.sites[0].given[0] / "site-0" / RUN / "verdicts.json").stat().st_mode & 0o777 == 0o600


def masked_without_3(hub, job, version):
    """The masked vectors of a sum of the others, which the coordinator ends then."""
    members = (0, 1, 2, 4)
    orders = told_orders(hub, members)
    plan = hub.plan = hub.terms.plan(version, HEARD.hex(), 0, orders)
    hub.machine, hub.job, hub.attempt = hub.protocol.coordinator(plan), job, 0
    hub.phase(hub.phase(hub.phase({k: hub.invitation(k, members, 0, job, version, orders=orders) for k in members})))
    return [k for k in members if is_masked(hub.sites[k].replies[-1], hub)]


def test_it_can_not_hide_that_in_the_orders(hub):
    summed(hub)
    next_job(hub, 2, 8, lambda agent: agent != 3)
    orders = told_orders(hub)
    orders[3] = orders[3]._replace(last_sum=orders[0].last_sum)
    replies = invited_to(hub, 2, 8, orders)
    assert [isinstance(reply, SumReply) for reply in replies] == [True, True, True, False, True]
    assert "The order (local steps, share, last sum) of the sum" in replies[3].reason


def test_a_sum_without_the_agent_does_not_make_the_others_forget_it(hub):
    summed(hub)
    next_job(hub, 2, 8, lambda agent: agent != 3)
    summed(hub, (0, 1, 2, 4), 2, 8)
    next_job(hub, 3, 9)
    replies = invited_to(hub, 3, 9)
    assert [isinstance(reply, Declined) for reply in replies] == [True, True, True, False, True]
    assert all(re.match(DIFFERENT, reply.reason) for reply in replies if isinstance(reply, Declined))


def test_an_agent_that_was_away_or_lost_its_folder_is_no_different_verdict(hub):
    summed(hub)
    next_job(hub, 2, 8)
    summed(hub, (0, 1, 2, 4), 2, 8)
    next_job(hub, 3, 9)
    hub.sites[0].kept = hub.sites[0].kept._replace(last_sum=NO_SUM)
    assert all(isinstance(reply, SumReply) for reply in invited_to(hub, 3, 9))


def test_what_an_agent_was_told_is_on_its_disk(tmp_path):
    memory = RunMemory(tmp_path, RUN, FEDERATION)
    for told in (NO_SUM, (7, b"12345678"), (0, bytes(8))):
        memory.save(Kept(np.zeros(1, np.float32), 1, 7, last_sum=told))
        assert memory._beside()[-1] == told
