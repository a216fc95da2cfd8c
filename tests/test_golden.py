"""The comparison of two commits by what federations come to: it sees what differs, and nothing else."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks.golden import CASES, ROOT, Ending, compare, main, with_schedule_on_clock
from fedrl.config.catalogue import components

PLANTED = ("learning_rate * error / met", "learning_rate * 1.000001 * error / met")


def ending(*params, seconds=0.0, spent=10.0) -> Ending:
    return Ending(np.float32(params), np.float32([0.0]), np.array([seconds, spent]))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (ending(1.0, 2.0), "equal"),
        (ending(1.0, 2.0 + 2**-22), "DIFFERS: global 2.38e-07 apart"),
        (ending(1.0, -2.0), "DIFFERS: global 4 apart"),
        (ending(1.0), r"DIFFERS: global float32\[2\] became float32\[1\]"),
        (ending(1.0, 2.0, spent=11.0), "DIFFERS: clock and bytes 1 apart"),
        (ending(1.0, 2.0, seconds=3.0), "DIFFERS: clock and bytes 3 apart"),
        ("ValueError: no", "DIFFERS: new: ValueError: no"),
    ],
)
def test_a_case_is_equal_or_said_to_be_how_far_apart(after, words):
    lines, equal = compare({"one": ending(1.0, 2.0)}, {"one": after})
    assert equal == (words == "equal")
    assert re.match(rf"one +{words}", lines[0])


def test_what_runs_in_neither_commit_is_not_equal():
    assert not compare({"one": "KeyError: x"}, {"one": "KeyError: x"})[1]
    assert not compare({}, {})[1]


@pytest.mark.parametrize("kind", ["learner", "aggregator"])
def test_the_cases_use_every(kind):
    used = " ".join(CASES.values())
    assert [part.name for part in components(kind) if f'"{part.name}"' not in used] == []


def test_a_schedule_becomes_part_of_the_clock_for_commits_that_read_it_there():
    plain, timed = {"rounds": 1, "federation": {"agents": 2}}, {"agents": 2, "schedule": "fed_buff"}
    assert with_schedule_on_clock(plain) == plain
    for given in ({}, {"clock": {"jitter": 0.1}}):
        expected = {"agents": 2, "clock": {**given.get("clock", {}), "schedule": "fed_buff"}}
        assert with_schedule_on_clock({"federation": {**timed, **given}}) == {"federation": expected}


def test_a_planted_difference_is_seen_and_nothing_is_left_behind(tmp_path, capfd):
    """A learning rate that is off in its seventh digit, in the working tree of a repository of its own."""
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "src", repository / "src", ignore=shutil.ignore_patterns("__pycache__"))

    def git(*words: str) -> str:
        who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
        return subprocess.run(["git", *who, *words], cwd=repository, check=True, capture_output=True, text=True).stdout

    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "All of it"]):
        git(*words)
    file = repository / "src/fedrl/learners/algorithms/q_table.py"
    text = file.read_text()
    assert PLANTED[0] in text
    file.write_text(text.replace(*PLANTED))
    assert main(["HEAD", "--only", "q_table"], repository) == 1
    assert re.search(
        r"q_table +DIFFERS: global \S+e-0[678] apart, agents \S+e-0[678] apart +\w+", capfd.readouterr().out
    )
    assert len(git("worktree", "list").splitlines()) == 1
