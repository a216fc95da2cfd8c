"""Calibrated noise as simulations add it: of the right scale, independent wherever it should be, alike in all
directions; and the check of it rejects whatever is not."""

import hashlib
import itertools

import jax
import numpy as np
import pytest

from fedrl.clocks import clock
from fedrl.core.keys import NoiseRoot
from fedrl.engines import noise_source
from fedrl.engines.executors import executor as agents_keys
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies import server as servers_keys
from fedrl.federation import agent_half
from fedrl.topologies import tree
from tests.support.fresh_noise import check_calibrated
from tests.support.noisy import SIGMA, fleet_of, noise_of_agents, noise_of_the_server, noisy, of_agents, of_the_server

AGENTS, SIZE, ROUNDS, SERVED = 5, 12, 200, 60
FLEET = fleet_of(AGENTS)
BOTH = noisy(SERVED, in_steps=True)
ENGINES = {
    "blocks": {},
    "a clock": {"clock": clock(step_s=[1.0, 2.0, 3.0, 4.0, 5.0])},
    "a tree of relays": {"topology": tree([2, 2])},
    "from the seed": {"reproducible_noise": True},
}


def drawn(federation=BOTH, **options):
    """Noise of agents `[rounds, agents, SIZE]`, of the server `[rounds, 1, SERVED]`, and of agents' local steps."""
    with simulate(federation, FLEET, devices=jax.devices()[:1], **options) as simulation:
        run_state, by_agents, by_server, local = simulation.init(0), [], [], []
        for _ in range(ROUNDS):
            run_state, record = simulation.round(run_state)
            by_agents.append(of_agents(run_state)[:, :SIZE])
            by_server.append(of_the_server(run_state)[None])
            local.append(record.metrics["local_noise"][:, None])
    return np.stack(by_agents), np.stack(by_server), np.stack(local)


@pytest.fixture(autouse=True)
def known_system(monkeypatch):
    """An operating system whose roots are the same in each run of the tests, so that none fails by chance."""
    numbers = itertools.count()

    def drawn_root(keys):
        del keys
        return NoiseRoot(hashlib.blake2b(str(next(numbers)).encode(), digest_size=32).digest())

    monkeypatch.setattr(noise_source, "noise_of_system", drawn_root)


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_has_its_scale_and_is_independent_and_isotropic(engine):
    by_agents, by_server, local = drawn(**ENGINES[engine])
    check_calibrated(by_agents, SIGMA)
    check_calibrated(by_server, SIGMA)
    # What the stages of an agent add, what its local steps add and what the server adds have nothing in common.
    parts = by_agents[:, 0, :1] / SIGMA, local[:, 0], by_server[:, 0, :1] / SIGMA
    check_calibrated(np.concatenate(parts, axis=1)[:, None], 1.0)


def of_one_key_for(what):
    """Noise keys that forget the version, or the agent."""
    agents, server = agents_keys.turns_noise, servers_keys.server_noise
    if what == "rounds":
        return lambda keys, ids, versions, again: agents(
            keys, ids, [0] * len(ids), again
        ), lambda keys, version: server(keys, 0)
    return lambda keys, ids, versions, again: agents(keys, [0] * len(ids), versions, again), server


@pytest.mark.parametrize("what", ["rounds", "agents"])
def test_a_key_used_twice_is_found(what, monkeypatch):
    own, servers = of_one_key_for(what)
    monkeypatch.setattr(agents_keys, "turns_noise", own)
    monkeypatch.setattr(servers_keys, "server_noise", servers)
    by_agents, by_server, _ = drawn(reproducible_noise=True)
    for draws in (by_agents, by_server) if what == "rounds" else (by_agents,):
        with pytest.raises(AssertionError, match="was there before"):
            check_calibrated(draws, SIGMA)


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_scale_5_percent_off_is_found(factor):
    off = noisy(SERVED, noise_of_agents(factor * SIGMA), noise_of_the_server(factor * SIGMA))
    for draws in drawn(off)[:2]:
        with pytest.raises(AssertionError, match="the variance is"):
            check_calibrated(draws, SIGMA)


def test_one_key_of_local_steps_and_stages_is_found(monkeypatch):
    def both(size):
        # Local step 1, of 0 and 1, and the second stage would have the same key.
        by_agents, _, local = drawn(noisy(size, noise_of_agents(), in_steps=True, local_steps=2))
        return np.concatenate([by_agents[:, :1, :1] / SIGMA, local[:, :1] / 2**0.5], axis=-1)

    check_calibrated(both(SERVED), 1.0)
    monkeypatch.setattr(agent_half, "IN_STEPS", agent_half.IN_STAGES)
    with pytest.raises(AssertionError, match="goes together"):
        check_calibrated(both(SERVED + 1), 1.0)  # another size, as programs are compiled once


def mixed(amount):
    """A rotation of the coordinates that stretches one direction by a factor, and shrinks all others a little."""
    stretched = np.ones(SIZE)
    stretched[0] = amount
    stretched *= np.sqrt(SIZE / np.square(stretched).sum())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
    return rotation * stretched @ rotation.T


FAULTS = {
    "one direction is wider": lambda x: x @ mixed(1.3),
    "one direction is narrower": lambda x: x @ mixed(0.75),
    "one coordinate is missing": lambda x: x * (np.arange(SIZE) > 0) * np.sqrt(SIZE / (SIZE - 1)),
    "one vector comes again": lambda x: np.concatenate([x[:-1], x[3:4]]),
    "one source is partly another": lambda x: np.concatenate([0.8 * x[:, 1:2] + 0.6 * x[:, :1], x[:, 1:]], axis=1),
    "rounds remember": lambda x: 0.9 * x + np.sqrt(1 - 0.9**2) * np.roll(x, 1, axis=0),
    "it is not centred": lambda x: x + 0.1,
    "it is 5 % too wide": lambda x: 1.05 * x,
    "it is 5 % too narrow": lambda x: 0.95 * x,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_rejects_noise_of_which(fault):
    for seed in range(10):
        x = np.random.default_rng(seed).normal(size=(ROUNDS, AGENTS, SIZE))
        with pytest.raises(AssertionError):
            check_calibrated(FAULTS[fault](x), 1.0)


def test_the_check_takes_white_noise():
    for seed in range(40):
        check_calibrated(np.random.default_rng(seed).normal(size=(ROUNDS, AGENTS, SIZE)), 1.0)
        check_calibrated(np.random.default_rng(seed).normal(size=(ROUNDS, 1, SERVED)), 1.0)
