"""Fleets from tables of agents and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedrl.config import load
from fedrl.config.fleet_tables import fleet_settings
from fedrl.core.errors import ConfigError

WANTED = {"data": ["a.csv", "b.csv"], "capacity": [3.0, 4.5], "floors": [1, 2], "old": [True, False]}
CSV = "data, capacity,floors,old\na.csv,3,1,true\nb.csv,4.5,2,false\n\n"
TOML = """
[[site]]
data = "a.csv"
capacity = 3.0
floors = 1
old = true
[[site]]
data = "b.csv"
capacity = 4.5
floors = 2
old = false
"""


@pytest.mark.parametrize(("name", "text"), [("sites.csv", CSV), ("sites.csv", "\ufeff" + CSV), ("sites.toml", TOML)])
def test_a_file_beside_the_configuration_has_a_row_for_each_agent(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "x.toml").write_text(
        f'environment = "cartpole"\nlearner = "ppo"\nfleet = "{name}"\nfederation = {{aggregator = "mean"}}\n'
    )
    config = load(tmp_path / "x.toml")
    assert config.fleet == WANTED
    assert {type(value) for value in config.fleet["floors"]} == {int}
    assert config.federation.agents == 2


def test_a_table_for_each_agent_is_a_list_for_each_setting() -> None:
    rows = [dict(zip(WANTED, row, strict=True)) for row in zip(*WANTED.values(), strict=True)]
    assert fleet_settings(rows) == WANTED
    assert fleet_settings({"length": {"range": [0.1, 0.9]}}) == {"length": {"range": [0.1, 0.9]}}


def test_a_column_of_mixed_cells_is_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("room\n12\nA3\n")
    assert fleet_settings(str(tmp_path / "x.csv")) == {"room": ["12", "A3"]}


def test_the_number_of_agents_that_is_given_counts() -> None:
    tables = {"name": "x", "environment": "cartpole", "learner": "ppo", "fleet": {"length": [0.5, 0.6]}}
    assert load({**tables, "federation": {}}).federation.agents == 2
    assert load({**tables, "federation": {"agents": 3}}).federation.agents == 3


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.csv", "a,b\n1,2\n3\n", "row 2 is '3', and lacks 2 cells"),
        ("x.csv", "a,b\n1,2\n3,\n", "row 2 is '3,', and lacks b"),
        ("x.csv", "a,a\n1,2\n", "needs a name of its own"),
        ("x.csv", "a,b\n", "has 1 lines"),
        ("x.toml", "a = ", "not valid TOML"),
        ("x.toml", "[[site]]\na = 1\n[[site]]\nb = 1\n", "table 1 (counted from 0) has no 'a'"),
        ("x.txt", "a", "is a .csv or a .toml"),
        ("x.csv", None, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as fault:
        fleet_settings(str(tmp_path / name))
    assert said in str(fault.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "is empty"), ([1], "needs to be a table"), ([{"a": 1}, {}], "has no 'a'"), ([{}, {"a": 1}], "has no 'a'")],
)
def test_what_is_wrong_with_tables_is_said(rows: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fleet_settings(rows)


def test_names_of_sites_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "sites.csv"
    path.write_text('a,b,c,d\n1_1,007,-1,"two\nlines"\n1_2,010,2e0,x\n')
    assert fleet_settings(str(path)) == {
        "a": ["1_1", "1_2"],
        "b": ["007", "010"],
        "c": [-1.0, 2.0],
        "d": ["two\nlines", "x"],
    }
