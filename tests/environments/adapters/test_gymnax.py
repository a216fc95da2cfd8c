"""gymnax is optional; the tests of its environments are in `tests/with_gymnax`."""

import sys

import pytest

from fedrl.core.errors import ConfigError
from fedrl.environments.adapters import gymnax


def test_without_gymnax_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(ConfigError, match=r"fedrl\[gymnax\]"):
        gymnax("CartPole-v1")
