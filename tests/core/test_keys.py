"""Every key of a round: what it is drawn from, and that no two draws are alike but those that are meant to be.

The functions of `jax.random` are replaced by some that note the keys they are given, also inside compiled programs. So
what is listed is what is drawn, in a round of the engine.
"""

import inspect
import itertools
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedrl
from fedrl.aggregators import mean, median, weight_by_diversity
from fedrl.clocks import clock
from fedrl.core.keys import (
    Keys,
    Stream,
    agent_secret,
    derived,
    keys_below,
    keys_of,
    noise_data,
    noise_of_seed,
    server_data,
    server_noise,
    server_secret,
    stream_key,
    turn_data,
    turns,
    turns_noise,
)
from fedrl.engines import program_cache as sharing
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip, hierarchy
from fedrl.environments import cartpole, gridworld
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from fedrl.federation.parts import part
from fedrl.learners import (
    a2c,
    accept_if_better,
    adam,
    apfl,
    interpolate,
    mlp,
    normalize,
    personal,
    ppo,
    q_table,
    reinforce,
    sgd,
)
from fedrl.server.schedules import fed_buff, synchronous
from fedrl.stages import error_feedback, partition_by_size, quantize, random_k
from fedrl.topologies import metropolis, ring, tree

SHARED = {
    "random entries": ("random_k.py", "sender and receiver draw the places of entries from one seed, which is sent"),
    "accept_if_better": ("environment.py", "both policies of a trial play the same episodes"),
}
"""Of a federation, the module whose draws are made twice on purpose, and why.

Besides, whoever needs the first parameters of a run makes them anew: a root above other servers, an agent that has lost
its memory.
"""
DRAWING = ("bits", "uniform", "normal", "randint", "permutation", "choice", "bernoulli", "categorical", "gumbel")
SOURCE = Path(fedrl.__file__).parent


class Ledger:
    """What was done with keys, by their data: `("draw", key, place)`, `("split", ...)`, `("fold", ...)`."""

    def __init__(self):
        self.entries = []

    def note(self, kind, key):
        place = next((Path(f.filename).name for f in inspect.stack()[2:] if f.filename.startswith(str(SOURCE))), "test")

        words = jax.random.key_data(key).shape[-1]

        def noted(data):
            self.entries.extend((kind, row.tobytes(), place) for row in np.asarray(data).reshape(-1, words))

        jax.debug.callback(noted, jax.random.key_data(key))

    def taken(self):
        """What was noted since the last time."""
        jax.effects_barrier()
        found, self.entries = self.entries, []
        return found


@pytest.fixture
def ledger(monkeypatch):
    """All that is drawn while a test runs; programs of before are not used again."""
    kept = Ledger()

    def noting(kind, function):
        def noted(key, *given, **named):
            kept.note(kind, key)
            return function(key, *given, **named)

        return noted

    for name in DRAWING:
        monkeypatch.setattr(jax.random, name, noting("draw", getattr(jax.random, name)))
    for kind, name in (("split", "split"), ("fold", "fold_in")):
        monkeypatch.setattr(jax.random, name, noting(kind, getattr(jax.random, name)))
    jax.clear_caches()
    sharing.forget()
    yield kept
    jax.clear_caches()
    sharing.forget()


SMALL = {"network": mlp([4]), "num_envs": 2, "num_steps": 4}
CART, GRID = cartpole(max_steps=5), gridworld()
CODES = (quantize(4),)
TIMED = {"scheduler": fed_buff(2), "clock": clock(step_s=[1.0, 1.3, 1.7, 2.3]), "merges": 2}


def basic():
    """Made anew for each test: a policy holds the functions by which it draws."""
    return a2c(CART, **SMALL)


def tabular():
    """Quickly compiled, where the learner is not the point."""
    return q_table(GRID, num_envs=2, num_steps=3)


FEDERATIONS = {
    "q_table": lambda: (federate(q_table(GRID, num_envs=2, num_steps=3), mean(), *CODES, local_steps=2), {}),
    "reinforce": lambda: (federate(reinforce(CART, network=mlp([4]), episodes_per_step=2), mean(), local_steps=2), {}),
    "a2c": lambda: (federate(basic(), median(), *CODES, local_steps=2), {}),
    "gradients": lambda: (
        federate(basic(), mean(), *CODES, payload="gradient", local_steps=3, server_optimizer=sgd(0.1)),
        {},
    ),
    "ppo": lambda: (
        federate(
            ppo(CART, **SMALL, num_epochs=2, num_minibatches=2), mean(), server_optimizer=adam(0.01), local_steps=2
        ),
        {},
    ),
    "normalize": lambda: (federate(normalize(basic()), mean(), local_steps=2), {}),
    "personal": lambda: (federate(personal(basic(), local=["actor"]), mean(), *CODES), {}),
    "interpolate": lambda: (federate(interpolate(basic(), 0.5), mean()), {}),
    "apfl": lambda: (federate(apfl(basic()), mean()), {}),
    "accept_if_better": lambda: (federate(accept_if_better(basic(), trials=2), mean()), {}),
    "stages": lambda: (
        federate(tabular(), weight_by_diversity(), error_feedback(partition_by_size(9, quantize(2), quantize(4)))),
        {},
    ),
    "random entries": lambda: (federate(tabular(), mean(), random_k(0.5), quantize(8)), {}),
    "parts": lambda: (
        federate(basic(), mean(), *CODES, parts=[part("critic", median()), part("actor", every=2)]),
        {},
    ),
    "down": lambda: (federate(tabular(), mean(), *CODES, down_stages=CODES), {}),
    "tree": lambda: (
        federate(tabular(), mean(), *CODES, down_stages=CODES),
        {"topology": hierarchy(tree([2], [1, 2]))},
    ),
    "relays": lambda: (federate(tabular(), mean(), *CODES), {"topology": hierarchy(tree([2]))}),
    "nested": lambda: (federate(as_learner(federate(tabular(), mean(), *CODES), 2), mean(), *CODES), {}),
    "CHOCO": lambda: (
        federate(tabular(), mean(), quantize(8)),
        {"topology": gossip(ring(), metropolis(), consensus_steps=2)},
    ),
    "FedBuff": lambda: (federate(tabular(), mean(), *CODES, local_steps=2), TIMED),
    "restarts": lambda: (
        federate(tabular(), mean(), *CODES),
        {"scheduler": synchronous(), "clock": clock(restart=0.4, malformed=0.3)},
    ),
    "Gymnasium": lambda: (
        federate(a2c(gymnasium("CartPole-v1", max_steps=5), **SMALL), mean(), *CODES, local_steps=2),
        {"workers": 0},
    ),
}


def fleet_of(federation, agents=4):
    params = federation.learner.environment.params
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (agents, *jnp.shape(x))), params)


@pytest.mark.parametrize("name", FEDERATIONS)
def test_no_two_draws_of_a_run_have_one_key(name, ledger):
    federation, options = FEDERATIONS[name]()
    fleet = fleet_of(federation)
    if name == "nested":
        fleet = jax.tree.map(lambda x: jnp.stack([x[:2]] * 4), fleet)
    with simulate(federation, fleet, block=1, devices=jax.devices()[:1], **options) as simulation:
        ledger.taken()
        federation.init_server(stream_key(keys_of(3), Stream.SERVER))
        first = {key for kind, key, _ in ledger.taken() if kind == "draw"}
        run_state, rounds = simulation.init(3), []
        begun = ledger.taken()
        for _ in range(3):
            run_state, _ = simulation.round(run_state)
            rounds += ledger.taken()
    twice, _ = SHARED.get(name, ("", ""))
    assert any(key in first for _, key, _ in begun) or not first
    apart([entry for entry in begun + rounds if entry[1] not in first and entry[2] != twice])
    assert sum(kind == "draw" for kind, *_ in rounds) > 8


def apart(entries):
    """Refuse draws by one key, draws by a key that has others below it, and two ways to make keys below one."""
    drawn = Counter((key, place) for kind, key, place in entries if kind == "draw")
    twice = {place for (_, place), count in drawn.items() if count > 1}
    assert not twice, f"drawn twice by one key in {twice}"
    keys = Counter(key for key, _ in drawn)
    assert max(keys.values(), default=1) == 1, "two places draw by one key"
    above = {kind: {key: place for found, key, place in entries if found == kind} for kind in ("split", "fold")}
    both = set(above["split"]) & set(above["fold"])
    assert not both, f"split and folded: {[(above['split'][key], above['fold'][key]) for key in both]}"
    parents = {key: place for places in above.values() for key, place in places.items()}
    assert not set(keys) & set(parents), f"drawn and derived from: {[parents[k] for k in set(keys) & set(parents)]}"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda key: [jax.random.normal(key), jax.random.uniform(key)],
        lambda key: [jax.random.normal(key), jax.random.normal(jax.random.fold_in(key, 1))],
        lambda key: [jax.random.normal(jax.random.split(key)[0]), jax.random.normal(jax.random.fold_in(key, 7))],
        lambda key: [jax.random.normal(jax.random.fold_in(key, 0)), jax.random.normal(jax.random.split(key)[0])],
    ],
)
def test_a_key_that_is_used_twice_is_found(wrong, ledger):
    jax.jit(wrong)(jax.random.key(0))
    with pytest.raises(AssertionError):
        apart(ledger.taken())


def test_keys_of_all_parties_versions_and_purposes_differ():
    keys, found = keys_of(0), []
    run = keys.run.tobytes()
    for version in range(4):
        for agent in range(4):
            secret = agent_secret(keys, agent)
            found += [turn_data(run, secret, version, agent, again) for again in range(2)]
        for level in range(3):
            for number in range(3):
                found += [server_data(server_secret(keys, level, number), version, again) for again in range(2)]
    rows = Counter(row.tobytes() for data in found for row in data)
    noise = [noise_data(noise_of_seed(keys), *path) for path in itertools.product(range(2), *[range(3)] * 4)]
    assert len({each.tobytes() for each in noise}) == 2 * 3**4
    noisy = keys._replace(noise=noise_of_seed(keys))
    agents, versions, again = zip(*itertools.product(range(4), range(4), range(2)), strict=True)
    servers = [server_noise(noisy, *path) for path in itertools.product(range(4), range(3), range(3))]
    both = [*turns_noise(noisy, agents, versions, again), *servers]
    assert len({each.tobytes() for each in both}) == 4 * 4 * 2 + 4 * 3 * 3
    server_state = 4 * 9 * 2  # who sends a version twice draws once for its rule and once for its stages
    assert len(rows) == 4 * 4 * 2 * 3 + 4 * 9 * 4
    assert sum(count - 1 for count in rows.values()) == server_state


def roots_of(keys):
    """All roots of a run, with that of noise which follows from its seed."""
    return [keys.run.tobytes(), keys.secrets.tobytes(), bytes(noise_of_seed(keys))]


@pytest.mark.parametrize("other", [1, 2**32, 2**63, -1, 10**30])
def test_every_bit_of_a_seed_counts(other):
    for mine, theirs in zip(roots_of(keys_of(0)), roots_of(keys_of(other)), strict=True):
        assert mine != theirs


def test_a_run_key_tells_nothing_of_secrets():
    """Whoever has the root of the run derives none of the keys of stages: those follow from other bytes."""
    keys = keys_of(5)
    known = Keys(keys.run, np.zeros(8, np.uint32))
    mine, theirs = (np.asarray(turns(each, [2], [1], [0]))[0] for each in (keys, known))
    np.testing.assert_array_equal(mine[:2], theirs[:2])
    assert (mine[2] != theirs[2]).any()
    assert not (keys.run == keys.secrets).any()


def test_a_run_that_goes_on_from_another_has_keys_of_its_own():
    keys = keys_of(0)
    below = keys_below(keys, Stream.TUNING, 0)
    for mine, theirs in zip(roots_of(keys), roots_of(below), strict=True):
        assert mine != theirs
    assert (below.run != keys_below(keys, Stream.TUNING, 1).run).any()


def test_keys_are_the_same_everywhere():
    """A hash of bytes in one order: a network has agents of all kinds."""
    assert derived(bytes(32), Stream.TRAINING, 1, 2, 3).dtype == np.uint32
    first = derived(bytes(32), Stream.TRAINING, 1, 2, 3)
    np.testing.assert_array_equal(first, derived(bytes(32), Stream.TRAINING, 1, 2, 3))
    assert (first != derived(bytes(32), Stream.TRAINING, 1, 2, 4)).any()
    assert (first != derived(bytes(32), Stream.ENCODE, 1, 2, 3)).any()
    assert (first != derived(b"\1" + bytes(31), Stream.TRAINING, 1, 2, 3)).any()
