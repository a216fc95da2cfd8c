"""A value of another type than an argument takes gets one sentence in Python, as it does in a TOML file."""

import json
import subprocess
import sys
import traceback
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import fedrl
from fedrl.aggregators import mean
from fedrl.config import Config, FederationConfig
from fedrl.core.errors import ConfigError
from fedrl.environments import cartpole, gridworld
from fedrl.learners import mlp, normalize, personal, ppo
from fedrl.server import fed_buff
from fedrl.stages import error_feedback

ROOT = Path(__file__).parents[2]
ENVIRONMENT = cartpole()


def federation():
    return fedrl.federate(ppo(ENVIRONMENT), mean())


def fleet():
    return fedrl.fleet(ENVIRONMENT, 3)


def config(**changed):
    return Config(**{"name": "n", "environment": "cartpole", "learner": "ppo", "federation": agents()} | changed)


def agents(**changed):
    return FederationConfig(**{"agents": 3} | changed)


WRONG = [
    (lambda: ppo(gymnasium.make("CartPole-v1")), "environment is <TimeLimit", 'gymnasium("CartPole-v1")'),
    (lambda: ppo("cartpole"), "environment is 'cartpole'", "cartpole()"),
    (lambda: ppo(cartpole), "environment is the function cartpole itself", "not called"),
    (lambda: ppo(ENVIRONMENT, network="mlp"), "network is 'mlp'", "mlp()"),
    (lambda: ppo(ENVIRONMENT, optimizer="adam"), "optimizer is 'adam'", "adam(0.001)"),
    (lambda: ppo(ENVIRONMENT, optimizer=0.1), "optimizer is 0.1", "adam(0.001)"),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), "mean"), "aggregator is 'mean'", "mean()"),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), mean), "aggregator is the function mean itself", "mean()"),
    (lambda: fedrl.federate(ppo, mean()), "learner is the function ppo itself", "ppo(environment)"),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), mean(), "clip"), "stages is 'clip'", "clip(1.0)"),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), mean(), server_optimizer="adam"), "server_optimizer is 'adam'", "adam("),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), mean(), local_steps="3"), "local_steps is '3'", "1 or more"),
    (lambda: fedrl.federate(ppo(ENVIRONMENT), mean(), reports="loss"), "reports is 'loss'", "['loss']"),
    (lambda: fedrl.simulate(federation(), ENVIRONMENT), "fleet is cartpole()", "fedrl.fleet(environment, agents)"),
    (lambda: fedrl.simulate(federation(), 10), "fleet is 10", "fedrl.fleet(environment, agents)"),
    (lambda: fedrl.simulate(ppo(ENVIRONMENT), fleet()), "federation is ppo(", "federate(ppo(environment), mean())"),
    (lambda: fedrl.simulate(federation(), fleet(), scheduler="fed_buff"), "scheduler is 'fed_buff'", "fed_buff(10)"),
    (lambda: fedrl.simulate(federation(), fleet(), topology="ring"), "topology is 'ring'", "gossip(ring()"),
    (lambda: fedrl.simulate(federation(), fleet(), clock=3.0), "clock is 3.0", "clock(step_s=1.0)"),
    (lambda: config(rounds="1"), "rounds is '1', a string", "without quotes"),
    (lambda: agents(agents="3"), "federation.agents is '3', a string", "without quotes"),
    (lambda: agents(local_steps="3"), "federation.local_steps is '3', a string", "without quotes"),
    (lambda: config(seeds=["0"]), "an entry of seeds is '0'", "without quotes"),
    (lambda: fedrl.fleet("cartpole", 3), "environment is 'cartpole'", "cartpole()"),
    (lambda: fedrl.fleet(ENVIRONMENT, "3"), "agents is '3', a string", "without quotes"),
    (lambda: fedrl.fleet(ENVIRONMENT, -1), "agents is -1", "1 or more"),
    (lambda: fedrl.fleet(ENVIRONMENT, 3, {"length": 1e39}), "length would be", "float32"),
    (lambda: fedrl.fleet(ENVIRONMENT, 3, {"length": "long"}), "length is 'long'", "finite numbers"),
    (lambda: fedrl.fleet(gridworld(), 3, {"slip": 2.0}), "slip is 2.0", "from 0 to 1"),
    (lambda: error_feedback("sign"), "is 'sign'", "clip(1.0)"),
    (lambda: normalize("ppo"), "learner is 'ppo'", "ppo(environment)"),
    (lambda: personal(ppo(ENVIRONMENT), local="actor"), "local is 'actor'", "['actor']"),
    (lambda: fed_buff(2, staleness="polynomial"), "staleness is 'polynomial'", "polynomial(0.5)"),
]


def said_of(build):
    """Return the sentence of an error; the traceback of what is no sentence."""
    try:
        build()
    except ConfigError as error:
        return str(error)
    except Exception:
        return traceback.format_exc()
    return "no error"


@pytest.fixture(scope="module")
def said():
    """What each line says in a process of its own, as the type checker of the tests is not there for users."""
    code = "import json; from tests.config.test_types import WRONG, said_of; "
    code += "print(json.dumps([said_of(build) for build, *_ in WRONG]))"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.parametrize("i", range(len(WRONG)), ids=[cause for _, cause, _ in WRONG])
def test_a_wrong_type_gets_one_sentence_with_value_and_cure(said, i):
    _, cause, cure = WRONG[i]
    assert cause in said[i]
    assert cure in said[i]
    assert "\n" not in said[i]


def numbers_of_numpy():
    """Build parts from arrays, ranges and numbers of NumPy."""
    ppo(ENVIRONMENT, num_envs=np.int64(4), gamma=np.float32(0.9), clip=np.array(0.2))
    mlp(np.array([4, 4]))
    mlp(range(4, 6))
    assert config(rounds=np.int64(3), seeds=np.int32(2)).seed_list == [0, 1]
    assert agents(local_steps=np.int64(2)).local_steps == 2


def test_numbers_of_numpy_arrays_and_ranges_are_numbers():
    code = "from tests.config.test_types import numbers_of_numpy; numbers_of_numpy()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
