"""Everything combines, or is refused for a mathematical reason; and no option is ignored."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from fedrl.core.errors import REASONS
from tests.engines import combinations
from tests.engines.combinations import OPTIONS, every, missing, trained

PLAIN = {name: choices[0] for name, choices in OPTIONS.items()}
TIMED = PLAIN | {"clock": "even"}


def test_every_combination_stands_or_has_a_reason_and_every_triple_of_choices_trains_and_leaves_its_traces():
    """In a process of its own, without the checks of types that these tests run with: it builds thousands."""
    ran = subprocess.run(
        [sys.executable, "-m", combinations.__name__],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(ran.stdout)
    assert found["reasons"].keys() <= REASONS.keys()
    assert found["standing"] + sum(found["reasons"].values()) == len(every())
    assert found["standing"] > 2_600
    assert found["stands"] == {name: sorted(choices) for name, choices in OPTIONS.items()}
    assert found["faults"] == []


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
    ("local steps", "linear", PLAIN),
    ("budget", "greedy", PLAIN),
    ("compression", "top_k", PLAIN),
    ("compression", "top_k", PLAIN | {"topology": "gossip"}),
    ("payload", "gradient", PLAIN),
]


@pytest.mark.parametrize(
    ("option", "choice", "instead"), IGNORED, ids=[f"{o}: {c}, {i['topology']}" for o, c, i in IGNORED]
)
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
