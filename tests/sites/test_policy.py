"""What may leave: refused when the agent is built, at each update, and beyond the jobs of a day."""

import asyncio
import dataclasses

import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError
from fedrl.federation.federate import federate
from fedrl.federation.soundness import NOISE, outgoing
from fedrl.federation.trust_models import TRUSTED
from fedrl.learners import sgd
from fedrl.privacy.extra import accounting
from fedrl.privacy.guarantee import Guarantee
from fedrl.privacy.ledger import Budget
from fedrl.privacy.pricing import Price
from fedrl.sites.agent import SiteAgent
from fedrl.sites.policy import MayLeave, check_federation, check_guarantee, leaving_of, needed, too_large
from fedrl.stages import hard_threshold, quantize, weight_by_capacity
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Failed, Leave, Ready, Sent
from tests.sites.test_agent import AGENTS, ALL, FLEET, SEED, VALLEY, agent_of, served
from tests.support.coordinating import ScriptedCoordinator
from tests.support.quadratic import quadratic

PLAIN = federate(VALLEY, mean())
REFUSED = {
    "reports": (federate(VALLEY, mean(), reports=["loss"]), {}, "report/loss", "reports to a list with 'loss'"),
    "payload": (federate(VALLEY, mean(), payload="gradient", server_optimizer=sgd(0.5)), {}, "'gradient'", "payload"),
    "size": (PLAIN, {"largest_bytes": 31}, "updates of 32 bytes, unprotected", "largest_bytes to 32 or more"),
    "privacy": (PLAIN, {"privacy": "noise"}, "updates of 32 bytes, unprotected", "privacy = 'nothing'"),
    "sizes": (federate(VALLEY, mean(), hard_threshold(0.1)), {}, "size", "sizes = true"),
    "weights": (federate(VALLEY, mean(), weight_by_capacity([1.0, 2.0, 4.0])), {}, "weight", "weights = true"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_federation_that_would_let_out_more_is_refused_before_anything_is_sent(name, tmp_path):
    federation, given, what, key = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        SiteAgent(federation, lambda k: None, LocalTransport("site-0"), "nobody", tmp_path, MayLeave(**given))
    text = str(refused.value)
    assert what in text
    assert key in text
    assert text.startswith("The federation lets out")
    assert list(tmp_path.iterdir()) == []


def test_what_is_allowed_is_not_refused():
    check_federation(MayLeave(), PLAIN)
    check_federation(MayLeave(largest_bytes=32), PLAIN)
    check_federation(MayLeave(sizes=True), REFUSED["sizes"][0])
    check_federation(MayLeave(weights=True), REFUSED["weights"][0])
    check_federation(MayLeave(), federate(VALLEY, mean(), quantize(8)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_needed_is_allowed_and_no_more(name):
    federation = REFUSED[name][0]
    found = needed(federation)
    check_federation(found, federation)
    bare = MayLeave(payload=(federation.payload,))
    if found != bare:
        with pytest.raises(ConfigError):
            check_federation(bare, federation)


def test_only_noise_that_the_agent_adds_is_noise():
    value = outgoing(PLAIN)[0]
    noisy = MayLeave(privacy="noise")
    check_federation(noisy, PLAIN, [value._replace(protection=NOISE["agent"])])
    for other in (NOISE["server"], "a hidden sum", "nothing"):
        with pytest.raises(ConfigError, match="privacy = 'nothing'"):
            check_federation(noisy, PLAIN, [value._replace(protection=other)])


def test_limits_are_counts():
    for wrong in ({"rounds_a_day": 0}, {"largest_bytes": -1}):
        with pytest.raises(ConfigError, match="may_leave"):
            MayLeave(**wrong)


def test_an_update_that_is_too_large_does_not_leave(tmp_path):
    varying = REFUSED["sizes"][0]
    coordinator = ScriptedCoordinator(varying, FLEET, SEED)
    small = dataclasses.replace(ALL, largest_bytes=8)
    allowed = [small, ALL, ALL]
    runs = [agent_of(varying, coordinator, k, tmp_path, may_leave=allowed[k]).run() for k in range(AGENTS)]
    assert {end.code for end in asyncio.run(served(coordinator, runs, 2))} == {"done"}
    assert set(coordinator.failed) == {(0, 1), (0, 2)}
    assert {agent for agent, _ in coordinator.updates} == {1, 2}
    assert all("bytes, and this site lets at most 8 leave." in why for why in coordinator.failed.values())
    assert not too_large(small, bytes(8))


def test_reasons_and_capacity_leave_only_if_allowed(tmp_path):
    failing = federate(quadratic(sgd(1e30), size=8), mean(), local_steps=4)
    for allowed in (True, False):
        coordinator = ScriptedCoordinator(failing, FLEET, SEED)
        may_leave = MayLeave(capacity=allowed, reasons=allowed)
        runs = [
            agent_of(failing, coordinator, k, tmp_path / str(allowed), may_leave=may_leave).run() for k in range(AGENTS)
        ]
        asyncio.run(served(coordinator, runs, 1))
        assert all(bool(reason) is allowed for reason in coordinator.failed.values())
        assert len(coordinator.failed) == AGENTS
        speeds = [message.steps_per_s for _, message in coordinator.heard if isinstance(message, Ready)]
        assert [speed > 0 for speed in speeds] == [allowed] * AGENTS


class Days:
    """A clock that jumps to the next day when somebody waits for it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_beyond_the_jobs_of_a_day_an_agent_leaves_and_comes_back_on_the_next(tmp_path, monkeypatch):
    clock, slept, sleep = Days(), [], asyncio.sleep

    async def waiting(seconds, result=None):
        if seconds > 3600:
            slept.append(seconds)
            clock.now += seconds
            seconds = 0
        return await sleep(seconds, result)

    monkeypatch.setattr("fedrl.sites.agent.asyncio.sleep", waiting)
    coordinator, notices = ScriptedCoordinator(PLAIN, FLEET, SEED), []
    may_leave = dataclasses.replace(ALL, rounds_a_day=2)
    limited = agent_of(PLAIN, coordinator, 0, tmp_path, notices=notices, may_leave=may_leave, clock=clock)
    runs = [limited.run(), *(agent_of(PLAIN, coordinator, k, tmp_path).run() for k in range(1, AGENTS))]
    assert {end.code for end in asyncio.run(served(coordinator, runs, 5))} == {"done"}
    assert len(slept) == 2
    assert slept[0] == 86400 - 1000
    assert slept[1] == pytest.approx(86400)
    left = [message for agent, message in coordinator.heard if agent == 0 and isinstance(message, Leave)]
    assert {(m.for_good, m.reason) for m in left} == {(False, "This site lets no further job leave today.")}
    assert ["1970-01-02T00:00:00" in n.text for n in notices if n.event == "waiting"] == [True, False]
    assert sum(isinstance(message, Sent) for agent, message in coordinator.heard if agent == 0) == 5


def test_a_day_is_counted_on_after_a_restart(tmp_path):
    # In test_site_log the log is read; here its count: the agent knows from it what left today.
    clock = Days()
    may_leave = dataclasses.replace(ALL, rounds_a_day=2)

    def agents(coordinator, notices):
        limited = agent_of(PLAIN, coordinator, 0, tmp_path, notices=notices, may_leave=may_leave, clock=clock)
        return [limited.run(), *(agent_of(PLAIN, coordinator, k, tmp_path).run() for k in range(1, AGENTS))]

    coordinator = ScriptedCoordinator(PLAIN, FLEET, SEED)
    asyncio.run(served(coordinator, agents(coordinator, []), 2))
    coordinator, notices = ScriptedCoordinator(PLAIN, FLEET, SEED, run="f" * 32), []

    async def one_round():
        async with coordinator.listening():
            tasks = [asyncio.ensure_future(run) for run in agents(coordinator, notices)]
            working = asyncio.ensure_future(coordinator.round())
            while not any(n.event == "waiting" for n in notices):
                await asyncio.sleep(0.01)
            for task in (working, *tasks):
                task.cancel()
            await asyncio.gather(working, *tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(one_round(), 60))
    assert not [message for _, message in coordinator.heard if isinstance(message, Failed)]
    assert not coordinator.updates.get((0, 1))


def test_what_leaves_is_what_a_federation_says_that_leaves():
    for federation, *_ in REFUSED.values():
        assert leaving_of(federation) == outgoing(federation)
        kinds = {each.name.partition("/")[0] for each in outgoing(federation)}
        # A kind that the policy does not know would leave without being asked for.
        assert kinds <= {"value", "report", "statistics", "weight", "version", "size", "silence"}


def promised(epsilon=8.0, delta=1e-3, reproducible=False):
    price = Price((accounting().GaussianDpEvent(2.0),), "add-remove", "agent")
    made = Guarantee(Budget(epsilon, delta), price, "central_gaussian", 0, 2.0, 1.0, "server", TRUSTED)
    return made._replace(reproducible=reproducible)


@pytest.mark.parametrize(
    ("guarantee", "may_leave", "said"),
    [
        (None, MayLeave(max_epsilon=8.0), "may_leave.max_epsilon is 8, and the experiment has no privacy budget. Add"),
        (
            promised(9.0),
            MayLeave(max_epsilon=8.0),
            "max_epsilon is 8, and the privacy budget of .* has epsilon = 9. Ask",
        ),
        (promised(), MayLeave(max_delta=1e-4), "max_delta is 0.0001, and the privacy budget .* has delta = 0.001. Ask"),
        (promised(reproducible=True), MayLeave(max_epsilon=8.0), "the experiment is not certified: the noise follows"),
    ],
)
def test_a_site_takes_no_part_with_less_privacy_than_it_asks_for(guarantee, may_leave, said):
    with pytest.raises(ConfigError, match=said):
        check_guarantee(may_leave, guarantee)


def test_a_site_takes_part_within_what_it_asks_for_or_asks_for_nothing():
    check_guarantee(MayLeave(max_epsilon=8.0, max_delta=1e-3), promised())
    check_guarantee(MayLeave(), None)
