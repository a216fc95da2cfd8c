"""Who is admitted by a coordinator, before anything is trained."""

import json

import jax

from fedrl.aggregators import mean
from fedrl.engines.network.bridge import Bridge
from fedrl.engines.network.membership import MembershipCheck
from fedrl.federation.federate import federate
from fedrl.federation.wire_digest import as_json, wire_digest
from fedrl.transport.local import LocalTransport
from fedrl.wire.protocol import Hello, Stop, Welcome
from tests.engines.test_halves import FLEET, VALLEY


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
