"""Two ends find out whether they speak the same wire, and what differs if they do not."""

import functools
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrl
from fedrl.aggregators import afl, mean, median, q_ffl, weight_by_diversity, weight_by_environment
from fedrl.core.component import CATALOGUE, Call, call_of, component
from fedrl.core.errors import ConfigError, WireError
from fedrl.core.learner import Learner
from fedrl.core.stage import Stage
from fedrl.environments import cartpole, random_mdp, windy_cliff
from fedrl.federation import wire_digest as module
from fedrl.federation.federate import federate
from fedrl.federation.parts import part
from fedrl.federation.wire_digest import (
    PARTS,
    VERSIONS,
    WireDigest,
    as_json,
    differences,
    from_json,
    wire_digest,
)
from fedrl.learners import adam, add_correction, chain, gru, mlp, ppo, q_table, reinforce, sgd
from fedrl.privacy import (
    adaptive_gaussian,
    central_gaussian,
    central_laplace,
    local_gaussian,
    local_laplace,
    progress_gaussian,
)
from fedrl.server import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum
from fedrl.stages import (
    clip,
    download_only,
    error_feedback,
    flatten,
    hard_threshold,
    importance_averaging,
    lag,
    partition_by_size,
    quantize,
    random_k,
    scaffold,
    sign,
    top_k,
    uniform_quantize,
    weight_by_capacity,
    weight_by_improvement,
    weight_by_signal,
)
from fedrl.wire import codec
from tests.support.quadratic import quadratic

STAGES = [
    partition_by_size(2, quantize(4), sign()),
    clip(1.0),
    scaffold(0.1, gradient_steps=2),
    error_feedback(top_k(0.25), quantize(4)),
    flatten(),
    importance_averaging(0.2),
    lag(factor=2.0),
    download_only(["head"]),
    quantize(),
    random_k(0.25),
    sign(),
    hard_threshold(0.5),
    top_k(0.25),
    uniform_quantize(),
    weight_by_capacity([2.0, 1.0]),
    weight_by_improvement(),
    weight_by_signal(),
    central_gaussian(1.0, 0.5, 4.0),
    central_laplace(1.0, 0.5, 4.0),
    local_gaussian(1.0, 0.5),
    local_laplace(1.0, 0.5),
    adaptive_gaussian(1.0, 0.5, 4.0),
    progress_gaussian(1.0, 0.5, 4.0, least=0.1),
]
# The first optimises a matrix for seconds (tests/privacy/test_factorised.py); the other is in secure sums alone, which
# are not there over a network.
ELSEWHERE = {"factorised_gaussian", "distributed_skellam"}
RULES = [afl(4), weight_by_diversity(), weight_by_environment(["length"]), mean(), median(), q_ffl()]
OPTIMIZERS = [fedadagrad(), fedadam(), fedavg(), fedavgm(), fedyogi(), normalized_momentum()]
EXAMPLES = {"stage": STAGES, "aggregator": RULES, "server_optimizer": OPTIMIZERS}
VALLEY = quadratic(sgd(0.1)).environment.params


def end(*stages, learner: Learner | None = None, rule=None, **given) -> WireDigest:
    learner = quadratic(sgd(0.1)) if learner is None else learner
    return wire_digest(
        federate(learner, mean() if rule is None else rule, *stages, **given), learner.environment.params
    )


def differing(mine: WireDigest, theirs: WireDigest) -> dict[str, str]:
    """The sentences of the parts that differ, which go with the digest."""
    found = {each.part: each.sentence for each in differences(mine, theirs) if each.decisive}
    assert (mine.digest == theirs.digest) == (not found)
    assert all("which is decisive" in sentence for sentence in found.values())
    assert list(found) == [name for name in PARTS if name in found]
    return found


def named(value) -> str:
    return repr(call_of(value))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_component_has_an_example(kind):
    known = {
        entry.name for entry in CATALOGUE.values() if entry.kind == kind and entry.build.__module__[:6] == "fedrl."
    }
    assert {call_of(value).component.name for value in EXAMPLES[kind]} == known - ELSEWHERE


def another(value):
    """Something else of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if value is None:
        return 3
    return type(value)([*value, *(value or [clip(9.0)])]) if isinstance(value, list | tuple) else clip(9.0)


ARGUMENTS = [
    pytest.param(value, name, id=f"{named(value)}-{name}")
    for values in EXAMPLES.values()
    for value in values
    for name in call_of(value).arguments
]


def built_with(value, name: str):
    """The component, as if this argument had been another one."""
    call = call_of(value)
    other = Call(call.component, call.arguments | {name: another(call.arguments[name])})
    if isinstance(value, optax.GradientTransformation):
        changed = functools.partial(value.init.func)
        vars(changed).update(call=other, update=value.update)
        return value._replace(init=changed)
    changed = copy(value)
    object.__setattr__(changed, "call", other)
    return changed


@pytest.mark.parametrize(("value", "name"), ARGUMENTS)
def test_every_argument_of_every_component_counts(value, name):
    changed = built_with(value, name)
    kind = {"stage": "stages", "aggregator": "rule"}.get(call_of(value).component.kind, "server optimizer")
    field, of = {
        "stages": ("stages", lambda x: (sign(), x)),
        "rule": ("aggregator", lambda x: x),
        "server optimizer": ("server_optimizer", lambda x: x),
    }[kind]
    federation = federate(quadratic(sgd(0.1)), mean())
    # what crosses is that of the plain federation: only what is said of the component differs
    federation = replace(federation, **{field: of(value)})
    found = differing(wire_digest(federation, VALLEY), wire_digest(replace(federation, **{field: of(changed)}), VALLEY))
    assert list(found) == [kind]
    if named(value) != named(changed):
        assert f"{named(value)} here and {named(changed)} there" in found[kind]


CHANGES: dict[str, tuple[Callable[[], WireDigest], Callable[[], WireDigest], set[str], str]] = {
    "an argument": (
        lambda: end(top_k(0.2)),
        lambda: end(top_k(0.9)),
        {"stages", "update"},
        "top_k(0.2) here and top_k(0.9) there",
    ),
    "a default": (
        lambda: end(quantize()),
        lambda: end(quantize(7)),
        {"stages", "update"},
        "quantize() here and quantize(bits=7) there",
    ),
    "the order": (
        lambda: end(clip(1.0), weight_by_capacity([1.0])),
        lambda: end(weight_by_capacity([1.0]), clip(1.0)),
        {"stages"},
        "clip(1.0), weight_by_capacity([1.0]) here and weight_by_capacity([1.0]), clip(1.0) there",
    ),
    "one more": (
        lambda: end(clip(1.0)),
        lambda: end(clip(1.0), weight_by_signal()),
        {"stages", "broadcast"},
        "The stages are nothing here and weight_by_signal() there",
    ),
    "an inner stage": (
        lambda: end(error_feedback(top_k(0.2))),
        lambda: end(error_feedback(top_k(0.2), quantize(4))),
        {"stages", "broadcast", "update", "codec"},
        "error_feedback(top_k(0.2)) here and error_feedback(top_k(0.2), quantize(bits=4)) there",
    ),
    "one less in the middle": (
        lambda: end(clip(1.0), clip(2.0), clip(2.0), clip(3.0)),
        lambda: end(clip(1.0), clip(2.0), clip(3.0)),
        {"stages", "broadcast"},
        "The stages are clip(2.0) here and nothing there",
    ),
    "bits": (lambda: end(quantize(4)), lambda: end(quantize(5)), {"stages", "update"}, "quantize(bits=4) here"),
    "down stages": (
        lambda: end(down_stages=[sign()]),
        end,
        {"down stages", "broadcast", "codec"},
        "sign() here and nothing there",
    ),
    "a down stage": (
        lambda: end(down_stages=[top_k(0.5)]),
        lambda: end(down_stages=[top_k(0.9)]),
        {"down stages", "broadcast"},
        "The down stages are top_k(0.5) here and top_k(0.9) there",
    ),
    "the rule": (
        lambda: end(rule=mean()),
        lambda: end(rule=mean("uniform")),
        {"rule"},
        "mean() here and mean(weighting='uniform') there",
    ),
    "a rule that asks": (
        lambda: end(rule=q_ffl()),
        lambda: end(rule=mean()),
        {"rule", "reports", "update"},
        "q_ffl()",
    ),
    "a part": (
        lambda: end(parts=[part("head", median())]),
        end,
        {"parts"},
        "part('head', aggregator=median()) here and nothing there",
    ),
    "the rule of a part": (
        lambda: end(parts=[part("head", median())]),
        lambda: end(parts=[part("head", mean("uniform"))]),
        {"parts"},
        "median()",
    ),
    "the optimiser of a part": (
        lambda: end(parts=[part("head", server_optimizer=fedadam())]),
        lambda: end(parts=[part("head", server_optimizer=fedadam(0.1))]),
        {"parts"},
        "fedadam(learning_rate=0.1)",
    ),
    "the period of a part": (
        lambda: end(parts=[part("head", every=2)]),
        lambda: end(parts=[part("head", every=3)]),
        {"parts"},
        "part('head', every=2) here and part('head', every=3) there",
    ),
    "the server's optimiser": (
        lambda: end(server_optimizer=fedadam()),
        lambda: end(server_optimizer=fedadam(tau=0.1)),
        {"server optimizer"},
        "fedadam() here and fedadam(tau=0.1) there",
    ),
    "an optimiser of optax": (
        lambda: end(server_optimizer=optax.adam(0.1)),
        lambda: end(server_optimizer=optax.adam(0.2)),
        {"server optimizer"},
        "<GradientTransformationExtraArgs made by chain> there, written alike, but",
    ),
    "the payload": (
        end,
        lambda: end(payload="gradient"),
        {"payload"},
        "is 'delta' here and 'gradient' there",
    ),
    "local steps": (
        end,
        lambda: end(local_steps=2),
        {"local steps"},
        "The local steps are 1 here and 2 there",
    ),
    "samples": (
        lambda: end(learner=quadratic(sgd(0.1), samples=8)),
        lambda: end(learner=quadratic(sgd(0.1), samples=9)),
        {"local steps"},
        "The local steps are 8 samples in each here and 9 samples in each there",
    ),
    "reports": (
        lambda: end(reports=["norm"]),
        lambda: end(reports=["loss"]),
        {"reports", "update"},
        "are 'norm' here and 'loss' there",
    ),
    "shapes": (
        lambda: end(learner=quadratic(sgd(0.1), size=3)),
        lambda: end(learner=quadratic(sgd(0.1), size=4)),
        {"broadcast", "update"},
        ".params['tail'] float32(1, 2) here and .params['tail'] float32(1, 3) there",
    ),
    "a memory": (
        lambda: end(learner=reinforce(cartpole(), network=gru(8))),
        lambda: end(learner=reinforce(cartpole(), network=gru(9))),
        {"broadcast", "update"},
        "float32(27,)",
    ),
    "a network": (
        lambda: end(learner=reinforce(cartpole(), network=mlp((8,)))),
        lambda: end(learner=reinforce(cartpole(), network=mlp((9,)))),
        {"broadcast", "update"},
        "['bias'] float32(9,), ",
    ),
}


@pytest.mark.parametrize(("mine", "theirs", "parts", "said"), CHANGES.values(), ids=CHANGES)
def test_a_difference_names_the_part_and_what_it_is_here_and_there(mine, theirs, parts, said):
    found = differing(mine(), theirs())
    assert set(found) == parts
    assert any(said in sentence for sentence in found.values()), found


def test_the_name_of_a_component_counts():
    found = differing(end(sign()), end(flatten()))["stages"]
    assert found.startswith("The stages are sign() here and flatten() there")


def test_the_format_of_the_codec_counts(monkeypatch):
    mine = end()
    monkeypatch.setattr(codec, "FORMAT", 2)
    assert differing(mine, end()) == {
        "codec": "The codec is format 1 here and format 2 there, which is decisive: the two ends do not speak the same "
        "wire."
    }


def test_how_a_node_travels_counts(monkeypatch):
    mine = end(error_feedback(top_k(0.5), quantize(4)))
    assert [entry.text for entry in mine.parts["codec"]][1:] == ["a format of Quantized", "a format of Sparse"]
    kind = next(kind for kind in codec.FORMATS if kind.__name__ == "Quantized")
    monkeypatch.setitem(codec.FORMATS, kind, codec.FORMATS[kind]._replace(write=lambda node, what: b""))
    assert set(differing(mine, end(error_feedback(top_k(0.5), quantize(4))))) == {"codec"}


def test_how_random_numbers_are_drawn_counts():
    mine = end()
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable):
        assert set(differing(mine, end())) == {"random numbers"}


SAME = {
    "the learner's rate": (
        lambda: end(learner=ppo(cartpole(), optimizer=adam(0.1))),
        lambda: end(learner=ppo(cartpole(), optimizer=adam(0.2))),
    ),
    "the learner's optimiser": (
        lambda: end(scaffold(0.1), learner=quadratic(chain(add_correction(), sgd(0.1)))),
        lambda: end(scaffold(0.1), learner=quadratic(chain(add_correction(), adam(0.1)))),
    ),
    "the environment": (
        lambda: end(learner=q_table(windy_cliff())),
        lambda: end(learner=q_table(windy_cliff(theta=0.9))),
    ),
    "another environment of these shapes": (
        lambda: end(learner=q_table(random_mdp(seed=0))),
        lambda: end(learner=q_table(random_mdp(seed=1))),
    ),
    "defaults": (lambda: end(quantize(), rule=mean()), lambda: end(quantize(8), rule=mean("samples"))),
    "the order of what is asked": (lambda: end(reports=["norm", "loss"]), lambda: end(reports=["loss", "norm"])),
    "who asks": (lambda: end(reports=["loss"]), lambda: end(reports=["loss", "loss"])),
    "lists and tuples": (lambda: end(download_only(["head"])), lambda: end(download_only(("head",)))),
    "an optimiser of optax": (
        lambda: end(server_optimizer=optax.adam(0.1)),
        lambda: end(server_optimizer=optax.adam(0.1)),
    ),
}


@pytest.mark.parametrize(("mine", "theirs"), SAME.values(), ids=SAME)
def test_what_sites_may_choose_does_not_count(mine, theirs):
    assert differences(mine(), theirs()) == []


def test_only_the_shapes_of_a_setting_count():
    federation, setting = federate(ppo(cartpole()), mean()), cartpole().params
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), setting)
    twice = jax.tree.map(lambda x: 2 * x, setting)
    assert wire_digest(federation, setting) == wire_digest(federation, shapes) == wire_digest(federation, twice)


@component("stage")
def mapped(function: Callable, options: dict | None = None) -> Stage:
    """A stage of the user's."""

    def encode(key, context, shared, local, update):
        return update._replace(value=jax.tree.map(function, update.value)), local

    return Stage(encode)


def scaling(factor, offset=0.0):
    return mapped(lambda x, by=offset: factor * x + by)


def test_functions_count_by_code_captured_values_and_defaults():
    same = [end(scaling(2.0)), end(scaling(2.0))]
    other = [
        end(scaling(3.0)),
        end(scaling(np.float32([2.0]))),
        end(scaling(2.0, 1.0)),
        end(mapped(lambda x: x)),
        end(mapped(lambda x: -x)),
        end(mapped(jax.numpy.tanh)),
    ]
    assert same[0].digest == same[1].digest
    digests = {each.digest for each in [same[0], *other]}
    assert len(digests) == 7
    sentence = differing(same[0], other[0])["stages"]
    assert (
        "mapped(<lambda>) here and mapped(<lambda>) there, written alike, but they differ in what is not shown"
        in sentence
    )


def test_the_order_of_keys_does_not_count():
    mine, theirs = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert end(mapped(abs, mine)).digest == end(mapped(abs, theirs)).digest
    assert end(mapped(abs, mine)).digest != end(mapped(abs, {"a": 2, "b": 1})).digest


def redefined(factor):
    @component("stage")
    def scaled_by() -> Stage:
        """A stage whose constructor captures a number."""
        return Stage(lambda key, context, shared, local, update: (update, local if factor else 0))

    return scaled_by()


def test_a_users_component_counts_by_its_constructor_too():
    assert end(redefined(1)).digest == end(redefined(1)).digest
    assert set(differing(end(redefined(1)), end(redefined(2)))) == {"stages"}
    del CATALOGUE["stage", "scaled_by"]


def test_records_without_a_call_count_by_what_they_do():
    def halved(by):
        return Stage(lambda key, context, shared, local, update: (update, local if by else 0))

    found = differing(end(halved(1)), end(halved(2)))
    assert "<Stage without a constructor call> here" in found["stages"]
    assert end(halved(1)).digest == end(halved(1)).digest
    assert set(differing(end(halved(1)), end(replace(halved(1), reweights=(0.0, 1.0))))) == {"stages"}
    federation = federate(quadratic(sgd(0.1)), mean())
    altered = replace(federation, aggregator=replace(mean(), weight_scale=lambda samples: 2 * samples))
    assert set(differing(wire_digest(federation, VALLEY), wire_digest(altered, VALLEY))) == {"rule"}


def test_a_federation_without_a_call_counts_by_the_rule_made_of_its_parts():
    def altered(rule):
        return replace(federate(quadratic(sgd(0.1)), mean(), parts=[part("head", rule)]), local_steps=1)

    one, same, other = (wire_digest(altered(rule), VALLEY) for rule in (median(), median(), mean("uniform")))
    assert differences(one, same) == []
    assert set(differing(one, other)) == {"rule", "parts"}


def test_what_can_not_be_told_is_refused_by_name():
    source = iter([1.0])
    with pytest.raises(ConfigError, match=r"'source', which .* captures, holds a builtins.list_iterator"):
        end(mapped(lambda x: x if x is not None else next(source)))


VERSION = dict.fromkeys(VERSIONS, "1.0.0")


def test_versions_are_named_apart_and_do_not_count():
    mine = replace(end(clip(1.0)), versions=VERSION)
    theirs = replace(end(clip(2.0)), versions=VERSION | {"jax": "2.0.0", "python": "3.0.1"})
    found = differences(mine, theirs)
    assert [(each.part, each.decisive) for each in found] == [("stages", True), ("jax", False), ("python", False)]
    assert found[1].sentence == "The version of jax is 1.0.0 here and 2.0.0 there, which is not decisive."
    assert replace(mine, versions=theirs.versions).digest == mine.digest


def test_another_version_of_python_is_told_where_functions_differ():
    mine, theirs = (
        replace(end(scaling(x)), versions=VERSION | {"python": v}) for x, v in ((1.0, "3.11.1"), (2.0, "3.12.0"))
    )
    assert "(functions of Python 3.11 and 3.12 can't be compared)" in differing(mine, theirs)["stages"]
    assert "Python" not in differing(mine, replace(theirs, versions=VERSION | {"python": "3.11.2"}))["stages"]


def test_versions_are_those_of_this_process():
    told = end().versions
    assert tuple(sorted(told)) == tuple(sorted(VERSIONS))
    assert told["jax"] == jax.__version__
    assert told["numpy"] == np.__version__
    assert sys.version.startswith(told["python"])


def test_long_parts_are_shown_in_short():
    found = differing(end(*[clip(float(i)) for i in range(1, 9)]), end())
    assert "clip(1.0), clip(2.0), clip(3.0), 5 more here and nothing there" in found["stages"]
    text = end(download_only(["head"] * 200)).parts["stages"][0].text
    assert len(text) == module.LONGEST
    assert text.endswith("...")


MINE = '''
"""A user's module."""
{lines}
import jax
import numpy as np
import optax
from typing import NamedTuple

import fedrl
from fedrl.aggregators import mean
from fedrl.core.component import component
from fedrl.core.stage import Stage
from fedrl.environments import cartpole
from fedrl.learners import adam, ppo
from fedrl.stages import error_feedback, lag, sign

NAMES = frozenset({{"one", "two", "three", "four", "five"}})
TABLE = {{"a": np.arange(3.0), "b": {{"x", "y", "z"}}}}

class State(NamedTuple):
    count: int

def helper(x):
    return x if x in NAMES else other(x)

def other(x):
    return helper(TABLE.get(x, {number}))

@component("stage")
def own(function, kind=State) -> Stage:
    def encode(key, context, shared, local, update):
        return update._replace(value=jax.tree.map(function, update.value)), local
    return Stage(encode, lambda params: ((), State(0 if helper("one") else 1)))

def federation():
    stages = own(lambda x: x * {number}, State), lag(error_feedback(sign()))
    return fedrl.federate(ppo(cartpole(), optimizer=adam({rate})), mean(), *stages, server_optimizer=optax.adam(0.1))
'''
PROGRAM = """
import json, sys
sys.path.insert(0, ".")
from {name} import federation
from fedrl.federation.wire_digest import as_json, wire_digest
made = federation()
print(json.dumps(as_json(wire_digest(made, made.learner.environment.params))))
"""


def elsewhere(folder: Path, name: str, seed: str, lines: int = 0, number: float = 2.0, rate: float = 0.1) -> WireDigest:
    """What another process says, which has a folder, a hash seed and a module of its own."""
    folder.mkdir()
    (folder / f"{name}.py").write_text(MINE.format(lines="\n" * lines, number=number, rate=rate))
    paths = [str(Path(fedrl.__file__).parent.parent), *sys.path]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(name=name)],
        cwd=folder,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return from_json(json.loads(ran.stdout))


def test_another_process_in_another_folder_says_the_same(tmp_path):
    one = elsewhere(tmp_path / "a", "mine", "1")
    other = elsewhere(tmp_path / "b", "yours", "2", lines=7, rate=0.2)
    third = elsewhere(tmp_path / "c", "mine", "3", number=3.0)
    assert differences(one, other) == []
    assert set(differing(one, third)) == {"stages"}
    made = runpy.run_path(str(tmp_path / "a" / "mine.py"))["federation"]()  # where every function checks its types
    assert differences(one, wire_digest(made, made.learner.environment.params)) == []
    del CATALOGUE["stage", "own"]


def test_a_digest_travels_as_json():
    mine = end(error_feedback(top_k(0.5), quantize(4)), rule=q_ffl(), parts=[part("head", every=1)])
    back = from_json(json.loads(json.dumps(as_json(mine))))
    assert back == mine
    assert back.digest == mine.digest


def test_every_text_can_be_printed_on_a_line():
    def strange(text):
        return end(mapped(abs, {"a": text}))

    texts = [entry.text for part in strange("\x1b[31m\u202e\n\x00" + "é" * 400).parts.values() for entry in part]
    assert all(text.isprintable() and len(text) <= module.LONGEST for text in texts)
    assert "\x1b" not in str(differences(strange("\x1b"), strange("\x1b\x1b")))


def changed(*path, to) -> dict:
    """A proper digest, with something in it replaced."""
    data = json.loads(json.dumps(as_json(GOOD)))
    at = data
    for step in path[:-1]:
        at = at[step]
    if to is REMOVED:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return data


GOOD = end(clip(1.0))
REMOVED = object()
NESTED: list = []
for _ in range(500):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "is of type NoneType, and should be a table"),
        ([], "is of type list"),
        ("{}", "is of type str"),
        ({}, "has the entries none, and should have format, parts, versions"),
        ({1: 2}, "has the entries int"),
        (changed("more", to=1), "has the entries format, more, parts, versions"),
        (changed("format", to=2), "The format of the digest is 2, and should be 1"),
        (changed("format", to=True), "is of type bool"),
        (changed("format", to=1.0), "is of type float"),
        (changed("format", to=10**5000), "The format of the digest is of type int"),
        (changed("parts", to=[]), "The parts of the digest is of type list"),
        (changed("parts", "stages", to=REMOVED), "should have stages, down stages"),
        (changed("parts", "\x1b[2J" + "x" * 5000, to=[]), r"has the entries \?\[2Jxxx"),
        (changed("parts", "stages", to=None), "The part 'stages' of the digest is of type NoneType"),
        (changed("parts", "stages", to={"a": 1}), "is of type dict, and should be a list"),
        (changed("parts", "stages", to=[["x", "0" * 64]] * 10_001), "at most 10000 entries"),
        (changed("parts", "stages", 0, to="xy"), "An entry of the part 'stages' is of type str"),
        (changed("parts", "stages", 0, to=["x"]), "should be a text and a digest"),
        (changed("parts", "stages", 0, to=NESTED), "should be a text and a digest"),
        (changed("parts", "stages", 0, 1, to="0" * 63), "A digest in the part 'stages' is of type str"),
        (changed("parts", "stages", 0, 1, to="G" * 64), "64 hexadecimal digits"),
        (changed("parts", "stages", 0, 1, to="0" * 64 + "\n"), "64 hexadecimal digits"),
        (changed("parts", "stages", 0, 1, to=0), "is 0, and should be 64"),
        (changed("parts", "stages", 0, 0, to="x" * 301), "A text in the part 'stages' is of type str"),
        (changed("parts", "stages", 0, 0, to="a\nb"), "that can be printed"),
        (changed("parts", "stages", 0, 0, to="\x1b[31m"), "that can be printed"),
        (changed("parts", "stages", 0, 0, to="\u202eabc"), "that can be printed"),
        (changed("parts", "stages", 0, 0, to=["x"]), "is of type list"),
        (changed("versions", to={}), "The versions in the digest has the entries none"),
        (changed("versions", "jax", to=3), "The version of jax is 3"),
        (changed("versions", "jax", to="\n"), "that can be printed"),
    ],
)
def test_what_no_other_end_would_send_is_refused(data, says):
    with pytest.raises(WireError, match=says) as caught:
        from_json(data)
    assert len(str(caught.value)) < 900
    assert str(caught.value).isprintable()


odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(odd, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))
PLACES = [("format",), ("parts",), ("versions",), ("parts", "rule"), ("parts", "rule", 0), ("parts", "rule", 0, 0)]


@given(st.sampled_from(PLACES), anything)
def test_whatever_is_sent_is_read_or_refused(path, value):
    data = changed(*path, to=value)
    try:
        read = from_json(data)
    except WireError:
        return
    assert as_json(read) == data
    assert all(each.sentence.isprintable() for each in differences(GOOD, read))
