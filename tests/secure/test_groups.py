import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.secure import AdditivePlan, OpenedSum, additive_sum, group_sums, partition, secure_sum, sum_plan

MEMBERS = tuple(range(100, 123))
VALUES = np.random.default_rng(5).integers(0, 2**32, (23, 4), dtype=np.uint32)


def test_groups_follow_from_the_seed_and_hold_everybody_once():
    groups = partition(MEMBERS, 5, b"round 7")
    assert groups == partition(tuple(reversed(MEMBERS)), 5, b"round 7") != partition(MEMBERS, 5, b"round 8")
    assert sorted(agent for group in groups for agent in group) == list(MEMBERS)
    assert sorted(map(len, groups)) == [5, 6, 6, 6]


@pytest.mark.parametrize("size", [0, 1, 24])
def test_groups_that_hide_nothing_or_cannot_be_made_are_rejected(size):
    with pytest.raises(ConfigError, match="Use 2 to 23"):
        partition(MEMBERS, size, b"")


@pytest.mark.parametrize("protocol", ["masks", "shares"])
def test_each_group_has_its_own_sum_and_one_with_too_few_agents_has_none(protocol):
    groups = partition(MEMBERS, 5, b"round 7")
    leaves = dict.fromkeys(groups[1][:-1], "masked" if protocol == "masks" else "parts") | {
        groups[2][0]: "masked" if protocol == "masks" else "parts"
    }

    def add(rows: np.ndarray, group: tuple[int, ...], number: int) -> OpenedSum:
        gone = {agent: phase for agent, phase in leaves.items() if agent in group}
        context = b"round 7, group %d" % number
        if protocol == "masks":
            return secure_sum(rows, sum_plan(context, group, 4), gone)
        return additive_sum(rows, AdditivePlan(context, group, 4, minimum=2), gone)

    found = group_sums(VALUES, MEMBERS, 5, b"round 7", add)
    assert tuple(each.members for each in found) == groups
    for number, group in enumerate(groups):
        result, stay = found[number].result, [agent for agent in group if agent not in leaves]
        if number == 1:
            assert result is None
            continue
        assert result is not None
        rows = [MEMBERS.index(agent) for agent in stay]
        np.testing.assert_array_equal(result.total, VALUES[rows].sum(axis=0, dtype=np.uint32))
        assert result.included == tuple(stay)
