import pytest

from fedrl.core.errors import ConfigError
from fedrl.secure import partition

MEMBERS = tuple(range(100, 123))


def test_groups_follow_from_the_seed_and_hold_everybody_once():
    groups = partition(MEMBERS, 5, b"round 7")
    assert groups == partition(tuple(reversed(MEMBERS)), 5, b"round 7") != partition(MEMBERS, 5, b"round 8")
    assert sorted(agent for group in groups for agent in group) == list(MEMBERS)
    assert sorted(map(len, groups)) == [5, 6, 6, 6]


@pytest.mark.parametrize("size", [0, 1, 24])
def test_groups_that_hide_nothing_or_cannot_be_made_are_rejected(size):
    with pytest.raises(ConfigError, match="Use 2 to 23"):
        partition(MEMBERS, size, b"")
