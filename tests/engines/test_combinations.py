"""Everything combines, or is refused for a mathematical reason; and no option is ignored."""

import numpy as np
import pytest
from combinations import OPTIONS, covering, every, missing, ordered, refusal, trained

from fedrl.core.errors import REASONS

PLAIN = {name: choices[0] for name, choices in OPTIONS.items()}
TIMED = PLAIN | {"clock": "even"}


@pytest.fixture(scope="module")
def reasons():
    """Of every combination, why it is refused; "" if it stands."""
    return [(chosen, refusal(chosen)) for chosen in ordered(every())]


def test_every_combination_stands_or_is_refused_for_a_reason_on_the_list(reasons):
    assert {reason for _, reason in reasons} <= {*REASONS, ""}
    assert sum(not reason for _, reason in reasons) > 2_500
    for name, choices in OPTIONS.items():
        for choice in choices:
            assert any(chosen[name] == choice and not reason for chosen, reason in reasons), f"{name}: {choice}"


@pytest.mark.parametrize("environment", OPTIONS["environment"])
def test_every_triple_of_choices_trains_and_leaves_its_traces(reasons, environment):
    rows = covering([chosen for chosen, reason in reasons if not reason])
    for chosen in ordered([row for row in rows if row["environment"] == environment]):
        assert missing(chosen, trained(chosen)) == [], chosen


IGNORED = [
    ("environment", "gymnasium", PLAIN),
    ("topology", "tree", PLAIN),
    ("topology", "gossip", PLAIN),
    ("topology", "isolated", PLAIN),
    ("schedule", "fed_buff", TIMED),
    ("schedule", "fed_async", TIMED),
    ("schedule", "bounded", TIMED),
    ("schedule", "deadline", TIMED),
    ("clock", "even", PLAIN),
    ("clock", "drop-outs", TIMED),
    ("selection", "uniform", PLAIN),
    ("local steps", "ramp", PLAIN),
    ("budget", "by_priority", PLAIN),
    ("compression", "top_k", PLAIN),
    ("payload", "gradient", PLAIN),
]


@pytest.mark.parametrize(("option", "choice", "instead"), IGNORED, ids=[f"{o}: {c}" for o, c, _ in IGNORED])
def test_an_engine_that_ignores_an_option_is_caught(option, choice, instead):
    """It does what it would do without the option."""
    assert any(line.startswith(option) for line in missing(instead | {option: choice}, trained(instead)))


def test_no_choice_is_left_without_a_planted_engine():
    planted = {(option, choice) for option, choice, _ in IGNORED}
    others = {(name, choice) for name, choices in OPTIONS.items() for choice in choices[1:]}
    assert others - planted == {("rule", "median")}  # the next test


def test_the_rule_makes_a_difference():
    ends = [trained(PLAIN | {"rule": rule}).server[-1] for rule in OPTIONS["rule"]]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
