"""A ledger charges before a round, stops exactly at the budget, and treats agents with equal histories alike."""

import numpy as np
import pytest

from fedrl.privacy.composition import epsilon_of, most_releases
from fedrl.privacy.extra import accounting
from fedrl.privacy.ledger import Budget, Ledger, OverspentError
from fedrl.privacy.pricing import Price

KINDS = accounting()
GAUSSIAN = KINDS.GaussianDpEvent
POISSON = KINDS.PoissonSampledDpEvent(0.1, GAUSSIAN(1.2))
FIXED = KINDS.SampledWithoutReplacementDpEvent(100, 10, GAUSSIAN(2.0))


def all_of(event: object, agents: int = 3, relation: str = "add-remove", **more: object) -> Price:
    return Price((event,) * agents, relation, "agent", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "relation"), [(GAUSSIAN(2.63), "add-remove"), (POISSON, "add-remove"), (FIXED, "replace-one")]
)
def test_the_last_round_of_a_budget_is_allowed_and_the_next_one_refused(event: object, relation: str) -> None:
    epsilon, delta = 4.0, 1e-3
    allowed = most_releases(event, epsilon, delta, relation)  # type: ignore[arg-type]
    ledger = Ledger(Budget(epsilon, delta), all_of(event, relation=relation))
    assert allowed > 1
    assert ledger.releases_left() == allowed
    for _ in range(allowed):
        ledger.charge()
    assert not ledger.may().any()
    assert ledger.releases_left() == 0
    assert ledger.epsilon(certified=True) <= epsilon
    assert epsilon_of({event: allowed + 1}, delta, relation) > epsilon  # type: ignore[arg-type]
    with pytest.raises(OverspentError, match="One more round exceeds the privacy budget, epsilon = 4 at delta"):
        ledger.charge()
    assert ledger.releases()[0] == {event: allowed}


def test_what_is_shown_is_never_below_the_tightest_bound_nor_above_the_budget() -> None:
    ledger = Ledger(Budget(8.0, 1e-5), all_of(POISSON))
    for count in range(1, 1 + most_releases(POISSON, 8.0, 1e-5)):
        ledger.charge()
        if count % 40 == 1:
            assert ledger.epsilon(certified=True) <= ledger.epsilon() <= 8.0
    assert ledger.epsilon() == ledger.epsilon(certified=True)


def test_agents_that_ask_for_more_drop_out_and_the_others_go_on() -> None:
    ledger = Ledger(Budget(8.0, 1e-3, {1: 2.0}), all_of(GAUSSIAN(2.63)))
    own = most_releases(GAUSSIAN(2.63), 2.0, 1e-3)
    for _ in range(own):
        assert ledger.charge().tolist() == [True, True, True]
    assert ledger.charge().tolist() == [True, False, True]
    with pytest.raises(OverspentError):
        ledger.charge(np.array([True, True, True]))
    assert [dict(each) for each in ledger.releases()] == [{GAUSSIAN(2.63): own + i} for i in (1, 0, 1)]
    assert ledger.spent().tolist() == pytest.approx(ledger.spent(certified=True).tolist())


def test_participants_alone_pay_and_the_others_get_their_charge_back() -> None:
    ledger = Ledger(Budget(8.0, 1e-3), all_of(GAUSSIAN(2.0), participants=True))
    charged = ledger.charge()
    assert (ledger.spent() > 0.0).all()
    assert ledger.settle(charged, np.array([True, False, False])).tolist() == [False, True, True]
    assert (ledger.spent() > 0.0).tolist() == [True, False, False]
    everybody = Ledger(Budget(8.0, 1e-3), all_of(GAUSSIAN(2.0)))
    assert not everybody.settle(everybody.charge(), np.zeros(3, bool)).any()
    assert (everybody.spent() > 0.0).all()


def test_rounds_of_other_episodes_do_not_add_up() -> None:
    ledger = Ledger(Budget(1.0, 1e-5), all_of(GAUSSIAN(3.74), parallel=True))
    for _ in range(50):
        ledger.charge()
    assert ledger.epsilon() == pytest.approx(epsilon_of({GAUSSIAN(3.74): 1}, 1e-5))


def test_noise_that_follows_from_results_is_filtered_by_what_was_charged() -> None:
    ledger = Ledger(Budget(3.0, 1e-5), all_of(GAUSSIAN(2.0)), adaptive=True)
    multipliers = [4.0, 2.0, 3.0]
    for z in multipliers:
        ledger.charge(events=(GAUSSIAN(z),) * 3)
    together = sum(z**-2 for z in multipliers) ** -0.5
    assert ledger.epsilon() == pytest.approx(epsilon_of({GAUSSIAN(together): 1}, 1e-5))
    assert not ledger.may((GAUSSIAN(0.5),) * 3).any()
    assert ledger.may((GAUSSIAN(40.0),) * 3).all()
