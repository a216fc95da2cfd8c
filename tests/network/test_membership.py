"""Who is admitted by a coordinator, before anything is trained."""

import asyncio
import json
import time

import jax

from fedrl.aggregators import mean
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.network.bridge import Bridge
from fedrl.network.choices import sites
from fedrl.network.membership import MembershipCheck
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Hello, Pause, Resume, Stop, Welcome
from tests.engines.test_halves import FLEET, VALLEY
from tests.support.distant_agents import DistantAgent
from tests.support.noting import Noting


def test_a_number_beyond_the_federation_is_refused_with_its_reason():
    federation, setting = federate(VALLEY, mean()), jax.tree.map(lambda x: x[0], FLEET)
    hello = Hello("", 0, 0, json.dumps(as_json(wire_digest(federation, setting))).encode())
    bridge = Bridge(LocalTransport(), "nobody")
    check = MembershipCheck(federation, setting, 2, bridge, {"b": 1, "c": 2}.__getitem__)
    assert isinstance(check.answer("b", hello), Welcome)
    stop = check.answer("c", hello)
    assert isinstance(stop, Stop)
    assert stop.why.startswith("c has number 2, and this federation has 2 seats.")
    assert (stop.code, stop.retry) == ("no_seat", False)


def test_who_comes_in_a_pause_is_told_of_it():
    bridge = Bridge(LocalTransport(), "a pause")
    placement = sites(bridge, lambda name: int(name.split("-")[1]))
    with simulate(federate(VALLEY, mean()), FLEET, executor=placement):
        bridge._loop.call_soon_threadsafe(bridge.pause, True)
        agent = DistantAgent(federate(VALLEY, mean()), FLEET, 0, 0, bridge.address)
        running = asyncio.run_coroutine_threadsafe(agent.live(), bridge._loop)
        for _ in range(3000):
            if any(isinstance(message, Pause) for message in agent.told):
                break
            time.sleep(0.01)
        bridge._loop.call_soon_threadsafe(bridge.pause, True)  # said once
        bridge._loop.call_soon_threadsafe(bridge.pause, False)
        for _ in range(3000):
            if any(isinstance(message, Resume) for message in agent.told):
                break
            time.sleep(0.01)
        assert [type(message) for message in agent.told] == [Welcome, Pause, Resume]
        bridge.close(Stop("The run is complete.", "done", False))
        running.cancel()


def test_a_welcome_names_the_version_and_a_difference_that_does_not_matter_is_told():
    """Before, every welcome said version 0, and such differences were kept where nobody read them."""
    federation, observer = federate(VALLEY, mean()), Noting()
    setting = jax.tree.map(lambda x: x[0], FLEET)
    bridge = Bridge(LocalTransport(), "nobody", observer=observer)
    bridge.version = 7
    check = MembershipCheck(federation, setting, 2, bridge, lambda name: 1)
    digest = as_json(wire_digest(federation, setting))
    digest["versions"] = dict.fromkeys(digest["versions"], "0.0.1")
    answer = check.answer("site-1", Hello("", 0, 0, json.dumps(digest).encode()))
    assert answer.version == 7
    assert observer.events
    assert {(event, agent, name) for event, agent, name, _ in observer.events} == {("differs", 1, "site-1")}
