import contextlib

import numpy as np
import pytest

from fedrl.core.errors import WireError
from fedrl.secure import SumPlan, sum_plan
from fedrl.secure.messages import COUNT, HEAD, KINDS, MaskedValues, SurvivorList, decoded, encoded, encoded_size
from tests.support.secure_sums import halted

PLAN = sum_plan(b"messages", tuple(range(3, 27)), 7, degree=6, threshold=5)


@pytest.fixture(scope="module")
def every_kind() -> list:
    there, found = halted("adverts", PLAN), []
    while True:
        sent = {agent: there.step(agent) for agent in there.inbox}
        found += [each for each in (there.inbox[3], sent[3]) if each is not None]
        for agent, message in sent.items():
            there.coordinator.receive(agent, message)
        if there.coordinator.phase == "opening":
            return found
        there = there._replace(inbox=there.coordinator.close())


def same(one, other) -> bool:
    pairs = zip(one, other, strict=True)
    return type(one) is type(other) and all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs
    )


def test_every_kind_comes_back_as_it_was_in_as_many_bytes_as_are_counted(every_kind):
    assert {type(message) for message in every_kind} == set(KINDS)
    for message in every_kind:
        data = encoded(message, PLAN)
        assert same(decoded(data, PLAN), message)
        assert len(data) == encoded_size(message, PLAN)


def test_a_sum_by_bytes_is_the_same(every_kind):
    """All messages of a sum are encoded and decoded on the way."""
    there = halted("adverts", PLAN)
    while True:
        for agent, shown in there.inbox.items():
            arrived = decoded(encoded(shown, PLAN), PLAN) if shown is not None else None
            there.coordinator.receive(agent, decoded(encoded(there.step(agent, arrived), PLAN), PLAN))
        if there.coordinator.phase == "opening":
            break
        there = there._replace(inbox=there.coordinator.close())
    np.testing.assert_array_equal(there.coordinator.total(), there.values.sum(axis=0, dtype=np.uint32))


def test_cut_lengthened_or_foreign_bytes_are_rejected(every_kind):
    other = SumPlan(b"another sum", PLAN.members, 7, 6, 5, 4)
    for message in every_kind:
        data = encoded(message, PLAN)
        for wrong in (b"", data[:5], data[:-1], data + b"\0", b"X" + data[1:], data[:4] + b"\x09" + data[5:]):
            with pytest.raises(WireError):
                decoded(wrong, PLAN)
        with pytest.raises(WireError, match="of another secure sum, or of another plan"):
            decoded(data, other)


def test_changed_bytes_are_rejected_or_another_message_and_nothing_else_happens(every_kind):
    rng = np.random.default_rng(0)
    for message in every_kind:
        data = encoded(message, PLAN)
        for at in rng.integers(0, len(data), 60):
            changed = data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
            with contextlib.suppress(WireError):
                assert not same(decoded(changed, PLAN), message)


def head(kind: str) -> bytes:
    return HEAD.pack(b"FSS3", [each.__name__ for each in KINDS].index(kind), PLAN.digest[:8])


def row(agent: int, size: int) -> bytes:
    return COUNT.pack(agent) + bytes(size)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (head("TagList") + COUNT.pack(2**32 - 1), "announces 4294967295 entries"),
        (head("TagList") + COUNT.pack(8) + bytes(8 * 20), "announces 8 entries"),
        (head("TagList") + COUNT.pack(2) + row(5, 16) + row(5, 16), "names agents twice or out of order"),
        (head("TagList") + COUNT.pack(2) + row(6, 16) + row(5, 16), "names agents twice or out of order"),
        (head("TagList") + COUNT.pack(1) + row(2, 16), "names agent 2, which was not invited"),
        (head("MaskedValues") + COUNT.pack(3) + bytes(24), "was cut off"),
        (head("MaskedValues") + COUNT.pack(3) + bytes(32), "4 bytes too many"),
    ],
)
def test_lengths_and_agents_are_compared_with_the_plan(data, said):
    with pytest.raises(WireError, match=said):
        decoded(data, PLAN)


def test_a_set_with_more_agents_than_were_invited_is_rejected():
    plan = SumPlan(b"odd", tuple(range(10)), 1, 9, 6, 6)
    data = encoded(SurvivorList((0, 9)), plan)
    with pytest.raises(WireError, match="names more agents than were invited"):
        decoded(data[:-1] + b"\xff", plan)


def test_a_masked_vector_has_four_bytes_an_entry():
    assert encoded_size(MaskedValues(3, np.zeros(7, np.uint32)), PLAN) == HEAD.size + 4 + 28
