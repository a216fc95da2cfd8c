"""What a coordinator takes from a bid, and which update may follow it."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import WireError
from fedrl.engines.bidding import Bidding
from fedrl.engines.messages import messages
from fedrl.federation.federate import federate
from fedrl.network.known_bids import KnownBids
from fedrl.server.board import Bids
from fedrl.stages import hard_threshold
from tests.engines.test_halves import FLEET, VALLEY

WIRE = messages(federate(VALLEY, mean(), hard_threshold(0.1), reports=["norm", "loss"]), FLEET).update
BIDDING = Bidding(("norm",), WIRE)


def update(norm=2.0, loss=3.0):
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), WIRE)
    return zeros._replace(report={"norm": np.float32(norm), "loss": np.float32(loss)})


@pytest.fixture
def known():
    made = messages(federate(VALLEY, mean(), hard_threshold(0.1), reports=["norm", "loss"]), FLEET)
    return KnownBids(Bids(("norm",), 8, 7, 0, 1), made, 5)


def test_a_bid_says_its_reports_and_the_size_of_a_whole_update(known):
    bid, rest = BIDDING.apart(update())
    found = known.take(3, 4, 4, bid)
    assert (found.report, found.size_bytes) == ({"norm": np.float32(2.0)}, len(rest) + 7)
    assert 3 in known
    assert 2 not in known
    assert known.whole(3, rest).report == {"norm": np.float32(2.0), "loss": np.float32(3.0)}


@pytest.mark.parametrize(
    ("norm", "version", "cut", "why"),
    [
        (2.0, 5, None, "it bids for version 5, and 4 was sent"),
        (-1.0, 4, None, "it reports norm = -1"),
        (np.nan, 4, None, "it reports norm = nan"),
        (2.0, 4, -1, "its bid can't be read"),
    ],
)
def test_a_bid_that_can_not_be_right_is_refused_and_not_known(known, norm, version, cut, why):
    bid, _ = BIDDING.apart(update(norm))
    assert known.take(3, 4, version, bid[:cut]).startswith(why)
    assert 3 not in known


def test_an_update_has_the_size_that_its_bid_has_said(known):
    value = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), WIRE.value)
    short, (bid, rest) = BIDDING.apart(update())[1], BIDDING.apart(update()._replace(value=value))
    assert len(short) != len(rest)
    known.take(3, 4, 4, bid)
    with pytest.raises(WireError, match=f"it has {len(short)} bytes, and its bid said {len(rest)}"):
        known.whole(3, short)
