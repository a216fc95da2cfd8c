"""The page of environments that were tried: what a row needs, and what the page says of its rows."""

import json
import sys

import numpy as np

from benchmarks import suites
from fedrl.core.environment import Box, Discrete, Product

ROW = {"opened": True, "trained": True, "said": "", "notes": []}


def test_random_actions_are_in_every_part_of_a_space():
    space = Product((Discrete(3), Box((2,), -1.0, 1.0), Discrete(5)))
    found = suites.random_actions(space, np.random.default_rng(0), (200, 4))
    assert found.shape == (200, 4, 4)
    for entry, size in ((0, 3), (3, 5)):
        assert set(np.unique(found[..., entry])) == set(range(size))
    assert np.unique(found[..., 1:3]).size == 200 * 4 * 2


def test_the_page_states_its_command_and_keeps_no_row_of_another_commit(monkeypatch, tmp_path):
    case, made = suites.cases()[0], []
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    rows.write_text(json.dumps({"case": case, "commit": "0000000", "load": 1.0, **ROW}) + "\n")
    monkeypatch.setattr(suites, "cases", lambda: [case])
    monkeypatch.setattr(suites, "row_of", lambda case, python, limit_s: made.append(limit_s) or ROW)
    words = ["--limit", "7", "--rows", str(rows), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["suites", *words])
    for _ in range(2):  # the second time, the row is of this commit
        suites.main()
    assert made == [7.0]
    assert f"-m benchmarks.suites {' '.join(words)}\n" in page.read_text()
    assert f"commit {suites.commit()}," in page.read_text()
    assert "| 0000000 |" not in page.read_text()


def test_a_row_of_another_commit_stands_with_that_commit_where_time_is_up(monkeypatch, tmp_path):
    case, other = suites.cases()[:2]
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    rows.write_text(json.dumps({"case": case, "commit": "0000000", "load": 1.0, **ROW}) + "\n")
    monkeypatch.setattr(suites, "cases", lambda: [case, other])
    monkeypatch.setattr(sys, "argv", ["suites", "--seconds", "0", "--rows", str(rows), "--page", str(page)])
    suites.main()
    assert "Of 1 ids" in page.read_text()
    assert "| 1 | 0000000 |" in page.read_text()
    assert "kept from earlier calls" in page.read_text()
    assert f"Not tried, as the time was up: `{other['id']}`" in page.read_text()


def test_an_id_that_takes_too_long_is_a_row_that_says_so(monkeypatch):
    def slow(*call, timeout, **more):
        raise suites.subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(suites.subprocess, "run", slow)
    row = suites.row_of(suites.cases()[0], sys.executable, 3.0)
    assert (row["opened"], row["said"]) == (False, "It did not end within 3 s.")
