"""What a stage, a rule or a sum says of itself is so, as far as numbers show, or it is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from fedrl.aggregators import mean, median
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.stage import Noise, Stage, keep_update
from fedrl.core.summation import exact_sum
from fedrl.federation.federate import federate
from fedrl.learners import sgd
from fedrl.stages import clip, flatten, lag, quantize, top_k
from tests.support.hidden import veil
from tests.support.quadratic import quadratic

LEARNER, UNIFORM = quadratic(sgd(0.1)), mean("uniform")


def changing(**made):
    """A stage that puts something else into an update."""

    def encode(key, context, server_state, agent_state, update):
        first = jax.tree.leaves(update.value)[0].ravel()[0]
        return update._replace(**{name: make(first, update) for name, make in made.items()}), agent_state

    return Stage(encode)


def noisy(at="agent", **altered):
    def add(key, update):
        return update._replace(value=jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), update.value))

    def encode(key, context, server_state, agent_state, update):
        return (add(key, update) if at == "agent" else update), agent_state

    def finish(key, server_state, update):
        return add(key, update), server_state

    noise = Noise(None, **({"clip": 1.0, "at": at} | altered))
    return Stage(encode, finish=finish if at == "server" else keep_update, noise=noise)


BESIDE = {
    "a report": (changing(report=lambda x, update: {"mine": x}), r"changes the report \['mine'\].*reports="),
    "statistics": (changing(statistics=lambda x, update: {"mine": update.value}), r"the statistics \['mine'\].*`sums`"),
    "the weight": (changing(weight=lambda x, update: x), "changes the weight.*Set `reweights`"),
    "silence": (replace(lag(), skips_uploads=False), "changes whether a message is sent.*Set `skips_uploads`"),
    "the version": (changing(version=lambda x, update: jnp.int32(x)), "changes the version.*Leave it"),
}


@pytest.mark.parametrize("given", [{}, {"summation": veil()}], ids=["in the clear", "hidden"])
@pytest.mark.parametrize("what", BESIDE)
def test_what_a_stage_sends_beside_the_value_of_an_update_is_declared(what, given):
    stage, words = BESIDE[what]
    words = "is decoded update by update, and veil" if given and stage.decode is not None else words
    with pytest.raises(UnsoundError, match=words):
        federate(LEARNER, UNIFORM, stage, **given)


def test_a_compiled_stage_that_leaves_the_weight_as_it_is_stands():
    encode = jax.jit(
        lambda key, context, server_state, agent_state, update: (
            update._replace(weight=update.weight * 1.0),
            agent_state,
        )
    )
    federate(LEARNER, mean(), Stage(encode))


def scaling(factor, **claims):
    def encode(key, context, server_state, agent_state, update):
        return update._replace(value=jax.tree.map(lambda x: factor * x, update.value)), agent_state

    return Stage(encode, **claims)


UNTRUE = {
    "a clip that clips nothing": ([scaling(1.0, clips=1.0), noisy()], "L2 norm of 1, and scales one of 1e.03 to"),
    "a clip that clips too little": (
        [clip(1.1), replace(clip(1.1), clips=1.0), noisy()],
        "and scales one of .* to 1.1",
    ),
    "what enlarges between": ([clip(1.0), scaling(1.01), noisy()], "enlarges no update, and changes an L2 norm of 1 "),
    "what enlarges for the sum": ([clip(1.0), scaling(1.01), noisy("server")], "enlarges no update"),
    "noise that agents do not add": ([clip(1.0), scaling(1.0, noise=Noise(None, 1.0, "agent"))], "`encode` adds none"),
    "noise that the server does not add": (
        [clip(1.0), scaling(1.0, noise=Noise(None, 1.0, "server"))],
        "`finish` adds none",
    ),
}


@pytest.mark.parametrize("what", UNTRUE)
def test_a_claim_about_noise_or_a_bound_that_numbers_contradict_is_refused(what):
    stages, words = UNTRUE[what]
    with pytest.raises(UnsoundError, match=words):
        federate(LEARNER, UNIFORM, *stages)


@pytest.mark.parametrize(
    "rule",
    [
        replace(median(), divides_by="count"),
        replace(UNIFORM, weigh=lambda update: update.weight),
        replace(UNIFORM, update=lambda key, view, arrivals, state, updates: (
            updates._replace(value=jax.tree.map(lambda x: 2.0 * x.mean(0), updates.value)), state
        )),
    ],
    ids=["a median", "by weights", "twice the mean"],
)  # fmt: skip
def test_a_rule_that_claims_to_count_updates_is_their_mean(rule):
    with pytest.raises(UnsoundError, match="is not their unweighted mean"):
        federate(LEARNER, rule, clip(1.0), noisy("server"))


@pytest.mark.parametrize("at", ["agent", "server"])
def test_what_is_as_it_says_stands(at):
    federate(LEARNER, UNIFORM, clip(1.0), noisy(at))
    federate(LEARNER, UNIFORM, flatten(), clip(2.0), clip(1.0), noisy(at))
    if at == "agent":
        federate(LEARNER, UNIFORM, clip(1.0), noisy(at), scaling(3.0, may_increase_norm=True), top_k(0.5), quantize(8))


KINDS = {
    r"learner is mean\(.*of the type Aggregator": lambda: federate(mean(), mean()),
    "aggregator is the function mean itself": lambda: federate(LEARNER, mean),
    "stages is .* of the type list": lambda: federate(LEARNER, mean(), [clip(1.0)]),
    "stages is the function clip itself": lambda: federate(LEARNER, mean(), clip),
    "summation is 'exact', of the type str": lambda: federate(LEARNER, mean(), summation="exact"),
    "local_steps is 1.5": lambda: federate(LEARNER, mean(), local_steps=1.5),
    "local_steps is True": lambda: federate(LEARNER, mean(), local_steps=True),
    "local_steps is '2'": lambda: federate(LEARNER, mean(), local_steps="2"),
}


@pytest.mark.parametrize("words", KINDS)
def test_what_is_no_part_of_a_federation_is_refused_by_name(words):
    with pytest.raises(ConfigError, match=words):
        KINDS[words]()


WORDS = {
    "noise.at": noisy(at="sevrer"),
    "noise.unit": noisy(unit="agnet"),
    "noise.relation": noisy(relation="add"),
    "noise.clip": noisy(clip=float("inf")),
    "clips": replace(clip(1.0), clips=float("nan")),
}


@pytest.mark.parametrize("field", WORDS)
def test_words_and_sizes_that_mean_nothing_are_refused(field):
    with pytest.raises(ConfigError, match=f"^{field} is "):
        federate(LEARNER, UNIFORM, clip(1.0), WORDS[field])
    with pytest.raises(ConfigError, match=r"^opens is 'Sum'"):
        federate(LEARNER, median(), summation=replace(exact_sum(), opens="Sum"))
