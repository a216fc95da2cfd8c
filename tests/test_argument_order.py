"""The order of arguments is one for all records, and what does not keep to it is found."""

from dataclasses import replace

import pytest

from fedrl.environments import cartpole
from fedrl.environments.time_limit import time_limit
from fedrl.server import greedy
from tests.support.argument_order import ORDERS, ROLES, misplaced

LAST = {("Learner", "learn"), ("Learner", "gradient")}
RANKS = {name: role for role, names in ROLES.items() for name in names}


@pytest.mark.parametrize("kind", ORDERS)
def test_functions_take_randomness_then_what_is_read_then_the_state_then_the_value(kind):
    for name, order in ORDERS[kind].items():
        taken = order.split()
        if (kind, name) in LAST:
            assert taken.pop() == "context"
        ranks = [RANKS[parameter] for parameter in taken]
        assert ranks == sorted(ranks), f"{kind}.{name}"


def test_a_swap_is_found_also_inside_a_wrapper():
    plain = cartpole()
    swapped = replace(plain, step=lambda noise, state, action, params: plain.step(noise, params, state, action))
    found = ["Environment.step(noise, state, action, params), not (noise, params, state, action)"]
    assert misplaced(swapped) == found
    assert misplaced(time_limit(swapped)) == found


def test_a_missing_argument_and_a_foreign_name_are_found():
    upload_budget = greedy(100)
    short = replace(upload_budget, observe=lambda ids, state, reports: state)
    foreign = replace(upload_budget, observe=lambda ids, selected, state, report: state)
    assert misplaced(short) == ["UploadBudget.observe(ids, state, reports), not (ids, selected, state, reports)"]
    assert misplaced(foreign) == [
        "UploadBudget.observe(ids, selected, state, report), not (ids, selected, state, reports)"
    ]
