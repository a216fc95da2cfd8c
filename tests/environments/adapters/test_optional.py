"""Libraries in extras: without one of them, the sentence says what to install. Their tests are in `tests/with_...`."""

import sys

import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments import adapters


@pytest.mark.parametrize(
    ("name", "package", "id"),
    [
        ("gymnax", "gymnax", "CartPole-v1"),
        ("jaxmarl", "jaxmarl", "MPE_simple_spread_v3"),
        ("jumanji", "jumanji", "Maze-v0"),
        ("brax", "brax", "ant"),
        ("playground", "mujoco_playground", "CartpoleBalance"),
    ],
)
def test_without_a_library_the_error_names_the_extra(monkeypatch, name, package, id):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"fedrl\[{name}\]"):
        getattr(adapters, name)(id)
