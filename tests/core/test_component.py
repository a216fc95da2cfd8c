"""A component remembers the call that made it: print, equality, digest and citation all come from that."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.core.component import CATALOGUE, Call, call_of, calls_in, cite, component, record
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.learners import adam, chain, fedprox, mlp, ppo, sgd
from fedrl.server import fedadam
from fedrl.stages import clip, error_feedback, quantize, top_k
from tests.support.quadratic import quadratic


@record
class Thing:
    call: Call | None = None


@component("test double", reference="Nobody (1900), https://example.org")
def thing(size, *parts, shape: tuple = (), flag: bool = False, function=None) -> Thing:
    """A thing for tests. And more."""
    return Thing()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (mean(), "mean()"),
        (mean("uniform"), "mean(weighting='uniform')"),
        (mean(weighting="samples"), "mean()"),
        (clip(norm=2.0), "clip(2.0)"),
        (error_feedback(top_k(0.1), quantize(4)), "error_feedback(top_k(0.1), quantize(bits=4))"),
        (thing(3), "thing(3)"),
        (thing(3, clip(1.0), shape=(2, 3), flag=True), "thing(3, clip(1.0), shape=(2, 3), flag=True)"),
        (thing(size=1, function=np.tanh), "thing(1, function=tanh)"),
        (
            federate(quadratic(sgd(0.1)), mean(), clip(1.0), local_steps=2),
            "federate(quadratic(sgd(0.1)), mean(), clip(1.0), local_steps=2)",
        ),
        (ppo(cartpole(), network=mlp((8,))), "ppo(cartpole(), network=mlp(hidden=(8,)))"),
    ],
)
def test_a_component_prints_as_the_shortest_call_that_makes_it(value, text):
    assert repr(value) == text


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (sgd(0.1), "sgd(0.1)"),
        (adam(1e-3, max_norm=0.5), "adam(0.001, max_norm=0.5)"),
        (chain(fedprox(0.1), adam(1e-3)), "chain(fedprox(0.1), adam(0.001))"),
        (fedadam(tau=0.1), "fedadam(tau=0.1)"),
    ],
)
def test_an_optax_transformation_remembers_its_call_too(optimizer, text):
    assert repr(call_of(optimizer)) == text
    assert isinstance(optimizer, optax.GradientTransformation)


def test_components_are_equal_if_their_calls_are():
    assert mean() == mean(weighting="samples")
    assert hash(mean()) == hash(mean("samples"))
    assert mean() != mean("uniform")
    assert clip(1.0) != mean()
    assert error_feedback(top_k(0.1)) == error_feedback(top_k(0.1))
    assert error_feedback(top_k(0.1)) != error_feedback(top_k(0.2))
    assert {mean(): 1}[mean()] == 1


def scaling(factor, by=0.0):
    return lambda x, offset=by: factor * x + offset


def test_functions_are_equal_if_they_do_the_same():
    assert thing(1, function=lambda x: x + 1) == thing(1, function=lambda x: x + 1)
    assert thing(1, function=lambda x: x + 1) != thing(1, function=lambda x: x + 2)
    assert thing(1, function=scaling(2.0)) == thing(1, function=scaling(2.0))
    assert hash(thing(1, function=scaling(2.0))) == hash(thing(1, function=scaling(2.0)))
    assert thing(1, function=scaling(2.0)) != thing(1, function=scaling(3.0))
    assert thing(1, function=scaling(2.0)) != thing(1, function=scaling(2.0, 1.0))
    assert thing(1, function=scaling(clip(1.0))) == thing(1, function=scaling(clip(1.0)))
    assert thing(1, function=scaling(clip(1.0))) != thing(1, function=scaling(clip(2.0)))
    assert thing(optax.adam(0.1)) == thing(optax.adam(0.1))
    assert thing(optax.adam(0.1)) != thing(optax.adam(0.2))
    assert thing(1, function=NamedTuple("Pair", [("x", int)])) == thing(1, function=NamedTuple("Pair", [("x", int)]))


def test_a_function_whose_content_can_not_be_read_counts_by_its_name():
    assert thing(1, function=scaling(iter([1]))) == thing(1, function=scaling(iter([2])))
    assert thing(1, function=scaling(iter([1]))) != thing(1, function=np.tanh)


def holding(x):
    return x, HOLDER


HOLDER = thing(1, function=holding)


def test_a_function_may_refer_to_a_component_that_holds_it():
    assert thing(1, function=holding) == HOLDER
    assert repr(HOLDER) == "thing(1, function=holding)"


def test_records_without_a_call_are_equal_only_to_themselves():
    one, other = Thing(), Thing()
    assert one == one  # noqa: PLR0124
    assert one != other
    assert repr(one) == "<Thing without a constructor call>"


@pytest.mark.parametrize(
    ("built", "altered"),
    [
        (mean(), replace(mean(), needs="each")),
        (quadratic(sgd(0.1)), replace(quadratic(sgd(0.1)), samples=2)),
        (sgd(0.1), sgd(0.1)._replace(update=adam(0.1).update)),
        (sgd(0.1), optax.GradientTransformation(sgd(0.1).init, optax.adam(0.1).update)),
    ],
    ids=["record", "nested", "optax", "optax anew"],
)
def test_what_is_altered_forgets_the_call_that_built_it(built, altered):
    assert call_of(built) is not None
    assert call_of(altered) is None
    assert altered != built


def test_a_constructor_may_return_what_another_built_and_both_keep_their_calls():
    inner = mean()

    @component("test double")
    def renamed():
        return inner

    assert (repr(renamed()), repr(inner)) == ("renamed()", "mean()")
    del CATALOGUE["test double", "renamed"]


def test_a_digest_covers_every_argument_defaults_included():
    digests = [
        call_of(value).digest
        for value in (
            thing(1),
            thing(2),
            thing(1, 2),
            thing(1, shape=(2,)),
            thing(1, flag=True),
            thing(np.float32([1.0, 2.0])),
            thing(np.float32([1.0, 2.5])),
            thing(np.float64([1.0, 2.0])),
            thing(1, function=np.tanh),
            thing(1, clip(1.0)),
            thing(1, clip(2.0)),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert call_of(thing(np.float32([1.0, 2.0]))).digest == call_of(thing(np.float32([1.0, 2.0]))).digest
    assert call_of(thing(1, shape=[2])).digest == call_of(thing(1, shape=(2,))).digest  # TOML has lists only


def test_the_digest_of_a_call_is_fixed_across_processes():
    assert call_of(mean()).digest == "263b865b9a62d9c8d2ea9136389a66c3e7fa1b430310819d728a694c49c583ec"


def test_citations_come_from_everything_used_each_once_in_order():
    federation = federate(
        ppo(cartpole(), optimizer=chain(fedprox(0.1), adam(1e-3))), mean(), error_feedback(top_k(0.1), quantize(8))
    )
    names = [source.split(" ")[0].rstrip(",") for source in cite(federation)]
    assert names == ["Schulman", "Barto", "Saxe", "Li", "Kingma", "McMahan", "Seide", "Aji", "Alistarh"]
    assert cite([clip(1.0), clip(2.0)]) == cite(clip(1.0))
    assert cite(object()) == []


def test_calls_are_found_in_tuples_of_components_but_not_in_their_state():
    assert [call.component.name for call in calls_in((clip(1.0), [mean()]))] == ["clip", "mean"]
    assert [call.component.name for call in calls_in(error_feedback(top_k(0.1)))] == ["error_feedback", "top_k"]


def test_the_catalogue_knows_kind_name_summary_signature_and_source():
    entry = CATALOGUE["test double", "thing"]
    assert (entry.kind, entry.name, entry.reference) == ("test double", "thing", "Nobody (1900), https://example.org")
    assert entry.summary == "A thing for tests. And more."
    assert list(entry.signature.parameters) == ["size", "parts", "shape", "flag", "function"]


def test_a_constructor_that_builds_something_without_a_place_for_its_call_is_refused():
    @component("test double")
    def number() -> int:
        return 3

    with pytest.raises(TypeError, match="number built a int, which has no place for its constructor call"):
        number()
    del CATALOGUE["test double", "number"]
