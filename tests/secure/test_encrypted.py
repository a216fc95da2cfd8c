"""Encrypted sums: bit-equal to the sum of the codes, closed to the coordinator, and nothing foreign is added."""

import gc
import stat
import types
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.clocks.devices import clock
from fedrl.core.errors import ConfigError, SecureSumError, TooFewAgentsError
from fedrl.engines.simulate import simulate
from fedrl.environments import fleet, gridworld
from fedrl.federation.federate import federate
from fedrl.learners import q_table, sgd
from fedrl.secure import (
    CiphertextAdder,
    EncryptedSum,
    EncryptedSumPlan,
    EncryptedVector,
    EncryptionKey,
    ckks,
    decrypt,
    encrypt,
    encrypted_sum,
    new_encryption_key,
    ring_sum,
)
from fedrl.secure.ckks import DEGREE, MOST_AGENTS, NOISE_VARIANCE, SCALE, chance_of_noise, make_key_file
from fedrl.secure.sizes import encrypted_phases
from tests.support.quadratic import FLEET, quadratic

MEMBERS, SIZE = (2, 3, 5, 8), 5
RNG = np.random.default_rng(17)
VALUES = RNG.integers(-(2**29), 2**29, (4, SIZE)).astype(np.int32)
ONE = jax.devices()[:1]
PLAN, KEY = EncryptedSumPlan(MEMBERS, SIZE, 2), new_encryption_key()


def vectors(key: EncryptionKey = KEY) -> list[EncryptedVector]:
    return [encrypt(PLAN, key, agent, row) for agent, row in zip(MEMBERS, VALUES, strict=True)]


def adder(*those: EncryptedVector) -> CiphertextAdder:
    found = CiphertextAdder(PLAN)
    for each in those:
        found.receive(each.agent, each)
    return found


def check_updates(agents: int, size: int) -> None:
    """Sums of updates in [-1, 1] are those of their codes bit for bit, and of themselves within the grid."""
    ring = ring_sum(agents, largest=1.0)
    terms = RNG.uniform(-1.0, 1.0, (agents, size)).astype(np.float32)
    terms[:, -1] = 1.0
    codes = np.concatenate([np.asarray(ring.quantize(jnp.asarray(row[None]), jnp.ones(1, bool))) for row in terms])
    opened = encrypted_sum(codes, EncryptedSumPlan(tuple(range(agents)), size, minimum=2))
    assert opened.total.dtype == np.uint32
    np.testing.assert_array_equal(opened.total.view(np.int32), codes.sum(axis=0, dtype=np.int64))
    found, exact = ring.total([opened.total.view(np.int32)[None]]), terms.astype(np.float64).sum(axis=0)
    error = np.abs(found - exact).max()
    print(
        f"K = {agents}, d = {size:,}: error {error:.1e}, {opened.costs['vectors'].up_bytes / agents / size:.2f} bytes"
    )
    assert error <= 1e-7
    assert opened.costs["vectors"].up_bytes <= 8 * agents * size + 1000 * agents


def test_updates_add_up_within_1e_7() -> None:
    check_updates(10, 20_000)


def test_a_million_numbers_add_up_within_1e_7() -> None:
    check_updates(2, 1_000_000)


@pytest.mark.parametrize("agents", [2, 10, 50])
def test_the_largest_entries_add_up_exactly_in_any_pattern(agents: int) -> None:
    """Equal slots make one coefficient of the polynomial as large as it can be, and it must not reach the modulus."""
    plan = EncryptedSumPlan(tuple(range(agents)), DEGREE, minimum=2)
    patterns = [np.ones(DEGREE), -np.ones(DEGREE), RNG.choice([-1, 1], DEGREE), RNG.integers(-1, 2, DEGREE)]
    for pattern in patterns:
        rows = np.tile((pattern * plan.largest).astype(np.int32), (agents, 1))
        total = encrypted_sum(rows, plan, key=KEY).total.view(np.int32)
        np.testing.assert_array_equal(total, rows.sum(axis=0, dtype=np.int64))


def test_noise_is_what_the_bound_of_agents_counts_on() -> None:
    agents, plan = 50, EncryptedSumPlan(tuple(range(50)), DEGREE, minimum=2)
    found = CiphertextAdder(plan)
    for agent in plan.members:
        found.receive(agent, encrypt(plan, KEY, agent, np.zeros(DEGREE, np.int32)))
    noise = ckks.decrypted(KEY, found.sum().content, DEGREE)
    expected = np.sqrt(DEGREE / 2 * agents * NOISE_VARIANCE) / SCALE
    # Two slots of one polynomial share its coefficients, so 4096 numbers tell a deviation to about one in ninety.
    assert 0.9 * expected < noise.std() < 1.1 * expected
    assert chance_of_noise(MOST_AGENTS, 0.25) < 2.0**-128 < chance_of_noise(2 * MOST_AGENTS, 0.25)


def reachable(start: object) -> list[object]:
    """All objects that can be reached from one, but for modules, classes and functions."""
    seen, rest = {}, [start]
    while rest:
        each = rest.pop()
        if id(each) not in seen and not isinstance(each, types.ModuleType | types.FunctionType | type):
            seen[id(each)] = each
            rest += gc.get_referents(each)
    return list(seen.values())


def test_the_coordinator_has_no_key_and_what_it_has_does_not_decrypt() -> None:
    coordinator = adder(*vectors())
    found = [*reachable(coordinator), *reachable(ckks._context())]
    names = {type(each).__name__ for each in found}
    assert {"CiphertextAdder", "EncryptedSumPlan", "Ciphertext", "SEALContext"} <= names
    assert not names & {"EncryptionKey", "SecretKey", "Decryptor", "Encryptor", "KeyGenerator", "PublicKey"}
    assert not any(isinstance(each, bytes) and KEY.content in each for each in found)
    assert "EncryptionKey" in {type(each).__name__ for each in reachable([coordinator, KEY])}  # the search finds one
    total = coordinator.sum()
    for _ in range(3):
        with pytest.raises(SecureSumError, match="no sum of 4 vectors"):
            decrypt(PLAN, new_encryption_key(), total)
    assert decrypt(PLAN, KEY, total).view(np.int32).tolist() == VALUES.sum(axis=0).tolist()


def test_equal_vectors_have_other_ciphertexts_and_all_have_one_size() -> None:
    zeros, largest = np.zeros(SIZE, np.int32), np.full(SIZE, PLAN.largest, np.int32)
    contents = [encrypt(PLAN, KEY, 2, each).content for each in (zeros, largest) for _ in range(20)]
    assert len({*contents}) == 40
    assert {len(each) for each in contents} == {ckks.VECTOR_BYTES}


@pytest.mark.parametrize("size", [1, DEGREE, DEGREE + 1])
def test_messages_have_the_bytes_that_follow_from_the_plan(size: int) -> None:
    plan = EncryptedSumPlan(MEMBERS, size, 2)
    costs = encrypted_sum(np.ones((4, size), np.int32), plan).costs
    sending, opening = encrypted_phases(plan)
    assert costs["vectors"][:2] == (4 * sending.up, 4 * sending.down)
    assert costs["opening"][:2] == (opening.up, opening.down)


def test_what_is_opened_has_no_noise_left() -> None:
    """A decrypted number with its noise depends on the key; equal sums have to be opened as equal bits."""
    opened = [decrypt(PLAN, KEY, adder(*vectors()).sum()) for _ in range(3)]
    noisy = [ckks.decrypted(KEY, adder(*vectors()).sum().content, SIZE) for _ in range(2)]
    assert opened[0].tobytes() == opened[1].tobytes() == opened[2].tobytes()
    assert noisy[0].tobytes() != noisy[1].tobytes()


def test_a_vector_under_another_key_is_found_when_the_sum_is_opened() -> None:
    foreign = vectors(new_encryption_key())
    with pytest.raises(SecureSumError, match="under another key"):
        decrypt(PLAN, KEY, adder(*vectors()[:3], foreign[3]).sum())


TOO_LARGE = r"^The vector of agent 3 has an entry beyond 536870911, the largest of which the sum of 4 agents fits"
"""It goes to the coordinator, so it does not say how large the entry is."""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.zeros(SIZE), "float64"),
        (np.full(SIZE, np.nan, np.float32), "float32"),
        (np.zeros(SIZE - 1, np.int32), "has 4 entries, and the sum was planned for 5"),
        (np.zeros((1, SIZE), np.int32), r"int32 \[1, 5\]"),
        (np.full(SIZE, PLAN.largest + 1, np.int32), TOO_LARGE),
        (np.full(SIZE, -(2**31), np.int32), TOO_LARGE),
    ],
)
def test_a_vector_that_does_not_fit_is_refused_before_it_is_hidden(wrong: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        encrypt(PLAN, KEY, 3, wrong)


def test_bytes_that_are_no_vector_are_left_out_and_the_sum_is_that_of_the_others() -> None:
    first, second, third, _ = vectors()
    coordinator, whole = adder(first, second), third.content
    of_another_size = encrypt(EncryptedSumPlan(MEMBERS, DEGREE + 1, 2), KEY, 5, np.zeros(DEGREE + 1, np.int32)).content
    endless = whole[:8] + (2**63).to_bytes(8, "little") + whole[16:]  # in the header of SEAL
    cut = ckks.serialised(ckks.added([], whole, SIZE))[: len(whole)]
    for content in (b"", whole[:-1], whole + b"x", bytes(len(whole)), of_another_size, endless, cut):
        with pytest.raises(SecureSumError, match="vector of agent 5 is left out"):
            coordinator.receive(5, EncryptedVector(5, content))
    rejected = 0
    for _ in range(400):
        content = bytearray(whole)
        for at in RNG.integers(0, 200, RNG.integers(1, 4)):
            content[at] = RNG.integers(256)
        try:
            # Into a sum of its own: what passes is random numbers, and would be one in the other sum.
            adder().receive(5, EncryptedVector(5, bytes(content)))
        except SecureSumError:
            rejected += 1
    assert rejected > 300
    coordinator.receive(5, third)
    total = coordinator.sum()
    assert total.included == (2, 3, 5)
    assert decrypt(PLAN, KEY, total).view(np.int32).tolist() == VALUES[:3].sum(axis=0).tolist()
    with pytest.raises(SecureSumError, match="61999 bytes are no ciphertexts of 5 entries, which have 62000"):
        decrypt(PLAN, KEY, EncryptedSum(total.included, total.content[:-1]))


def test_each_invited_agent_sends_one_vector_of_its_own() -> None:
    coordinator, sent = CiphertextAdder(PLAN), vectors()[0]
    for sender, vector in ((3, sent), (9, EncryptedVector(9, sent.content))):
        with pytest.raises(SecureSumError, match=f"Agent {sender} sent a vector that is another agent's"):
            coordinator.receive(sender, vector)
    coordinator.receive(2, sent)
    with pytest.raises(SecureSumError, match="a second one"):
        coordinator.receive(2, sent)


def test_a_sum_of_too_few_is_neither_given_out_nor_opened() -> None:
    plan = EncryptedSumPlan(MEMBERS, SIZE, minimum=3)
    with pytest.raises(TooFewAgentsError, match="2 agents are there, and the plan asks for 3"):
        encrypted_sum(VALUES, plan, {2: "vectors", 3: "vectors"})
    whole = adder(*vectors()).sum()
    with pytest.raises(TooFewAgentsError, match="2 agents are there"):
        decrypt(plan, KEY, EncryptedSum((2, 3), whole.content))
    for included in ((2, 3, 4), (2, 2, 3)):
        with pytest.raises(SecureSumError, match="not invited"):
            decrypt(PLAN, KEY, EncryptedSum(included, whole.content))


def test_whoever_is_left_opens_the_sum_of_the_vectors_that_arrived() -> None:
    opened = encrypted_sum(VALUES, PLAN, {2: "opening", 3: "vectors", 5: "opening"})
    assert opened.included == (2, 5, 8)
    assert opened.total.view(np.int32).tolist() == VALUES[[0, 2, 3]].sum(axis=0).tolist()
    with pytest.raises(TooFewAgentsError, match="All agents left"):
        encrypted_sum(VALUES, PLAN, dict.fromkeys(MEMBERS, "opening"))


@pytest.mark.parametrize("wrong", [{"minimum": 1}, {"minimum": 5}, {"members": (2, 1)}, {"size": 0}])
def test_a_plan_that_hides_nothing_is_rejected(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=r"Use a minimum|ascending"):
        EncryptedSumPlan(**({"members": MEMBERS, "size": 3, "minimum": 2} | wrong))


def test_more_agents_than_the_noise_allows_are_refused_when_the_summation_is_built() -> None:
    assert ring_sum(MOST_AGENTS, 1.0, protocol="ckks").opens == "sum"
    with pytest.raises(ConfigError, match=r"agents is 16385.*half a unit.*protocol='masks'"):
        ring_sum(MOST_AGENTS + 1, 1.0, protocol="ckks")


def test_a_key_is_a_file_of_its_owner(tmp_path) -> None:
    path = tmp_path / "sum.key"
    KEY.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    total = decrypt(PLAN, EncryptionKey.read(path), adder(*vectors()).sum())
    assert total.view(np.int32).tolist() == VALUES.sum(axis=0).tolist()
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640"):
        EncryptionKey.read(path)
    with pytest.raises(ConfigError, match="10 bytes are no key of encrypted sums"):
        EncryptionKey(b"0123456789")
    assert "content" not in repr(KEY)


def test_a_key_is_made_in_no_place_that_is_taken_and_what_is_wrong_is_a_sentence(tmp_path) -> None:
    path, link = tmp_path / "sum.key", tmp_path / "link.key"
    make_key_file(path)
    made = path.read_bytes()
    link.symlink_to(tmp_path / "nothing")
    for taken in (path, link, tmp_path):
        with pytest.raises(ConfigError, match=f"^{taken} exists"):
            make_key_file(taken)
    assert path.read_bytes() == made
    assert link.is_symlink()
    with pytest.raises(ConfigError, match="can't be written"):
        make_key_file(tmp_path / ("k" * 300))


def test_tables_learn_under_encryption_what_they_learn_in_the_ring() -> None:
    floor = gridworld("S..G", max_steps=20)

    def trained(protocol: str) -> list[np.ndarray]:
        summation = ring_sum(3, largest=4.0, protocol=protocol)
        federation = federate(q_table(floor, num_envs=2, num_steps=8), mean("uniform"), summation=summation)
        with simulate(federation, fleet(floor, 3), devices=ONE) as simulation:
            state = simulation.init(0)
            for _ in range(3):
                state, seen = simulation.round(state)
                assert seen.weight == 3.0
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.server.params)]

    plain, closed = trained("none"), trained("ckks")
    assert any(leaf.any() for leaf in plain)
    for one, other in zip(plain, closed, strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_a_clock_agents_leave_and_the_others_are_added() -> None:
    federation = federate(quadratic(sgd(0.1)), mean("uniform"), summation=ring_sum(4, 8.0, protocol="ckks"))
    sending, opening = encrypted_phases(EncryptedSumPlan((0, 1, 2, 3), size=4, minimum=2))  # and the weight
    kept = Counter()
    with simulate(federation, FLEET, clock=clock(latency_s=0.1, phase_drop_out=0.4), devices=ONE) as simulation:
        state = simulation.init(0)
        for _ in range(40):
            state, seen = simulation.round(state)
            phases = [reason.split("'")[1] for _, reason in seen.rejected]
            came = 4 - phases.count("vectors")
            opens = came >= 2 and phases.count("opening") < came
            assert seen.weight == (came if opens else 0)
            assert seen.messages_up == came + opens
            # The parameters to each agent, and the sum to one after the other until one is there.
            assert seen.messages_down == 4 if came < 2 else 5 <= seen.messages_down <= 4 + came
            assert seen.bytes_up == came * sending.up + opens * opening.up
            assert seen.skipped.startswith("a sum was given up") != opens
            kept[opens] += 1
    assert min(kept[True], kept[False]) > 3, kept
