"""Every unsound combination is refused when it is built, by a message that names both parts and the way out."""

import re
from dataclasses import replace

import jax
import optax
import pytest

from fedrl.aggregators import mean, median
from fedrl.core.checks import check_above_zero, check_one_of, check_positive
from fedrl.core.component import component
from fedrl.core.errors import ConfigError, FedrlError, RunError, UnsoundError, nearest
from fedrl.core.learner import follows_corrections
from fedrl.core.stage import Noise, Stage
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.learners import adam, add_correction, chain, fedprox, interpolate, mlp, personal, ppo, sgd
from fedrl.stages import clip, quantize, scaffold, top_k
from tests.support.hidden import veil
from tests.support.quadratic import quadratic, valley


def untouched(key, context, server_state, agent_state, update):
    return update, agent_state


def finished(key, shared, update):
    return update, shared


@component("test double")
def noise() -> Stage:
    return Stage(untouched, finish=finished, noise=Noise("a DpEvent", 1.0, "server"))


@component("test double")
def amplify() -> Stage:
    return Stage(untouched, may_increase_norm=True)


LEARNER = quadratic(sgd(0.1))
UNIFORM = mean("uniform")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: federate(LEARNER, UNIFORM, top_k(0.1), summation=veil()),
            ["top_k(0.1)", "veil()", "Leave top_k(0.1) out"],
        ),
        (
            lambda: federate(LEARNER, UNIFORM, clip(1.0), quantize(), summation=veil()),
            ["quantize()", "veil()", "commutes with sums"],
        ),
        (
            lambda: federate(LEARNER, median(), summation=veil()),
            ["median()", "veil()", "such as mean()", "means of groups"],
        ),
        (lambda: federate(LEARNER, UNIFORM, clip(1.0), noise(), amplify()), ["noise()", "amplify()", "Put it before"]),
        (
            lambda: federate(LEARNER, UNIFORM, clip(1.0), noise(), quantize()),
            ["noise()", "quantize()", "Put it before"],
        ),
        (lambda: federate(LEARNER, mean(), clip(1.0), noise()), ["noise()", "mean()", "mean(weighting='uniform')"]),
        (lambda: federate(LEARNER, median(), clip(1.0), noise()), ["noise()", "median()", "mean(weighting='uniform')"]),
        (
            lambda: federate(ppo(valley(), num_envs=2, num_steps=2), mean(), payload="gradient"),
            ["ppo(", "takes several steps", "Use payload='delta'"],
        ),
        (
            lambda: federate(LEARNER, mean(), scaffold(0.1), payload="gradient"),
            ["scaffold(0.1)", "payload='gradient'", "Use payload='delta'"],
        ),
        (
            lambda: federate(LEARNER, mean(), scaffold(0.1)),
            ["scaffold(0.1)", "quadratic(", "does not read corrections", "chain(add_correction(), sgd(...))"],
        ),
        (
            lambda: federate(replace(quadratic(sgd(0.1)), samples=2), mean(), scaffold(0.1)),
            ["scaffold(0.1)", "does not read corrections"],
        ),
    ],
)
def test_an_unsound_combination_is_refused_by_name_and_with_a_cure(build, words):
    with pytest.raises(UnsoundError) as rejected:
        build()
    for word in words:
        assert word in str(rejected.value)


@pytest.mark.parametrize(
    ("aggregator", "stages", "summation"),
    [
        (UNIFORM, (clip(1.0),), veil()),
        (UNIFORM, (amplify(), clip(1.0), noise()), veil()),
        (median(), (clip(1.0), top_k(0.1), quantize()), None),
    ],
)
def test_a_sound_combination_is_built(aggregator, stages, summation):
    assert federate(LEARNER, aggregator, *stages, summation=summation).aggregator == aggregator


@pytest.mark.parametrize(
    ("optimizer", "reads"),
    [
        (sgd(0.1), False),
        (chain(fedprox(0.1), adam(0.1)), False),
        (add_correction(), True),
        (chain(add_correction(), adam(0.1, max_norm=1.0)), True),
        (optax.chain(optax.clip(1.0), add_correction(), optax.sgd(0.1)), True),
        (optax.GradientTransformationExtraArgs(optax.init_empty_state, lambda g, s, p=None, *, context: (g, s)), False),
        (
            optax.GradientTransformationExtraArgs(
                optax.init_empty_state, jax.jit(lambda g, s, p, *, context: (context[1], s))
            ),
            True,
        ),
    ],
)
def test_whether_an_optimiser_reads_corrections_is_read_off_what_it_does(optimizer, reads):
    assert follows_corrections(quadratic(optimizer)) == reads
    for wrapped in (personal(quadratic(optimizer), local=["tail"]), interpolate(quadratic(optimizer))):
        assert follows_corrections(wrapped) == reads
    assert (
        follows_corrections(ppo(cartpole(), network=mlp((4,)), num_envs=2, num_steps=4, optimizer=optimizer)) == reads
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: federate(LEARNER, mean(), local_steps=0),
            "local_steps is 0. It needs to be a whole number, 1 or more",
        ),
        (lambda: federate(LEARNER, mean(), payload="deltas"), "payload is 'deltas'.*Did you mean 'delta'"),
        (lambda: check_positive(agents=3, block=-1), "block is -1"),
        (lambda: check_above_zero(norm=float("inf")), "norm is inf"),
        (
            lambda: check_one_of("x", ("ppo", "a2c"), "learner"),
            "learner is 'x', which is not known. Allowed: a2c, ppo.",
        ),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_the_nearest_name_is_offered_only_if_near():
    assert nearest("poo", ["ppo", "a2c"]) == "Did you mean 'ppo'? Allowed: a2c, ppo."
    assert nearest("zzz", ["ppo", "a2c"]) == "Allowed: a2c, ppo."
    assert nearest("zzz", []) == "Allowed: nothing."


@pytest.mark.parametrize("error", [ConfigError, UnsoundError, RunError])
def test_one_except_clause_catches_all(error):
    assert issubclass(error, FedrlError)


def test_a_message_is_fact_cause_and_cure():
    with pytest.raises(UnsoundError) as rejected:
        federate(LEARNER, median(), summation=veil())
    assert len(re.findall(r"[.] [A-Z]|[.]$", str(rejected.value))) >= 2
